"""Laws of the state swap on videos: what is counted, what a swap changes, and what it is worth."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.models import small, small_frames
from tttvideo.apps.cli import main
from tttvideo.data.video.drawn.cells import NEVER
from tttvideo.data.video.pose_cells import pose_visits
from tttvideo.measures.document_stats import Estimate
from tttvideo.measures.memory_gain import gains, gains_above, more_bits, over_seeds
from tttvideo.measures.remembered import (
    SwapSettings,
    check_swappable,
    copy_bits,
    counted,
    pose_sights,
    swap_bits,
    videos_at_once,
)
from tttvideo.sampling.frame_streams import score_frames
from tttvideo.video.conditions import NOTHING
from tttvideo.video.palette import PaletteConfig, PaletteTokenizer
from tttvideo.weights.checkpoints import load_frame_tokenizer, save_torch_file
from tttvideo.weights.video_checkpoints import VideoCheckpoint, video_description


SETTINGS = SwapSettings(frames=25, swaps=2, scored=4, last=3)
SHORT = ["--swaps", "2", "--scored", "4", "--last", "3"]
TOKENS = torch.from_numpy(np.random.default_rng(0).integers(7, size=(3, 25, 6)))


def swaps(model, tokens=TOKENS, settings=SETTINGS):
    return swap_bits(model, tokens, NOTHING, settings)


def scored(settings=SETTINGS):
    """The frames (F,) after a swap, True."""
    found = torch.zeros(settings.frames, dtype=torch.bool)
    for point in settings.points():
        found[point + 1 : point + 1 + settings.scored] = True
    return found


def test_own_bits_are_those_of_the_whole_video_and_others_of_frames_after_a_swap():
    model = small_frames()
    bits = swaps(model)
    torch.testing.assert_close(bits["own"], score_frames(model, TOKENS)[0])
    assert list(bits) == ["own", "other", "fresh", "last 3"]
    for name in ("other", "fresh", "last 3"):
        measured = ~bits[name].isnan()
        assert (measured == scored()[:, None]).all()
        assert not torch.allclose(bits[name][measured], bits["own"][measured])


def test_another_memory_of_the_same_video_changes_nothing_and_a_window_has_none_to_change():
    same = TOKENS[:1].expand(3, -1, -1)
    bits = swaps(small_frames(), same)
    torch.testing.assert_close(bits["other"][:, scored()], bits["own"][:, scored()])
    assert list(swaps(small_frames(mixer=None))) == ["own"]


def test_a_cut_memory_knows_the_last_frames_and_no_earlier_one():
    """Window of two frames; what is read begins with the last 3, of which one is the swap's."""
    model = small_frames(window_frames=2)
    other = TOKENS.clone()
    begin = SETTINGS.points()[0] - SETTINGS.last
    other[:, :begin] = (other[:, :begin] + 1) % 7
    after = slice(SETTINGS.points()[0] + 1, SETTINGS.points()[0] + 1 + SETTINGS.scored)
    for name, equal in (("own", False), ("fresh", True), ("last 3", True)):
        one, two = (swaps(model, x)[name][:, after] for x in (TOKENS, other))
        assert torch.allclose(one, two) == equal, name


def test_sights_before_a_swap_the_last_frame_and_what_is_new_are_counted():
    point = SETTINGS.points()[0]
    ages = torch.full((1, 25, 1), 1)
    for age, count in ((1, True), (NEVER, True), (2, False), (3, False), (4, True)):
        ages[0, point + 3] = age
        assert counted(ages, SETTINGS)[0, point + 3].item() == count
    assert not counted(ages, SETTINGS)[0, point]


def test_a_cell_of_poses_that_was_left_has_the_age_of_its_last_visit():
    x = [0.1, 0.2, 0.3, 0.1, 0.1, 0.1]
    angles = [359, 1, 0, 4, 30, 0]
    poses = np.stack((x, np.zeros(6), angles), axis=1)
    visits = pose_visits(poses, place=0.25, turn=11.25)
    assert visits.ages.tolist() == [NEVER, 1, NEVER, 2, NEVER, 2]
    assert visits.first.tolist() == [0, 0, 2, 0, 4, 0]


def test_sights_of_a_walk_name_the_token_of_the_last_visit_and_first_sights_seen_again():
    poses = np.zeros((12, 3))
    poses[1:10, 0] = np.arange(1, 10)
    poses[10, 0] = 1
    tokens = torch.arange(24).view(12, 2)
    sights = pose_sights(poses, tokens, SETTINGS)
    assert sights.ages[:, 0].tolist() == [*[NEVER] * 10, 9, 11]
    assert sights.old[10:].tolist() == [[2, 3], [0, 1]] and (sights.old[:10] == -1).all()
    assert sights.first[:, 1].nonzero().flatten().tolist() == [0, 1]
    assert sights.again[:, 1].nonzero().flatten().tolist() == [10, 11]


def test_a_copied_token_takes_its_share_and_gives_it_where_it_is_right():
    bits, hit = torch.tensor([1.0, 1.0], dtype=torch.float64), torch.tensor([True, False])
    found = copy_bits(bits, hit)
    torch.testing.assert_close(found[0], bits)
    torch.testing.assert_close(found[10], -torch.tensor([0.75, 0.25]).double().log2())


def test_videos_that_are_too_short_for_a_swap_are_refused():
    with pytest.raises(ValueError, match="9 frames of each video are read, .* after it need 10; "):
        SwapSettings(frames=9, scored=4, last=3)
    assert SwapSettings(frames=10, scored=4, last=3).points()[0] == 5


def test_no_batch_has_a_single_video():
    for count in range(2, 300):
        assert 2 <= videos_at_once(count) <= 16 and count % videos_at_once(count) != 1
    with pytest.raises(ValueError, match="swapped between videos, and there is 1; give two"):
        videos_at_once(1)


def run_of(first, again, other=1.0):
    """A record of two videos, one token in each group: bits of first and later sights."""
    group = {"bits": list(again), "tokens": [1, 1]}
    swapped = {"bits": [bits + other for bits in again], "tokens": [1, 1]}
    memories = {"own": {"64 or more": group}, "other": {"64 or more": swapped}}
    sights = {"first": {"bits": list(first), "tokens": [1, 1]}, "again": group}
    return {"memories": memories, "sights": sights}


def test_gains_are_paired_by_video_and_the_controls_are_taken_from_them():
    run, control = run_of((3, 2), (1, 0.5)), run_of((3, 3), (2.5, 2.5))
    assert gains(run).tolist() == [2, 1.5]
    assert gains_above([run], [control, control])[0].tolist() == [1.5, 1]
    assert gains_above([control], [control])[0].tolist() == [0, 0]
    found = over_seeds(
        [run, run_of((3, 2), (1, 0.5), other=3.0)], more_bits, "other", ["64 or more"]
    )
    assert found.value == 2 and found.documents == 2
    assert isinstance(found, Estimate) and found.margin > 1
    empty = run_of((3, 2), (1, 0.5))
    empty["sights"]["first"]["tokens"] = [0, 1]
    assert math.isnan(gains(empty)[0]) and gains(empty)[1] == 1.5


def save(model, codec, path, fingerprint="same"):
    """A checkpoint of a frame model, as `fit` writes them."""
    path.parent.mkdir(exist_ok=True)
    both = (("frame_model", model), ("frame_tokenizer", codec))
    weights = {f"{name}.{key}": x for name, part in both for key, x in part.state_dict().items()}
    about = video_description(VideoCheckpoint(model, fingerprint, 30.0, codec))
    save_torch_file({"tttvideo": about, "state_dict": weights}, path)


@pytest.fixture(scope="module")
def pan(tmp_path_factory):
    """A folder with videos of a pan world, and checkpoints of two seeds and of a window alone."""
    folder = tmp_path_factory.mktemp("pan")
    sizes = ["--size", "16", "--cells", "3", "--colours", "7", "--frames", "30"]
    main(
        [
            "prepare",
            "drawn",
            "pan",
            "--videos",
            "1",
            "--held-out",
            "3",
            *sizes,
            "--out",
            str(folder),
        ]
    )
    codec = load_frame_tokenizer(folder / "palette.ckpt")
    for name, mixer, std in (("0", "ttt", 0.3), ("1", "ttt", 0.4), ("window", None, 0.3)):
        model = small_frames(torch.float32, std, grid=(2, 2), mixer=mixer)
        save(model, codec, folder / name / "last.ckpt")
    return folder


def test_the_command_measures_each_checkpoint_once(pan, tmp_path, capsys):
    models = [f"ttt={pan}/0/last.ckpt", f"ttt={pan}/1/last.ckpt", f"{pan}/window/last.ckpt"]
    small = [*SHORT, "--out", str(tmp_path)]
    command = ["evaluate", "memory", *models[1:], str(pan / "held_out"), *small]
    main(command)
    before = json.loads((tmp_path / "memory.json").read_text())
    main(["evaluate", "memory", *models, str(pan / "held_out"), *small])
    record = json.loads((tmp_path / "memory.json").read_text())
    assert [run["name"] for run in record["runs"]] == ["ttt", "window", "ttt"]
    assert record["runs"][:2] == before["runs"]
    page = (tmp_path / "memory.md").read_text()
    assert page in capsys.readouterr().out and "above the control" in page
    assert (tmp_path / "memory.png").stat().st_size
    with pytest.raises(SystemExit, match="holds runs with other settings; choose another --out"):
        main([*command, "--swaps", "1"])


def test_videos_without_ages_and_angles_and_models_of_tokens_are_refused(pan, tmp_path):
    for path in (pan / "held_out").iterdir():
        if "ages" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(SystemExit, match="has neither ages nor poses of x, y and angle"):
        main(
            [
                "evaluate",
                "memory",
                str(pan / "0/last.ckpt"),
                str(tmp_path),
                "--out",
                str(pan),
                *SHORT,
            ]
        )
    tokens = VideoCheckpoint(small(grid=(2, 2)), "same", None, PaletteTokenizer(PaletteConfig(16)))
    frames = VideoCheckpoint(small_frames(), "other", None, tokens.frame_tokenizer)
    with pytest.raises(ValueError, match="b reads a token at a time; name models of whole frames"):
        check_swappable({"b": tokens})
    with pytest.raises(ValueError, match="different frame tokenizers, whose bits cannot be"):
        check_swappable({"a": replace(frames, tokenizer="same"), "b": frames})
