"""Laws of training in several processes: lanes are shared out, and a resumed run is the same."""

import csv
import json
from pathlib import Path

import numpy as np

from helpers.processes import run_code
from tttvideo.apps.cli import main


LENGTHS = 5, 40, 8, 8, 30, 3, 21, 60, 11, 9, 9, 2  # windows of the videos

LANES = """
import json, sys
import numpy as np
from helpers.ranks import in_processes
from tttvideo.data.order import ResumableLoader, VideoWindows

lengths = json.loads(sys.argv[1])

def loader(world):
    frames = np.array(lengths) + 1
    starts = np.cumsum([0, *frames[:-1]])
    windows = VideoWindows(np.arange(frames.sum()), 1, 1, starts)
    return ResumableLoader(windows, batch_size=4 // world, share_fresh=0.0)

def rows(batch):
    own, everyone = batch.rows.tolist()
    read = zip(batch.tokens[:, 0].tolist(), batch.fresh.tolist())
    return [*read][:own], everyone

def work(world):
    def read(rank):
        whole, cut, resumed = loader(world), loader(world), loader(world)
        steps = [rows(batch) for batch in whole]
        first = [rows(batch) for batch, _ in zip(cut, range(25))]
        cut.delivered = 25
        resumed.load_state_dict(cut.state_dict())
        return steps, first + [rows(batch) for batch in resumed] == steps
    return read

print(json.dumps([in_processes(world, work(world)) for world in (1, 2, 4)]))
"""

KILLED = """
import json, sys
from tttvideo.apps import fit
from tttvideo.apps.cli import main

arguments = json.loads(sys.argv[1])
main([*arguments, "--out", "whole"])
save = fit.SaveLast.on_train_batch_end

def save_then_kill(self, trainer, *rest):
    save(self, trainer, *rest)
    if trainer.global_step == 17:
        raise RuntimeError("killed")

fit.SaveLast.on_train_batch_end = save_then_kill
try:
    main([*arguments, "--out", "cut"])
except Exception as error:
    assert "killed" in str(error)
    print("killed")
fit.SaveLast.on_train_batch_end = save
main([*arguments, "--out", "cut"])
main([*arguments, "--trainer.strategy=auto", "--trainer.devices=1", "--out", "cut"])
"""


def lanes_of(steps, lanes):
    """What each lane of a process reads: one list of (first token, fresh) a lane."""
    return [[rows[lane] for rows, _ in steps if lane < len(rows)] for lane in range(lanes)]


def test_one_two_and_four_processes_read_every_video_once_from_its_start(tmp_path):
    done = run_code(LANES, tmp_path, json.dumps(LENGTHS))
    assert not done.returncode, done.stderr
    starts = np.cumsum([0, *(np.array(LENGTHS[:-1]) + 1)]).tolist()
    runs = {begin: [*range(begin, begin + n)] for begin, n in zip(starts, LENGTHS, strict=True)}
    found = []
    for ranks in json.loads(done.stdout):
        assert all(same for _, same in ranks)
        assert len({len(steps) for steps, _ in ranks}) == 1
        for step in zip(*(steps for steps, _ in ranks), strict=True):
            assert {everyone for _, everyone in step} == {sum(len(rows) for rows, _ in step)}
        lanes = [lane for steps, _ in ranks for lane in lanes_of(steps, 4 // len(ranks))]
        assert sorted(token for lane in lanes for token, _ in lane) == sorted(
            sum(runs.values(), [])
        )
        for lane in lanes:
            begins = [token for token, fresh in lane if fresh]
            assert [token for token, _ in lane] == sum((runs[begin] for begin in begins), [])
        found.append(sorted(lanes))
    assert found[0] == found[1] == found[2]


def losses(folder):
    """The training losses by step; of a repeated step, the last."""
    found = {}
    for path in sorted(Path(folder).glob("logs/*/metrics.csv")):
        for row in csv.DictReader(path.read_text().splitlines()):
            if row["train_loss"]:
                found[row["step"]] = row["train_loss"]
    return found


def test_two_processes_that_were_killed_in_lanes_have_the_same_losses_again(tmp_path):
    (tmp_path / "a.txt").write_text("It was the best of times, it was the worst of times. " * 60)
    main(["prepare", "text", str(tmp_path / "a.txt"), "--out", str(tmp_path / "corpus")])
    arguments = ["fit", "--config", "text_tiny", "--data.train=corpus/train", "--data.window=64"]
    arguments += ["--data.lanes=true", "--data.batch_size=2", "--save_every=5"]
    arguments += [f"--model.backbone.{key}" for key in ("width=16", "depth=1", "heads=2")]
    arguments += ["--model.backbone.mlp_width=24", "--trainer.accelerator=cpu"]
    arguments += ["--trainer.devices=2", "--trainer.strategy=ddp_fork", "--trainer.max_steps=30"]
    arguments += ["--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"]
    arguments += ["--trainer.val_check_interval=13", "--trainer.limit_val_batches=1"]
    done = run_code(KILLED, tmp_path, json.dumps(arguments))
    assert "killed" in done.stdout, done.stderr
    whole, cut = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert len(list(tmp_path.glob("cut/logs/*/metrics.csv"))) == 2
    assert len(cut) == len(whole) == 30 and cut == whole
    refusal = done.stderr.splitlines()[-1]
    assert "has 2 processes, and there are 1; set trainer.devices to as many" in refusal
