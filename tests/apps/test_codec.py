"""`tttvideo compress`, `decompress` and `evaluate codec` on tiny models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tttvideo.apps.cli import main
from tttvideo.data.tokens import open_tokens
from tttvideo.data.video.reader import VideoReader
from tttvideo.weights.video_checkpoints import load_video_model


SMALL = ["--model.frame_model.width=16", "--model.frame_model.heads=2"]
SMALL += ["--model.frame_model.mlp_width=24", "--trainer.enable_progress_bar=false"]
SMALL += ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.holdout=0.3"]


def run(line):
    main(line.split())


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with pan/, the tokens of worlds; clips/, the same kind as videos; and two models."""
    folder = tmp_path_factory.mktemp("codec")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(
            [
                "prepare",
                "pan",
                "--worlds",
                "5",
                "--frames",
                "16",
                "--size",
                "5",
                "--view",
                "2",
                "--out",
                "pan",
            ]
        )
        main(
            [
                "prepare",
                "drawn",
                "pan",
                "--videos",
                "2",
                "--held-out",
                "1",
                "--frames",
                "16",
                "--size",
                "16",
                "--out",
                "clips",
            ]
        )
        for seed, name in enumerate(("model", "other")):
            data = ["--data.train=pan/tokens.bin", "--data.window=16", "--data.batch_size=2"]
            data += ["--model.frame_tokenizer=pan/palette.ckpt", f"--seed_everything={seed}"]
            main(["fit", "--config", "video_pan", *data, *SMALL, "--out", name])
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def inside(work, monkeypatch):
    monkeypatch.chdir(work)


def refusal(line):
    with pytest.raises(SystemExit) as stopped:
        run(line)
    assert "\n" not in str(stopped.value)
    return str(stopped.value)


def test_a_token_file_comes_back(capsys):
    run("compress model/last.ckpt pan/tokens.bin --out a.code")
    assert "a.code: 80 frames; tokens " in capsys.readouterr().out
    run("decompress model/last.ckpt a.code --out a.bin")
    before, after = open_tokens("pan/tokens.bin"), open_tokens("a.bin")
    assert np.array_equal(before.tokens[:], after.tokens[:])
    assert before.starts.tolist() == after.starts.tolist()
    assert after.header.tokenizer == before.header.tokenizer and after.header.fps == 10
    assert "holds 5 videos; --out a token file" in refusal(
        "decompress model/last.ckpt a.code --out a.mp4"
    )
    assert "a.code: the code was made by the model" in refusal(
        "decompress other/last.ckpt a.code --out b.bin"
    )
    assert not Path("b.bin").exists()


@pytest.mark.parametrize("suffix", ["mp4", "npy"])
def test_a_video_comes_back_as_its_tokens_show_it(suffix):
    clip = "clips/held_out/00000.mp4"
    run(f"compress model/last.ckpt {clip} --out clip.code")
    run(f"decompress model/last.ckpt clip.code --out clip.{suffix}")
    frames = np.stack([frame.image for frame in VideoReader(clip, 16)])
    tokenizer = load_video_model("model/last.ckpt").frame_tokenizer
    shown = tokenizer.decode(tokenizer.encode(torch.from_numpy(frames))).numpy()
    if suffix == "npy":
        assert np.array_equal(np.load("clip.npy"), shown)
    else:
        found = np.stack([frame.image for frame in VideoReader("clip.mp4", 16)])
        assert found.shape == shown.shape and np.abs(found.astype(int) - shown).mean() < 20


def test_tokens_of_another_frame_tokenizer_are_refused():
    main(
        [
            "prepare",
            "pan",
            "--worlds",
            "1",
            "--frames",
            "9",
            "--view",
            "2",
            "--colours",
            "5",
            "--out",
            "five",
        ]
    )
    message = refusal("compress model/last.ckpt five/tokens.bin --out five.code")
    assert "and the model reads those of the frame tokenizer" in message
    assert not Path("five.code").exists()


def test_a_codec_is_measured_once_and_beside_others(capsys):
    for name, checkpoint in (("a", "model"), ("b", "other")):
        line = f"evaluate codec {name}={checkpoint}/last.ckpt pan/tokens.bin --out codec"
        run(line)
    record = json.loads(Path("codec/codec.json").read_text())
    assert [row["name"] for row in record["rows"]] == ["a", "b"]
    for row in record["rows"]:
        bits = row["bits"]
        assert bits["equal"] == 5 * 16 * 4 * 3 and row["reset_frames"] == 10
        assert bits["stated"] <= bits["code"] < bits["stated"] + 9
        assert row["bytes"]["conditions"] and row["videos"] == 5
    page = Path("codec/codec.md").read_text()
    assert "| model, bytes of its code" in page and "b: 5 videos, 80 frames" in page
    assert Path("codec/codec.png").stat().st_size
    run(line)
    assert json.loads(Path("codec/codec.json").read_text())["rows"] == record["rows"]
    message = refusal("evaluate codec a=other/last.ckpt pan/tokens.bin --out codec")
    assert "has a row a of another model or other videos" in message
