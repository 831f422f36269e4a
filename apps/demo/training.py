"""What several stages of the demo run: training, and the preparation of its data."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tttvideo.apps.commands import invoke


def fit(
    config: str,
    out: Path,
    steps: int,
    options: Sequence[str],
    checks: int = 1,
    patience: int | None = None,
) -> None:
    """Train anew by a packaged config, with a number of validations.

    patience: stop after so many without a better one.
    """
    shutil.rmtree(out, ignore_errors=True)
    trainer = ["--trainer.max_steps", str(steps), "--trainer.devices", "1"]
    trainer += ["--trainer.val_check_interval", str(-(-steps // checks))]
    if patience:
        trainer += ["--model.optim.patience", str(patience)]
    invoke("fit", ["--config", config, "--out", str(out), *options, *trainer])


def prepare_video(arguments: Sequence[str], out: Path) -> None:
    """Prepare a corpus anew, in `out`."""
    shutil.rmtree(out, ignore_errors=True)
    invoke("prepare video", [*arguments, "--out", str(out)])
