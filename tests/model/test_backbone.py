"""Laws of the backbone: golden models, any cut, causality, lanes, sizes, precision."""

import pytest
import torch
import torch.nn.functional as F

from helpers.golden import GOLDEN, golden
from helpers.models import small
from helpers.states import leaves, run_in_pieces
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.mixers.ttt import TTTConfig, TTTLayer
from tttvideo.video.frame_window import FrameWindow
from tttvideo.weights.reference import load_reference, reference_name, save_reference


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_models_give_the_reference_logits_loss_and_every_outer_gradient(path):
    weights, config, tensors = golden(path)
    model = load_reference(weights, config)
    tokens, logits = tensors["input_ids"], model(tensors["input_ids"])[0]
    assert (logits - tensors["logits"]).abs().max() <= 1e-5 * tensors["logits"].abs().max()
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss - tensors["loss"]) <= 1e-6
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for block in (f"blocks.{i}.mixer." for i in range(len(model.blocks))):
        carry = model.get_submodule(block[:-1]).carry()
        last = gradients.pop(f"{block}carry_shift") / carry  # of the carry itself
        readers = gradients[f"{block}token_shift"]
        gradients[f"{block}token_shift"] = torch.cat((readers, last.where(carry > 0, 0)))
    for name, gradient in gradients.items():
        wanted = tensors[f"grad.{reference_name(name)}"]
        difference = gradient.reshape(wanted.shape) - wanted
        assert difference.norm() <= 1e-4 * wanted.norm(), name


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("cuts", [(21, 8), (1,) * 29, (21,) + (1,) * 8, (3, 1, 16, 9)], ids=str)
def test_golden_models_give_the_same_logits_for_any_cut(path, cuts):
    weights, config, tensors = golden(path)
    model = load_reference(weights, config)
    with torch.no_grad():
        logits, _ = run_in_pieces(model, tensors["input_ids"], cuts)
    assert (logits - tensors["logits"]).abs().max() <= 1e-5 * tensors["logits"].abs().max()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_reference_weights_are_saved_as_they_were_loaded(path):
    weights, config, _ = golden(path)
    model = load_reference(weights, config)
    out, out_config = save_reference(model)
    assert out.keys() == weights.keys()
    for name in weights:
        if name.endswith("learnable_token_idx"):  # the last is a logarithm in between
            assert torch.equal(out[name][:-1], weights[name][:-1])
            factors = ((x[-1] + 1 / len(x)).clamp_min(0) for x in (out[name], weights[name]))
            torch.testing.assert_close(*factors, rtol=2e-7, atol=3e-8)
        else:
            assert torch.equal(out[name], weights[name])
    assert config.items() <= out_config.items()


def test_reference_weights_that_do_not_fit_are_refused():
    weights, config, _ = golden(GOLDEN[0])
    with pytest.raises(ValueError, match="lack 1 of the keys .*model.norm.weight"):
        load_reference({k: v for k, v in weights.items() if k != "model.norm.weight"}, config)
    with pytest.raises(ValueError, match="have no place for 1 of the keys .*'?surprise"):
        load_reference({**weights, "surprise": torch.zeros(1)}, config)
    with pytest.raises(ValueError, match=r"model.norm.weight has shape \(3,\).*needs \(32,\)"):
        load_reference({**weights, "model.norm.weight": torch.zeros(3)}, config)
    with pytest.raises(ValueError, match="tie_word_embeddings is False"):
        load_reference(weights, {**config, "tie_word_embeddings": False})
    with pytest.raises(ValueError, match="ttt_layer_type is 'cubic'"):
        load_reference(weights, {**config, "ttt_layer_type": "cubic"})


KINDS = pytest.mark.parametrize("kind", ["linear", "mlp"])
BACKBONES = pytest.mark.parametrize("backbone", ["mamba", "transformer"])


@KINDS
@BACKBONES
@pytest.mark.parametrize("grid, M", [(None, 4), ((2, 3), None), ((2, 4), 4), ((2, 3), 12)], ids=str)
def test_any_cut_gives_the_same_logits(kind, backbone, grid, M):
    ttt = {"backbone": backbone, "mini_batch_size": M}
    model = small(kind, grid, ttt=ttt, window_frames=2)
    tokens = torch.randint(31, (2, 29))
    with torch.no_grad():
        whole, _ = model(tokens)
        for cuts in ((21, 8), (1,) * 29, (3, 1, 16, 9)):
            cut, _ = run_in_pieces(model, tokens, cuts)
            torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-5)


@KINDS
@pytest.mark.parametrize("grid", [None, (2, 3)], ids=str)
def test_a_later_token_changes_no_earlier_logit(kind, grid):
    model = small(kind, grid, dtype=torch.float32, window_frames=2)
    tokens = torch.randint(31, (2, 29))
    changed = tokens.clone()
    changed[:, 17] = (changed[:, 17] + 1) % 31
    with torch.no_grad():
        before, after = model(tokens)[0], model(changed)[0]
    assert torch.equal(before[:, :17], after[:, :17])
    assert (before[:, 17:] != after[:, 17:]).any(dim=-1).all()


@KINDS
def test_sequences_of_a_batch_do_not_touch_each_other(kind):
    model = small(kind)
    tokens = torch.randint(31, (3, 13))
    with torch.no_grad():
        together = model(tokens)[0]
        alone = torch.cat([model(row[None])[0] for row in tokens])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@KINDS
@pytest.mark.parametrize("grid", [None, (2, 2)], ids=str)
def test_the_size_of_the_state_does_not_depend_on_how_much_was_read(kind, grid):
    model = small(kind, grid, dtype=torch.float32, window_frames=2)
    with torch.no_grad():
        sizes = [
            sum(x.untyped_storage().nbytes() for x in leaves(model(tokens)[1]))
            for tokens in (torch.randint(31, (1, T)) for T in (7, 7 + 40 * 4))
        ]
    assert sizes[0] == sizes[1]


def test_rows_of_a_frame_have_places_of_their_own():
    layer = TTTLayer(16, 2, TTTConfig(), grid=(2, 3))
    angles = layer.angles(layer.init_state(1), 12, torch.device("cpu"))
    assert len(angles[:6].unique(dim=0)) == 6
    assert torch.equal(angles[:6], angles[6:])
    assert len(layer.token_scale()) == 6


def test_the_window_shows_the_tokens_around_the_next_place():
    """Against a loop over places, frames and neighbours; the none of the vocabulary where empty."""
    rows, columns, frames, none = 3, 4, 2, 31
    window = FrameWindow(none, 4, (rows, columns), frames)  # width 4: one feature per neighbour
    window.embedding.weight.data[:, 0] = torch.arange(none + 1)
    seen = []
    window.mix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    tokens = torch.randint(none, (1, 40))
    window(tokens, window.init_state(1), 0)

    def token_at(frame, row, column):
        place = (frame * rows + row) * columns + column
        there = frame >= 0 and 0 <= row < rows and 0 <= column < columns
        return int(tokens[0, place]) if there else none

    around = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    for t in range(40):
        frame, place = divmod(t + 1, rows * columns)
        row, column = divmod(place, columns)
        wanted = [token_at(frame, row + y, column + x) for y, x in around[:4]]
        for back in range(1, frames + 1):
            wanted += [token_at(frame - back, row + y, column + x) for y, x in around]
        assert seen[0][t].tolist() == wanted


def test_a_clamped_token_scale_is_zero_and_starts_as_one_over_the_place():
    layer = TTTLayer(16, 2, TTTConfig(mini_batch_size=4))
    assert layer.token_scale().tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    layer.token_shift.data[1] = -3
    assert layer.token_scale()[1] == 0


@pytest.mark.parametrize("carry", [None, 2.0])
def test_a_carry_that_was_driven_to_nothing_comes_back(carry):
    torch.manual_seed(0)
    layer = TTTLayer(16, 2, TTTConfig(mini_batch_size=4, carry=carry))
    first = layer.carry().item()
    assert first == pytest.approx(carry or 1 / 4)
    x, start = torch.randn(2, 8, 16), layer.start()
    optimizer = torch.optim.AdamW([layer.carry_shift], lr=1.0, betas=(0.9, 0.95))
    for sign in (1, -1):
        for _ in range(200):
            weights = layer(x)[1].inner.weights
            written = sum((w - w0).square().sum() for w, w0 in zip(weights, start, strict=True))
            optimizer.zero_grad()
            (sign * written).backward()
            optimizer.step()
            share = layer.carry().item() / first
            if share > 1 or (sign > 0 and share < 1e-2):
                break
        assert 0 < share < 1e-2 if sign > 0 else share > 1


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_imported_carry_is_kept_and_one_of_zero_is_said(path, caplog):
    weights, config, _ = golden(path)
    model = load_reference(weights, config)
    shifts = [w for name, w in weights.items() if name.endswith("learnable_token_idx")]
    dead = 0
    for block, shift in zip(model.blocks, shifts, strict=True):
        wanted = (shift[-1:] + 1 / len(shift)).clamp_min(0)
        torch.testing.assert_close(block.mixer.double().carry().float(), wanted)
        assert (block.mixer.carry() == 0) == (wanted == 0)
        dead += int(wanted == 0)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * dead
    assert all("its last factor is 0" in record.message for record in caplog.records)


@KINDS
def test_fast_weights_and_step_sizes_stay_float32_in_bfloat16(kind):
    model = small(kind, dtype=torch.bfloat16)
    logits, state = model(torch.randint(31, (2, 9)))
    assert logits.dtype == torch.float32
    assert all(x.dtype == torch.float32 for b in state.blocks for x in b.mixer.inner.weights)
    assert all(x.dtype == torch.float32 for b in state.blocks for x in b.mixer.inner.open)
    layer = model.blocks[0].mixer
    assert layer.eta(torch.zeros(1, 2, 16, dtype=torch.bfloat16)).dtype == torch.float32
    assert layer.token_scale().dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@KINDS
@pytest.mark.parametrize("grid", [None, (2, 3)], ids=str)
def test_a_gpu_gives_the_logits_of_the_cpu(kind, grid):
    model, tokens = (
        small(kind, grid, dtype=torch.float32, window_frames=2),
        torch.randint(31, (2, 29)),
    )
    with torch.no_grad():
        wanted = model(tokens)[0]
        model, tokens = model.cuda(), tokens.cuda()
        for cuts in ((29,), (21, 1, 7)):
            logits = run_in_pieces(model, tokens, cuts)[0].cpu()
            assert (logits - wanted).abs().max() <= 1e-4 * wanted.abs().max()


SIZES = {  # width, depth, heads, mlp width; parameters in millions, arXiv 2407.04620's models
    "125m": (768, 12, 12, 2048, {"linear": (110.28, 110.42), "mlp": (114.44, 114.59)}),
    "350m": (1024, 24, 16, 2736, {"linear": (337.29, 337.68), "mlp": (348.40, 348.79)}),
    "760m": (1536, 24, 16, 4096, {"linear": (733.02, 733.61), "mlp": (757.94, 758.53)}),
    "1.3b": (2048, 24, 32, 5504, {"linear": (1284.85, 1285.64), "mlp": (1307.07, 1307.86)}),
}


@KINDS
@pytest.mark.parametrize("size", SIZES)
def test_the_papers_sizes_have_the_papers_parameter_counts(kind, size):
    width, depth, heads, mlp_width, counts = SIZES[size]
    for backbone, millions in zip(("transformer", "mamba"), counts[kind], strict=True):
        ttt = TTTConfig(inner=kind, backbone=backbone)
        with torch.device("meta"):
            model = Backbone(BackboneConfig(32000, width, depth, heads, mlp_width, ttt=ttt))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=5e-3)


def test_weights_are_initialised_as_in_the_paper():
    torch.manual_seed(0)
    model = Backbone(BackboneConfig(vocab_size=500, width=256, depth=1, heads=4, mlp_width=500))
    layer = model.blocks[0].mixer
    for weight in (model.embedding.weight, layer.q_proj.weight, layer.inner_weights[0]):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    for zero in (layer.eta_bias, layer.token_shift, layer.inner_weights[1], layer.conv_q.bias):
        assert not zero.any()
    assert layer.conv_q.weight.std().item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("width, heads, grid", [(10, 3, None), (6, 2, None), (12, 2, (2, 2))])
def test_a_width_that_gives_no_rotary_pairs_is_refused(width, heads, grid):
    with pytest.raises(ValueError, match=f"width {width} over {heads} heads"):
        TTTLayer(width, heads, TTTConfig(), grid)


def test_an_unknown_mixer_is_refused_by_name():
    with pytest.raises(ValueError, match="mixer is 'rnn'; it must be one of ttt, attention, "):
        Backbone(BackboneConfig(mixer="rnn"))
