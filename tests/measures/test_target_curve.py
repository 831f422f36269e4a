"""Laws of the loss on fixed targets by context, with longer contexts on fewer targets."""

import numpy as np
import pytest
import torch

from helpers.models import small
from tttvideo.apps.cli import main
from tttvideo.data.tokens import open_tokens
from tttvideo.measures.meter import Meter
from tttvideo.measures.plan import PlanSettings, make_plan
from tttvideo.measures.target_curve import curve_plan, measure_curve, over_seeds, value
from tttvideo.weights.checkpoints import TokenCheckpoint, save_tokens_model


@pytest.fixture
def data(tmp_path):
    (tmp_path / "texts").mkdir()
    random = np.random.default_rng(0)
    for name in "abcd":
        text = "".join(random.choice(list("abcdef "), 400))
        (tmp_path / f"texts/{name}.txt").write_text(text)
    main(["prepare", "text", str(tmp_path / "texts"), "--out", str(tmp_path / "corpus")])
    return open_tokens(tmp_path / "corpus/train")


@pytest.fixture
def checkpoint(tmp_path, data):
    torch.manual_seed(0)
    header = data.header
    backbone = small("linear", M=4, mixer="attention", vocab_size=header.vocab_size).float()
    path = tmp_path / "model.ckpt"
    save_tokens_model(TokenCheckpoint(backbone, "bytes", bos=header.bos, eos=header.eos), path)
    return path, backbone.eval()


def plan(data, **changes):
    contexts = [0, 16, 64, 128, 256]
    return make_plan(PlanSettings(length=300, reset=16, contexts=contexts, **changes), data, [16])


def levels(backbone, data, plan):
    lengths = np.array([1] * 256 + [0] * (data.header.vocab_size - 256))
    meter = Meter(backbone, data, lengths, plan, lambda _: None)
    return meter, {context: meter.fixed(context) for context in plan.contexts}


def test_longer_contexts_on_all_targets_are_measured_as_they_are(data, checkpoint):
    path, backbone = checkpoint
    whole = plan(data, targets=1)
    found = measure_curve(path, data, curve_plan(whole, 64, documents=9), "cpu")
    meter, wanted = levels(backbone, data, whole)
    assert found["bits_per_byte"] == pytest.approx({c: value(t) for c, t in wanted.items()})
    assert found["reset"] == pytest.approx(value(meter.fixed_reset()))
    assert found["targets"] == found["far_targets"] == 4


@pytest.mark.parametrize("whole", [False, True], ids=["in pieces", "in one call"])
def test_longer_contexts_on_some_targets_add_their_difference(data, checkpoint, whole):
    path, backbone = checkpoint
    every = plan(data, targets=2, batch=50)
    curve = curve_plan(every, 64, documents=2, whole=whole)
    assert curve.far.owners.tolist() == [0, 3]
    assert curve.near.contexts == (0, 16, 64) and curve.far.contexts == (64, 128, 256)
    found = measure_curve(path, data, curve, "cpu")["bits_per_byte"]
    _, near = levels(backbone, data, curve.near)
    _, far = levels(backbone, data, curve.far)
    for context in (0, 16, 64):
        assert found[context] == pytest.approx(value(near[context]))
    for context in (128, 256):
        added = value(far[context]) - value(far[64])
        assert found[context] == pytest.approx(value(near[64]) + added, abs=1e-5)


def test_the_interval_over_seeds_is_students_and_a_seed_that_is_not_finite_shows():
    three = over_seeds([1.0, 2.0, 3.0])
    assert three.value == 2 and three.margin == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert np.isnan(over_seeds([1.0, float("nan")]).value)
    assert over_seeds([1.0]).margin is None and over_seeds([]).documents == 0
