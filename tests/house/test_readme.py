"""Every command and every line of Python in the README runs."""

import re
import shlex
from pathlib import Path

import pytest

from helpers.demos import small_demo
from helpers.exported import export_bytes
from tttvideo.apps.cli import main
from tttvideo.data.video.drawn import bouncing_glyphs
from tttvideo.data.video.writer import write_video
from tttvideo.measures import verify


README = (Path(__file__).parents[2] / "README.md").read_text()
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SHORT = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", *QUIET]
TINY = ["--tokens", "32", "--heads", "1", "--head-dim", "16", "--repeats", "3"]
COMPARE = ["--tokens", "1024", "--window", "16", "--length", "512", "--seconds", "3"]
COMPARE += ["--seeds", "0", "--jobs", "1", "--documents", "1", "--rates", "0.003"]
FEW = ["worlds=20", "new_worlds=2", "pan_steps=2", "clips=4", "held_out=1"]
FEW += ["tokenizer_steps=2", "steps=2"]
FACTS = ["--seconds", "0.5", "--seeds", "0", "--length", "96", "--samples", "1"]
CAPACITY = ["--seconds", "0.5", "--seeds", "0", "--sizes", "4", "6", "--worlds", "2"]
SMALLER = {
    "demo": ["--steps", "2", "2", "2"],
    "reproduce codec": ["--out", "out/small_codec", "--set", *FEW],
    "fit": SHORT,
    "bench": TINY,
    "compare": [*COMPARE, "--mixers", "attention"],
    "verify": ["--frames", "60"],
    "prepare recall": ["--size", "300000"],
    "prepare pan": ["--worlds", "20"],
    "evaluate capacity": [*CAPACITY, "--memories", "ttt_linear", "window"],
    "evaluate facts": [*FACTS, "--mixers", "ttt_linear"],
    "evaluate video": ["--horizon", "4", "--samples", "1", "--perceived", "0"],
    "evaluate recall": ["--lengths", "256", "--depths", "2", "--samples", "1"],
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_their_order(tmp_path, monkeypatch, capsys):
    """With fewer steps and a shorter drawn video; `./run test` is what runs this."""
    monkeypatch.chdir(tmp_path)
    small_demo(monkeypatch)
    monkeypatch.setattr(verify, "SLOWER", 9.0)  # of fifteen frames, on a busy machine
    Path("clips").mkdir()
    for path in ("clip.mp4", "clips/a.mp4"):
        write_video(Path(path), bouncing_glyphs(120), 30)
    Path("books").mkdir()
    for name in "abcdef":
        Path(f"books/{name}.txt").write_text(f"It was the best of times, wrote {name}. " * 800)
    lines = "".join(blocks("console")).strip().splitlines()
    assert len(lines) == 32
    for line in lines:
        run, command, *arguments = shlex.split(line)
        assert run == "./run"
        if command != "test":
            kind = f"{command} {arguments[0]}" if arguments else command
            smaller = SMALLER.get(kind, SMALLER.get(command, []))
            main([command, *arguments, *smaller])
    assert Path("out/clip/compare.mp4").is_file()
    assert Path("out/small_codec/codec/codec.png").is_file()
    for name in ("evaluation/by_index.png", "compare/fixed_targets.png", "recall_maps/recall.md"):
        assert Path("out", name).is_file()
    assert "It was " in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft's use of it
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set")  # Trainer's, without a GPU
@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_of_the_readme_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    export_bytes("ttt-linear", tmp_path).rename("out/text_tiny_hf")
    assert len(code.splitlines()) <= 30
    exec(code, {})


def test_the_files_that_the_readme_shows_are_there():
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (root / target).is_file(), target
