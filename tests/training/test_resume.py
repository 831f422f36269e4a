"""Laws of a run that was killed and resumes: what it measures is the same, and is logged once."""

import csv
import json

import pytest

from helpers.processes import run_code
from tttvideo.apps.cli import main


KILLED = """
import json, os, signal, sys
from tttvideo.apps.cli import main
from tttvideo.training import TokenModel

arguments, place, at, batch = json.loads(sys.argv[1])
process = os.fork()
if not process:
    step = getattr(TokenModel, place)

    def killed(self, tokens, batch_idx, *rest):
        if self.global_step == at and (batch is None or batch_idx == batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, tokens, batch_idx, *rest)

    setattr(TokenModel, place, killed)
    main([*arguments, "--out", "cut"])
assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
for out in ("cut", "whole"):
    main([*arguments, "--out", out])
"""


def logged(folder, name):
    """(step, value) of each row with this value, in the order in which it was written."""
    files = sorted(folder.glob("logs/*/metrics.csv"))
    rows = [row for file in files for row in csv.DictReader(file.read_text().splitlines())]
    return [(row["step"], row[name]) for row in rows if row[name]]


@pytest.mark.parametrize(
    "place, step, batch",
    [("validation_step", 10, 1), ("training_step", 11, None)],
    ids=["in a validation", "after a validation"],
)
def test_a_killed_run_has_every_validation_once_with_the_same_values(tmp_path, place, step, batch):
    (tmp_path / "a.txt").write_text("It was the best of times, it was the worst of times. " * 60)
    main(["prepare", "text", str(tmp_path / "a.txt"), "--out", str(tmp_path / "corpus")])
    arguments = ["fit", "--config", "text_tiny", "--data.train=corpus/train", "--data.window=32"]
    arguments += ["--data.batch_size=2", "--save_every=5", "--trainer.accelerator=cpu"]
    arguments += [f"--model.backbone.{key}" for key in ("width=16", "depth=1", "heads=2")]
    arguments += ["--model.backbone.mlp_width=24", "--trainer.max_steps=15"]
    arguments += ["--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"]
    arguments += ["--trainer.val_check_interval=5", "--trainer.limit_val_batches=2"]
    done = run_code(KILLED, tmp_path, json.dumps([arguments, place, step, batch]))
    assert not done.returncode, done.stderr
    assert "resuming from" in done.stderr
    whole = logged(tmp_path / "whole", "val_loss")
    assert len(whole) == 3 and logged(tmp_path / "cut", "val_loss") == whole
    assert dict(logged(tmp_path / "cut", "train_loss")) == dict(
        logged(tmp_path / "whole", "train_loss")
    )
