"""Laws of bits by the length of a stream: the same targets, each after its own number of frames."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.models import small, small_frames
from tttvideo.data.video.writer import write_video
from tttvideo.measures.length import Subject, Targets, index_bins, measure_length
from tttvideo.measures.length_stats import LengthStats
from tttvideo.measures.video_data import encode, open_videos
from tttvideo.sampling.frame_streams import read_frames
from tttvideo.video.frame_tokenizer import FrameTokenizer, FrameTokenizerConfig


MODELS = {
    "frames": lambda: small_frames(grid=(2, 2), vocab_size=1000, window_frames=2),
    "tokens": lambda: small(grid=(2, 2), vocab_size=1000, window_frames=1),
    "no memory": lambda: small_frames(grid=(2, 2), vocab_size=1000, mixer=None),
}
TARGETS = Targets(frames=41, count=11, contexts=(4, 30))


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return FrameTokenizer(FrameTokenizerConfig(size=16, width=8, hidden=8)).eval()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos of noise of 43, 41 and 41 frames."""
    folder, random = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for name, frames in {"a": 43, "b": 41, "c": 41}.items():
        images = random.integers(256, size=(frames, 16, 16, 3), dtype=np.uint8)
        write_video(folder / f"{name}.mp4", images, 10, True)
    return open_videos(folder, 16)


@pytest.mark.parametrize("name", MODELS)
def test_targets_cost_what_streams_that_begin_before_them_say(name, videos, codec):
    model = MODELS[name]()
    found = measure_length({"m": Subject(model, codec, "t")}, videos, TARGETS)["m"]
    images = torch.stack(
        [torch.from_numpy(np.stack([f.image for f in v.reader])[:41]) for v in videos]
    )
    tokens = encode(codec, images)
    for context, spans in {4: [(26, 34), (30, 38), (34, 41)], 30: [(0, 41)]}.items():
        parts = [read_frames(model, tokens[:, a:b], None)[0].sum(-1)[:, context:] for a, b in spans]
        wanted = torch.cat(parts, 1)
        assert wanted.shape[1] == 11
        assert found["bits"][str(context)] == pytest.approx(wanted.mean(1).tolist(), abs=1e-6)
    whole = read_frames(model, tokens, None)[0].sum(-1)
    bins = {end: whole[:, begin:end].mean(1).tolist() for begin, end in index_bins(30)}
    assert {int(end): values for end, values in found["bins"].items()} == {
        end: pytest.approx(values, abs=1e-6) for end, values in bins.items()
    }


def test_another_videos_memory_counts_only_where_there_is_one(videos, codec):
    subjects = {name: Subject(make(), codec, "t") for name, make in MODELS.items()}
    found = measure_length(subjects, videos, TARGETS)
    for name, result in found.items():
        same = result["own"] == result["other"]
        assert same == (name == "no memory")
        assert result["own"]["30"] == pytest.approx(result["bits"]["30"], abs=1e-6)  # 11 targets
    alone = measure_length({"m": subjects["frames"]}, videos[:1], TARGETS)["m"]
    assert alone["other"] == {}
    assert alone["bits"]["4"][0] == pytest.approx(found["frames"]["bits"]["4"][0], abs=1e-6)


def test_contexts_that_the_shortest_video_has_not_are_left_out():
    targets = Targets.of([5000, 3100], 100, [3000, 100, 30_000])
    assert (targets.frames, targets.contexts) == (3100, (100, 3000))
    assert list(targets.starts(100)) == [(2900, 3000, 3100)]
    assert list(replace(targets, count=250).starts(100))[-1] == (2950, 3050, 3100)
    with pytest.raises(ValueError, match="need videos of 3,100 frames, and the shortest has 3,099"):
        Targets.of([5000, 3099], 100, [100, 3000])


def test_bins_are_the_ends_of_doublings():
    assert index_bins(20) == [(1, 2), (2, 4), (4, 8), (8, 16), (16, 20)]
    assert index_bins(600)[-2:] == [(384, 512), (512, 600)]


def test_a_change_is_paired_and_its_verdict_needs_a_memory():
    """Videos differ much more than contexts do."""
    bits = np.array([[10.0, 10.02, 10.5, 10.1], [90.0, 90.18, 94.5, 89.1]])
    many = np.concatenate([bits, bits * 1.1, bits * 1.3])
    own, other = many, many + [[1.0, 1.0, 1.0, 0.0]]
    stats = LengthStats([100, 300, 900, 2700], many, own, other, [], many)
    assert stats.change(1).value == pytest.approx(0.002)
    assert [stats.verdict(place) for place in (1, 2)] == ["holds", "fails"]
    assert replace(stats, other=own).verdict(1) == "holds, trivially"
    assert replace(stats, bits=bits).verdict(3) == "open"
    assert stats.gain(1).value == 1.0 and stats.gain(3).value == 0.0


def test_seeds_are_averaged_video_by_video():
    def result(x):
        return {"bits": {"4": x, "30": x}, "own": {}, "other": {}, "bins": {"2": x}}

    stats = LengthStats.of([[result([1.0, 2.0]), result([3.0, 4.0])], [result([5.0])] * 2])
    assert stats.bits.tolist() == [[2, 2], [3, 3], [5, 5]] and stats.gain(0) is None
