"""`tttvideo fit | validate | test`: LightningCLI, for text, video and frames alike.

What a run writes lies below --out: last.ckpt, logs/version_N with metrics.csv and config.yaml, and
samples/. A run that is started again goes on from last.ckpt.
"""

import logging
import os
import sys
import warnings
from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tttvideo.apps.show.training_samples import Samples


CONFIGS = Path(__file__).parent.parent / "configs"


def main(arguments: list[str]) -> None:
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # windows are memory maps
    warnings.filterwarnings("ignore", ".*args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # frozen
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # small data
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
    torch.set_flush_denormal(True)  # a CPU takes a hundred times longer over numbers below 1e-38
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        Command(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"use_distributed_sampler": False},
            args=find_configs(arguments),
        )
    except MisconfigurationException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise ValueError(
            "the checkpoint in --out is of another model than the config; choose another --out"
        ) from error


def fit(options: Namespace) -> None:
    main(["fit", *options.arguments])


def validate(options: Namespace) -> None:
    main(["validate", *options.arguments])


def test(options: Namespace) -> None:
    main(["test", *options.arguments])


def find_configs(arguments: list[str]) -> list[str]:
    """The arguments, with names of packaged configs replaced by their files."""
    told = ("--config", "-c", "--help", "-h", "--model")
    if not any(argument.startswith(told) for argument in arguments[1:]):
        raise ValueError(f"say --config FILE, or one of {packaged_names()}")
    found, paths = [arguments[0]], []
    for before, argument in pairwise(arguments):
        if before in ("--config", "-c"):
            paths.append(find_config(argument))
            argument = str(paths[-1])
        elif argument.startswith("--config="):
            paths.append(find_config(argument.removeprefix("--config=")))
            argument = f"--config={paths[-1]}"
        found.append(argument)
    if paths and paths[0].parent.parent == CONFIGS:
        name = f"{paths[0].parent.name}/{paths[0].stem}"
        raise ValueError(
            f"{name} changes a config: say first which, --config text_tiny for instance"
        )
    return found


def find_config(name: str) -> Path:
    """A file, or a packaged config or layer by its name, for instance text_tiny or context/8k."""
    if Path(name).is_file():
        return Path(name)
    packaged = CONFIGS / f"{name}.yaml"
    if not packaged.is_file():
        names = packaged_names(name.rpartition("/")[0])
        raise ValueError(f"there is no config file {name}, and no packaged one ({names})")
    return packaged


def packaged_names(folder: str = "") -> str:
    """The layers that are packaged in a folder; if it is none of theirs, configs and folders."""
    folders = sorted({path.parent.name for path in CONFIGS.glob("*/*.yaml")})
    if folder in folders:
        return ", ".join(f"{folder}/{name}" for name in stems(CONFIGS / folder))
    layers = ", ".join(f"{name}/" for name in folders)
    return f"{', '.join(stems(CONFIGS))}; and layers to put on top, in {layers}"


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


class Command(LightningCLI):
    """LightningCLI with --out, --wandb and --save_every, that goes on where a run stopped."""

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        parser = super().init_parser(**options)
        for action in parser._actions:
            if action.dest == "config":
                action.help = (
                    "YAML file, or name of a packaged one; of several, each changes what it names "
                    f"in those before: {packaged_names()}"
                )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", default="out/run", help="folder of all that the run writes")
        parser.add_argument(
            "--wandb", choices=["off", "online", "offline"], default="off", help="log to wandb too"
        )
        parser.add_argument("--save_every", type=int, default=200, help="steps between checkpoints")

    def instantiate_trainer(self, **changes: Any) -> Trainer:
        config = self.config[self.subcommand]
        for name, instead in (("logger", "--wandb"), ("default_root_dir", "--out")):
            if config.trainer[name] is not None:
                raise ValueError(f"trainer.{name} is not used here; say {instead} instead")
        out = Path(config.out)
        loggers = [CSVLogger(out, name="logs")]
        if config.wandb != "off":
            out.mkdir(parents=True, exist_ok=True)
            offline = config.wandb == "offline"
            loggers.append(WandbLogger(save_dir=out, project="tttvideo", offline=offline))
        callbacks = [SaveLast(out / "last.ckpt", config.save_every), Samples(out / "samples")]
        callbacks += self.config_init[self.subcommand].trainer.callbacks or []
        return super().instantiate_trainer(
            default_root_dir=out, logger=loggers, callbacks=callbacks, **changes
        )

    def before_fit(self) -> None:
        self.resume()

    def after_fit(self) -> None:
        rank_zero_only(print)(f"{self.last} holds step {self.trainer.global_step}", file=sys.stderr)

    def before_validate(self) -> None:
        if not self.resume():
            raise ValueError(f"there is no {self.last}; say --out of a run, or --ckpt_path")

    before_test = before_validate

    @property
    def last(self) -> Path:
        return Path(self.config_init[self.subcommand].out) / "last.ckpt"

    def resume(self) -> bool:
        """Unless told of a checkpoint, use the one that this run left behind; is there any?"""
        config = self.config_init[self.subcommand]
        if config.ckpt_path is None and self.last.is_file():
            rank_zero_only(print)(f"using {self.last}", file=sys.stderr)
            config.ckpt_path = str(self.last)
        return config.ckpt_path is not None


class SaveLast(Checkpoint):
    """Keep one checkpoint, of the last step that is a multiple of `every`, and of the end."""

    def __init__(self, path: Path, every: int):
        if every < 1:
            raise ValueError(f"--save_every {every} must be 1 or more")
        self.path, self.every, self.saved = path, every, 0

    def save(self, trainer: Trainer) -> None:
        """Under a temporary name in the same folder first: a kill must not cost the run."""
        if trainer.global_step != self.saved:
            self.saved = trainer.global_step
            partial = self.path.with_suffix(".partial")
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                os.replace(partial, self.path)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self.save(trainer)
