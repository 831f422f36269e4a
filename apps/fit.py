"""The program of `tttvideo fit | validate | test`: LightningCLI, for text, video and frames.

A run writes below --out: last.ckpt, logs/version_N with metrics.csv and config.yaml, and samples/.
"""

import argparse
import logging
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jsonargparse import set_parsing_settings
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tttvideo.apps.show.training_console import TrainingConsole
from tttvideo.apps.show.training_memory import TrainingMemory
from tttvideo.apps.show.training_samples import Samples
from tttvideo.files import replacing


LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "tttvideo")
NOISE = (
    ".*does not have many workers.*",  # windows are memory maps
    ".*args parameter is intended to run from within Python.*",
    ".*in eval mode at the start of training.*",  # a frozen frame tokenizer
    ".*smaller than the logging interval.*",  # small data
    ".*isinstance.treespec, LeafSpec.*",
)
"""Warnings of Lightning that need no action."""


def run(options: argparse.Namespace) -> None:
    """Fit, validate or test. Raises ValueError for a config that does not work."""
    help_asked = any(word.partition("=")[0].endswith(".help") for word in options.arguments)
    set_parsing_settings(docstring_parse_attribute_docstrings=help_asked)  # it takes a second
    torch.set_flush_denormal(True)  # a CPU takes a hundred times longer over numbers below 1e-38
    try:
        with messages(options.quiet, options.verbose):
            FitCLI(options)
    except (argparse.ArgumentError, MisconfigurationException) as error:
        raise ValueError(textwrap.shorten(str(error), 300)) from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise ValueError(
            "the checkpoint in --out is of another model than the config; choose another --out"
        ) from error


@contextmanager
def messages(quiet: bool, verbose: bool) -> Iterator[None]:
    """Print messages of other packages only if verbose, and no warnings of NOISE."""
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    root = logging.getLogger("lightning")  # it has a handler, and would print twice
    with warnings.catch_warnings():
        for message in [".*"] if quiet else [] if verbose else NOISE:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.setLevel(level)
        root.propagate = False
        try:
            yield
        finally:
            root.propagate = True
            for logger, old in zip(loggers, before, strict=True):
                logger.setLevel(old)


class FitCLI(LightningCLI):
    """LightningCLI with --out, --wandb and --save_every; it resumes a run that stopped."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"use_distributed_sampler": False},
            parser_kwargs={"exit_on_error": False},
            args=[options.command, *options.arguments],
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.header", "model.init_args.header", apply_on="instantiate")
        parser.add_argument("--out", default="out/run")
        parser.add_argument("--wandb", choices=["off", "online", "offline"], default="off")
        parser.add_argument("--save_every", type=int, default=200)

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; errors of their constructors are not wrapped."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            wrapped = str(error).startswith("Does not validate against any of the Union subtypes")
            raise (error.__cause__ if wrapped and error.__cause__ else error) from None

    def instantiate_trainer(self, **changes: Any) -> Trainer:
        config, out = self.own, self.last.parent
        loggers: list[Logger] = [CSVLogger(out, name="logs")]
        if config.wandb != "off":
            out.mkdir(parents=True, exist_ok=True)
            offline = config.wandb == "offline"
            loggers += [WandbLogger(save_dir=out, project="tttvideo", offline=offline)]
        bar = config.trainer.enable_progress_bar is not False
        self.console = TrainingConsole(self.last, bar, self.options.quiet)
        if config.trainer.enable_model_summary is None:
            changes["enable_model_summary"] = self.options.verbose
        memory = TrainingMemory(self.console.print)
        samples = Samples(out / "samples")
        callbacks = [SaveLast(self.last, config.save_every), samples, self.console, memory]
        callbacks += config.trainer.callbacks or []
        return super().instantiate_trainer(
            default_root_dir=out,
            logger=loggers,
            callbacks=callbacks,
            enable_progress_bar=False,  # Lightning's; the console has its own
            **changes,
        )

    def after_fit(self) -> None:
        self.console.finish(self.trainer)

    def before_validate(self) -> None:
        self.own.verbose = False  # the console prints the values
        self.before_fit()

    before_test = before_validate

    @property
    def own(self) -> Any:
        """The config of the subcommand, with instances in place of classes."""
        return self.config_init[self.subcommand]

    @property
    def last(self) -> Path:
        return Path(self.own.out) / "last.ckpt"

    def before_fit(self) -> None:
        """Use the last checkpoint of this run, unless --ckpt_path names another."""
        if self.own.ckpt_path is None and self.last.is_file():
            self.console.print(f"resuming from {self.last}")
            self.own.ckpt_path = str(self.last)


class SaveLast(Checkpoint):
    """Keep one checkpoint, of the last step that is a multiple of `every`, and of the end.

    Where a validation follows the step, the checkpoint is made after it, with what it measured: a
    run that is killed in a validation makes it again, and one that is killed later does not.
    """

    def __init__(self, path: Path, every: int):
        self.path, self.every, self.saved, self.waiting = path, every, 0, False

    def save(self, trainer: Trainer) -> None:
        """In every process, as Lightning requires; the first renames the file."""
        self.waiting = False
        if trainer.global_step == self.saved:
            return
        self.saved = trainer.global_step
        for logger in trainer.loggers:
            logger.save()  # a run that resumes here does not log these steps again
        first = trainer.is_global_zero
        with replacing(self.path) if first else nullcontext(self.path) as partial:
            trainer.save_checkpoint(partial)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.waiting |= trainer.global_step % self.every == 0
        if self.waiting and not validation_follows(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if self.waiting:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self.saved = 0  # early stopping has gone back to the best weights
        self.save(trainer)


def validation_follows(trainer: Trainer) -> bool:
    """Whether there is a validation between this batch and the next."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    assert fetcher is not None
    if not loop._should_check_val_fx(fetcher):
        return False
    loop.val_loop.setup_data()
    return not loop.val_loop.skip
