"""Laws of the outer loop."""

from types import SimpleNamespace

import pytest
import torch

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.data.text import BYTES
from tttvideo.data.tokens import Header
from tttvideo.frame_tokenizer import FrameTokenizer, FrameTokenizerConfig
from tttvideo.training import OptimConfig, TokenModel, psnr
from tttvideo.ttt import TTTConfig


def model(inner="linear", header=BYTES, **optim):
    """A TokenModel as Lightning would set it up for a run of 100 steps."""
    config = BackboneConfig(
        width=16, depth=2, heads=2, mlp_width=24, window_frames=1, ttt=TTTConfig(inner=inner)
    )
    module = TokenModel(config, OptimConfig(**optim))
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(header=header), estimated_stepping_batches=100, global_step=0
    )
    module._trainer = trainer
    if header.kind == "text":
        module.configure_model()
    return module


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine():
    module = model(lr=1e-2, final_lr=1e-4, warmup=0.1)
    setup = module.configure_optimizers()
    optimizer, schedule = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([1e-3 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(1e-2)
    assert rates[55] == pytest.approx((1e-2 + 1e-4) / 2)
    assert rates[100] == pytest.approx(1e-4)


def test_adamw_decays_every_parameter_as_in_the_paper():
    module = model()
    (group,) = module.configure_optimizers()["optimizer"].param_groups
    assert group["betas"] == (0.9, 0.95) and group["weight_decay"] == 0.1
    assert len(group["params"]) == len(list(module.backbone.parameters()))


@pytest.mark.parametrize(
    "inner, factors", [("mlp", [0.1, 0.55, 1.0, 1.0]), ("linear", [1.0, 1.0, 1.0, 1.0])]
)
def test_the_inner_learning_rate_of_an_mlp_is_warmed_up_and_full_when_measured(inner, factors):
    module = model(inner, warmup=0.2)
    module.configure_optimizers()
    layer, x = module.backbone.blocks[0].mixer, torch.randn(1, 3, 16)
    full = layer.eta(x)
    for step, factor in zip((0, 10, 20, 99), factors, strict=True):
        module._trainer.global_step = step
        module.on_train_batch_start(None, 0)
        torch.testing.assert_close(layer.eta(x), factor * full)
        module.on_validation_start()
        torch.testing.assert_close(layer.eta(x), full)


def test_the_loss_is_the_mean_cost_of_the_next_token():
    module = model()
    batch = torch.randint(256, (3, 9))
    logits = module.backbone(batch)[0].log_softmax(-1)
    costs = [-logits[b, t, batch[b, t + 1]] for b in range(3) for t in range(8)]
    torch.testing.assert_close(module.loss(batch), torch.stack(costs).mean())


def test_tokens_of_another_frame_tokenizer_are_refused(tmp_path):
    config = FrameTokenizerConfig(size=16, width=8, blocks=1)
    tokenizer = FrameTokenizer(config)
    about = {"model": "frame tokenizer", "frame_tokenizer": vars(config)}
    weights = {f"tokenizer.{name}": tensor for name, tensor in tokenizer.state_dict().items()}
    torch.save({"tttvideo": about, "state_dict": weights}, tmp_path / "t.ckpt")
    right = Header("video", tokenizer.fingerprint(), 1000, grid=(2, 2))
    for header, message in (
        (right, "set model.frame_tokenizer"),
        (Header("video", "other", 1000, grid=(2, 2)), "made by frame tokenizer other"),
    ):
        module = model(header=header)
        if header is not right:
            module.frame_tokenizer_path = str(tmp_path / "t.ckpt")
        with pytest.raises(ValueError, match=message):
            module.configure_model()
    module = model(header=right)
    module.frame_tokenizer_path = str(tmp_path / "t.ckpt")
    module.configure_model()
    assert module.backbone.config.grid == (2, 2)
    assert not any(p.requires_grad for p in module.frame_tokenizer.parameters())


def test_psnr_is_of_each_frame():
    difference = torch.zeros(2, 4, 4, 3)
    difference[0] = 0.1
    assert psnr(difference).tolist() == pytest.approx([20, 100])


def test_embeddings_of_near_codes_begin_alike():
    torch.manual_seed(0)
    config = FrameTokenizerConfig(size=16, width=8, blocks=1)
    module = model(header=Header("video", "x", 1000, grid=(2, 2)))
    module.header = module._trainer.datamodule.header
    module.frame_tokenizer = FrameTokenizer(config)
    module.backbone = Backbone(BackboneConfig(1000, 16, 1, 2, 24, grid=(2, 2), window_frames=1))
    module.embed_alike()
    codes = module.frame_tokenizer.fsq.to_codes(torch.arange(1000))
    for table in (module.backbone.embedding.weight, module.backbone.window.embedding.weight):
        apart = torch.cdist(table[:1000], table[:1000]).flatten()
        between = torch.cdist(codes, codes).flatten()
        assert torch.corrcoef(torch.stack((apart, between)))[0, 1] > 0.2  # 0 when drawn at random
