"""`tttvideo fit | validate | test`: LightningCLI, for text, video and frames alike.

What a run writes lies below --out: last.ckpt, logs/version_N with metrics.csv and config.yaml, and
samples/. A run that is started again goes on from last.ckpt.
"""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from .samples import Samples


CONFIGS = Path(__file__).parent.parent / "configs"


def main(arguments: list[str]) -> None:
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # windows are memory maps
    warnings.filterwarnings("ignore", ".*args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # frozen
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # small data
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
    torch.set_flush_denormal(True)  # a CPU takes a hundred times longer over numbers below 1e-38
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
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


def find_configs(arguments: list[str]) -> list[str]:
    """The arguments, with names of packaged configs replaced by their files."""
    found = list(arguments)
    for i, argument in enumerate(found[:-1]):
        if argument == "--config":
            found[i + 1] = str(find_config(found[i + 1]))
    return found


def find_config(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    packaged = CONFIGS / f"{name}.yaml"
    if not packaged.is_file():
        names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
        raise ValueError(f"there is no config file {name}, and no packaged one ({names})")
    return packaged


class Command(LightningCLI):
    """LightningCLI with --out, --wandb and --save_every, that goes on where a run stopped."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", default="out/run", help="folder of all that the run writes")
        parser.add_argument(
            "--wandb", choices=["off", "online", "offline"], default="off", help="log to wandb too"
        )
        parser.add_argument("--save_every", type=int, default=200, help="steps between checkpoints")

    def instantiate_trainer(self, **changes: Any) -> Trainer:
        config = self.config[self.subcommand]
        out = Path(config.out)
        loggers = [CSVLogger(out, name="logs")]
        if config.wandb != "off":
            out.mkdir(parents=True, exist_ok=True)
            offline = config.wandb == "offline"
            loggers.append(WandbLogger(save_dir=out, project="tttvideo", offline=offline))
        callbacks = [SaveLast(out / "last.ckpt", config.save_every), Samples(out / "samples")]
        return super().instantiate_trainer(
            default_root_dir=out, logger=loggers, callbacks=callbacks, **changes
        )

    def before_fit(self) -> None:
        self.resume()

    def before_validate(self) -> None:
        self.resume()

    def before_test(self) -> None:
        self.resume()

    def resume(self) -> None:
        """Unless told of a checkpoint, use the one that this run left behind."""
        config = self.config_init[self.subcommand]
        last = Path(config.out) / "last.ckpt"
        if config.ckpt_path is None and last.is_file():
            print(f"going on from {last}", file=sys.stderr)
            config.ckpt_path = str(last)


class SaveLast(Checkpoint):
    """Keep one checkpoint, of the last step that is a multiple of `every`, and of the end."""

    def __init__(self, path: Path, every: int):
        self.path, self.every, self.saved = path, every, -1

    def save(self, trainer: Trainer) -> None:
        if trainer.global_step != self.saved:
            self.saved = trainer.global_step
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self.save(trainer)
