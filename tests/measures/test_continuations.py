"""Laws of measured continuations: numbers by hand, controls that expose empty output, resuming."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.models import small, small_video
from tttvideo.data.video.drawn import WORLDS, bouncing_glyphs
from tttvideo.data.video.writer import write_video
from tttvideo.measures.continuation_summary import (
    frame_bins,
    kinds_of,
    mean_of,
    over_seeds,
    summary,
)
from tttvideo.measures.continuations import ContinuationPlan, Measurement, measure_checkpoint
from tttvideo.measures.continuers import TokensContinue
from tttvideo.measures.frechet import frechet_distance
from tttvideo.measures.perception import Perception
from tttvideo.measures.video import frame_errors
from tttvideo.measures.video_data import open_videos
from tttvideo.weights.video_checkpoints import VideoCheckpoint


SIZE = 24
PLAN = ContinuationPlan(context=3, horizon=4, samples=2, perceived=0, batch=2)
OFF = Perception(off="not asked for")
EMPTY = WORLDS["glyphs"].empty(SIZE)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four videos of glyphs, of which one is longer than the others."""
    folder = tmp_path_factory.mktemp("glyphs")
    for n, frames in enumerate((9, 12, 9, 9)):
        write_video(folder / f"{n}.mp4", bouncing_glyphs(frames, SIZE, 1, n), 10, lossless=True)
    return open_videos(folder, SIZE)


@pytest.fixture(scope="module")
def model():
    return TokensContinue(small_video(size=SIZE))


class Pixels:
    """A model of pixels without tokens: every frame ahead is one picture."""

    size, tokens, network, trained = SIZE, None, torch.nn.Identity(), None

    def __init__(self, image=None, ceiling=None):
        """image: (S, S, 3), None: the last frame. ceiling: what its tokenizer would do."""
        self.image, self.ceiling = image, ceiling

    def read(self, images, known, state=None):
        return None, images[:, -1]

    def ahead(self, state, count, known, choose):
        image = state if self.image is None else self.image.expand_as(state)
        yield from [image] * count

    def through(self, images):
        return self.ceiling and self.ceiling(images)


def found(model, videos, folder, plan=PLAN, empty=EMPTY):
    measurement = Measurement(model, plan, OFF, empty)
    return measure_checkpoint(measurement, "hash", plan.fit(videos), folder, "measuring")


def test_errors_of_a_frame_are_those_computed_by_hand():
    """A frame of 51 (0.2) against black has an MSE of 0.04, and a sum of 0.04 a pixel."""
    black = torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)
    grey = torch.stack((torch.full_like(black[0], 51), black[0]))
    errors = frame_errors(grey, black)
    assert errors["mse"].tolist() == pytest.approx([0.04, 0])
    assert errors["mse_sum"].tolist() == pytest.approx([0.04 * SIZE**2, 0])
    assert errors["psnr"].tolist() == pytest.approx([-10 * math.log10(0.04), 100], rel=1e-5)
    assert errors["ssim"].tolist() == pytest.approx([0.0001 / (0.04 + 0.0001), 1], rel=1e-3)


def test_the_sum_of_a_frame_is_that_of_one_of_three_equal_channels():
    one = torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    one[0, 3, 5] = 255
    assert frame_errors(one, torch.zeros_like(one))["mse_sum"].item() == pytest.approx(1)


def test_the_frechet_distance_of_small_sets_is_that_computed_by_hand():
    x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [4.0]])  # variances 2 and 8
    assert frechet_distance(x, y) == pytest.approx(2**2 + (8**0.5 - 2**0.5) ** 2)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_is_the_same_for_more_samples_than_features_and_fewer():
    """Features of zeros change nothing, and make 7 samples fewer than their features."""
    torch.manual_seed(0)
    x, y = torch.randn(7, 3), torch.randn(9, 3) * 2 + 1
    wide = [torch.nn.functional.pad(one, (0, 20)) for one in (x, y)]
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(*wide))
    a, b = (torch.cov(one.double().T) for one in (x, y))
    root = torch.linalg.eigvals(a @ b).sqrt().real.sum()
    means = (x.double().mean(0) - y.double().mean(0)).square().sum()
    expected = means + a.trace() + b.trace() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected.item())


def test_the_best_sample_is_best_over_the_whole_horizon_by_each_measure():
    x = np.array([[[1.0, 9.0], [6.0, 6.0]]])  # one video, two samples, two frames
    assert kinds_of(x, "psnr")["best"].tolist() == [[6, 6]]
    assert kinds_of(x, "mse")["best"].tolist() == [[1, 9]]
    assert kinds_of(x, "psnr")["mean"].tolist() == [[3.5, 7.5]]
    assert "best" not in kinds_of(x[:, :1], "psnr")


def test_intervals_are_over_seeds_where_there_are_several_and_else_over_videos():
    one, other = mean_of(np.array([[1.0], [3.0]])), mean_of(np.array([[5.0], [7.0]]))
    assert over_seeds([one]) == one and one["value"] == 2
    assert one["margin"] == pytest.approx(12.706, abs=1e-3)  # Student's t of 1 degree, error 1
    both = over_seeds([one, other])
    assert (both["value"], both["documents"]) == (4, 2)
    assert both["margin"] == pytest.approx(2 * 12.706, abs=2e-3)


def test_empty_output_is_exposed_by_its_area_and_against_decoded_truth(videos, tmp_path):
    """It has the numbers of the control, is never alive, and is far from what could be reached."""
    codec = small_video(size=SIZE).frame_tokenizer
    through = TokensContinue(replace(small_video(size=SIZE), frame_tokenizer=codec)).through
    empty = Pixels(torch.from_numpy(EMPTY), through)
    numbers = summary(found(empty, videos, tmp_path), PLAN)
    raw, decoded = (numbers["overall"][truth] for truth in ("raw", "decoded"))
    assert raw["prediction"]["psnr"]["mean"] == raw["empty"]["psnr"]["mean"]
    assert numbers["alive"] == {
        "prediction": [0.0] * 4,
        "empty": [0.0] * 4,
        "copy": pytest.approx([1.0] * 4, abs=0.5),
        "tokenizer": numbers["alive"]["tokenizer"],
    }
    assert raw["empty"]["psnr"]["mean"]["value"] > raw["tokenizer"]["psnr"]["mean"]["value"]
    assert decoded["prediction"]["psnr"]["mean"]["value"] < 40
    assert "tokenizer" not in decoded  # it would be perfect


def test_a_model_of_pixels_is_measured_without_bits_and_without_decoded_truth(videos, tmp_path):
    numbers = summary(found(Pixels(), videos, tmp_path), PLAN)
    assert numbers["bits"] is None and set(numbers["overall"]) == {"raw"}
    assert set(numbers["overall"]["raw"]) == {"prediction", "copy", "empty"}
    copied = numbers["by_horizon"]["raw"]
    assert copied["prediction"]["mse"]["mean"] == pytest.approx(copied["copy"]["mse"]["mean"])


def test_the_size_of_a_batch_changes_no_number(videos, model, tmp_path):
    one, many = (
        summary(found(model, videos, tmp_path / str(n), replace(PLAN, batch=n)), PLAN)
        for n in (1, 3)
    )
    assert one["by_horizon"]["raw"]["prediction"]["mse"] == {
        kind: pytest.approx(x) for kind, x in many["by_horizon"]["raw"]["prediction"]["mse"].items()
    }
    assert one["bits"]["by_index"] == pytest.approx(many["bits"]["by_index"])


def test_bits_are_of_every_frame_and_those_ahead_follow_the_context(videos, model, tmp_path):
    """Frames 10 to 12 are of the one long video; a frame without history costs log V."""
    records = found(model, videos, tmp_path)
    bits = summary(records, PLAN)["bits"]
    assert bits["first_frame"] == list(range(1, 13))
    assert bits["by_index"][0] == pytest.approx(9 * math.log2(6))
    assert bits["by_index"][3:7] == pytest.approx(bits["by_horizon"])
    (long,) = [record["bits"] for record in records if record["bits"].shape[1] == 12]
    assert bits["by_index"][9:] == pytest.approx(long[0, 9:])
    capped = summary(found(model, videos, tmp_path, replace(PLAN, frames=8)), PLAN)["bits"]
    assert capped["by_index"][:8] == pytest.approx(bits["by_index"][:8])
    assert len(capped["by_index"]) == 8


def test_late_frames_are_averaged_in_two_bins_per_doubling():
    assert frame_bins(3).tolist() == [0, 1, 2, 3]
    assert frame_bins(100).tolist() == [*range(32), 32, 45, 64, 91, 100]


def test_a_model_of_tokens_is_measured_in_the_same_way(videos, tmp_path):
    network = small(grid=(3, 3), dtype=torch.float32, vocab_size=6)
    codec = small_video(size=SIZE).frame_tokenizer
    model = TokensContinue(VideoCheckpoint(network, codec.fingerprint(), 10, codec))
    numbers = summary(found(model, videos[:1], tmp_path), PLAN)
    assert len(numbers["bits"]["by_index"]) == 9
    assert set(numbers["overall"]) == {"raw", "decoded"}


class Killed(TokensContinue):
    """Fails in the second batch."""

    def ahead(self, state, count, known, choose):
        if known is None or self.count:
            raise KeyboardInterrupt
        self.count = 1
        yield from super().ahead(state, count, known, choose)


def test_a_killed_measurement_resumes_with_the_same_numbers(videos, model, tmp_path):
    killed = Killed(small_video(size=SIZE))
    killed.count = 0
    with pytest.raises(KeyboardInterrupt):
        found(killed, videos, tmp_path / "killed")
    (first,) = (tmp_path / "killed").rglob("*.npz")
    made = first.stat().st_mtime_ns
    resumed = summary(found(model, videos, tmp_path / "killed"), PLAN)
    assert first.stat().st_mtime_ns == made
    assert resumed == summary(found(model, videos, tmp_path / "whole"), PLAN)


def test_a_record_is_read_only_for_the_same_videos_and_settings(videos, tmp_path):
    """A copy of a still model would be the same for each, so that only the folders tell."""
    for plan in (PLAN, PLAN, replace(PLAN, seed=1)):
        found(Pixels(), videos, tmp_path, plan)
    found(Pixels(), videos[:2], tmp_path)
    assert len([*tmp_path.iterdir()]) == 3


def test_videos_too_short_for_the_horizon_are_left_out_or_refused(videos):
    assert len(replace(PLAN, horizon=9).fit(videos)) == 1
    with pytest.raises(ValueError, match="need 103 frames, and the longest video has 12"):
        replace(PLAN, horizon=100).fit(videos)
