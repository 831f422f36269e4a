"""Laws of the training of the ConvLSTM on clips of pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tttvideo.training import PixelModel
from tttvideo.video.conv_lstm import ConvLSTMConfig
from tttvideo.weights.checkpoints import save_torch_file
from tttvideo.weights.video_checkpoints import load_pixel_model, load_video_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    module = PixelModel(ConvLSTMConfig(size=16, width=6), context=3)
    data = SimpleNamespace(clips=[], size=16, frames=6, seed=0)
    module._trainer = SimpleNamespace(datamodule=data, global_step=0, world_size=1)
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.update(
        {name: float(torch.as_tensor(value).detach())}
    )
    module.log_rate = lambda *_: None
    return module


def batch():
    return SimpleNamespace(frames=torch.randint(256, (2, 6, 16, 16, 3), dtype=torch.uint8))


def test_frames_after_the_context_are_not_read(model):
    clip = batch().frames
    before = model.predict(clip)
    clip[:, 3:] = 0
    assert before.shape == (2, 5, 16, 16, 3) and torch.equal(model.predict(clip), before)
    clip[:, 2] = 0
    assert not torch.equal(model.predict(clip), before)


def test_validation_measures_the_frames_after_the_context(model):
    clip = torch.from_numpy(np.full((2, 6, 16, 16, 3), 151, np.uint8))
    torch.nn.init.zeros_(model.conv_lstm.out.weight)
    torch.nn.init.constant_(model.conv_lstm.out.bias, 100 / 255)
    clip[:, :3] = 0
    with torch.no_grad():
        model.validation_step(SimpleNamespace(frames=clip), 0)
    assert model.logged["val_psnr"] == pytest.approx(-20 * np.log10(51 / 255), abs=1e-3)


def test_steps_lower_the_loss(model):
    one, optimizer = batch(), torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = model.training_step(one, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert model.trained == {"frames": 200, "window": 5, "steps": 1}


def test_a_checkpoint_keeps_the_model(model, tmp_path):
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    save_torch_file(checkpoint, tmp_path / "last.ckpt")
    loaded, frames = load_pixel_model(tmp_path / "last.ckpt"), batch().frames
    assert torch.equal(loaded.network(frames)[0], model.conv_lstm(frames)[0])
    assert loaded.trained == model.trained
    with pytest.raises(ValueError, match="holds a model of pixels, not of frames"):
        load_video_model(tmp_path / "last.ckpt")
    checkpoint["state_dict"]["conv_lstm.out.bias"][3] = torch.nan
    save_torch_file(checkpoint, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="1 of the 48 numbers in out.bias are not finite"):
        load_pixel_model(tmp_path / "bad.ckpt")


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"clips": None}, "learns from clips of pixels: set data to a ClipData"),
        ({"size": 32}, "conv_lstm.size is 16 and data.size 32; set both to the same value"),
        ({"frames": 3}, "model.context is 3; it must be below data.frames, 3"),
    ],
)
def test_data_that_do_not_fit_are_refused(model, facts, message):
    vars(model.data).update(facts)
    with pytest.raises(ValueError, match=message):
        model.setup("fit")


def test_a_context_without_a_frame_is_refused():
    with pytest.raises(ValueError, match="model.context is 0; it must be 1 or more"):
        PixelModel(ConvLSTMConfig(), context=0)
