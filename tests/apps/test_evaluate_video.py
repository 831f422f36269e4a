"""Laws of `evaluate video`: seeds are one model, measured once; controls are on the page."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.models import save_video, small_video
from tttvideo.apps.cli import main
from tttvideo.data.video.conditions import write_conditions
from tttvideo.data.video.writer import write_video
from tttvideo.measures.continuations import Measurement
from tttvideo.video.conditions import ConditionsConfig


SHORT = ["--context=3", "--horizon=4", "--samples=2", "--perceived=0", "--out=out"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Drawn clips, and two seeds of one model beside another model."""
    folder = tmp_path_factory.mktemp("evaluate_video")
    clips = ["--out", str(folder / "clips"), "--videos", "1", "--held-out", "3"]
    main(["prepare", "drawn", "glyphs", *clips, "--frames", "9", "--size", "24"])
    for seed, name in enumerate(("a0", "a1", "b")):
        save_video(small_video(24, seed), folder / name / "last.ckpt")
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def evaluate(*arguments):
    main(["evaluate", "video", *arguments, "clips/held_out", *SHORT])


def test_the_page_has_seeds_samples_ceiling_and_controls_and_is_made_once(monkeypatch, capsys):
    models = ["a=a0/last.ckpt", "a=a1/last.ckpt", "b/last.ckpt"]
    evaluate(*models)
    page = Path("out/video.md").read_text()
    for words in (
        "a (2 seeds), best of 2",
        "last frame, repeated",
        "empty background",
        "b, tokenizer alone",
        "Against decoded truth",
        "cvvdp: not computed (--perceived is 0)",
    ):
        assert words in page
    record = json.loads(Path("out/video.json").read_text())
    assert [len(seeds) for seeds in record["models"].values()] == [2, 1]
    assert record["data"]["videos"] == 3 and record["plan"]["horizon"] == 4
    for name in ("video.png", "sheet.png"):
        assert Path("out", name).read_bytes().startswith(b"\x89PNG")

    def again(*_):
        pytest.fail("it was measured twice")

    monkeypatch.setattr(Measurement, "measure", again)
    evaluate(*models[1:])
    after = json.loads(Path("out/video.json").read_text())
    assert after["models"]["b"] == record["models"]["b"]
    capsys.readouterr()
    with pytest.raises(SystemExit, match="holds measurements with another seed"):
        evaluate(models[0], "--seed=1")


def test_a_protocol_is_said_on_the_page(monkeypatch):
    long = Path("long")
    long.mkdir()
    write_video(long / "a.mp4", np.zeros((20, 24, 24, 3), np.uint8), 10)
    rest = ["long", "--protocol=10-10", "--perceived=0", "--out=protocol"]
    main(["evaluate", "video", "b/last.ckpt", *rest])
    page = Path("protocol/video.md").read_text()
    assert "Protocol 10 -> 10: the first 10 frames are read, 10 are predicted; one contin" in page
    assert "alive" not in page  # no drawn video


def test_a_model_of_actions_is_measured_with_those_beside_the_videos():
    save_video(small_video(24, conditions=ConditionsConfig(actions=4)), Path("acts/last.ckpt"))
    bits = []
    for name, action in (("zero", 0), ("three", 3), ("bare", None)):
        path = Path(name, "a.mp4")
        path.parent.mkdir()
        write_video(path, np.full((9, 24, 24, 3), 90, np.uint8), 10)
        if action is None:
            with pytest.raises(SystemExit, match="reads actions: put a.actions.npy beside bare"):
                main(["evaluate", "video", "acts/last.ckpt", name, *SHORT[:-1], "--out=bare_out"])
            continue
        write_conditions(path, actions=np.full(9, action))
        main(["evaluate", "video", "acts/last.ckpt", name, *SHORT[:-1], f"--out={name}_out"])
        record = json.loads(Path(f"{name}_out/video.json").read_text())
        bits.append(record["models"]["acts"][0]["bits"]["by_index"])
    assert bits[0][0] == bits[1][0] and bits[0][1] != bits[1][1]


def test_models_of_other_frame_sizes_are_measured_apart():
    save_video(small_video(16), Path("small/last.ckpt"))
    with pytest.raises(SystemExit, match="of 16 pixels, and .* of 24; measure them apart"):
        evaluate("b/last.ckpt", "small/last.ckpt")
