"""Laws of the measures: costs of tokens, averages over documents, inner losses, spans."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.models import small
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.data import eval_targets
from tttvideo.kernels import Packed, inner, reference
from tttvideo.measures.costs import reset_costs, token_costs
from tttvideo.measures.document_stats import Tally, log_bins, ratio, tally
from tttvideo.measures.inner_loss import inner_losses
from tttvideo.mixers.ttt import TTTConfig


MODELS = ("linear", "mlp", "attention", "mamba")
V, M = 11, 4


def model(kind):
    """A tiny backbone in float64."""
    mixer, inner = ("ttt", kind) if kind in ("linear", "mlp") else (kind, "linear")
    backbone = small(inner, M=M, mixer=mixer, vocab_size=V, width=8, mlp_width=12)
    for block in backbone.blocks if mixer == "ttt" else ():
        torch.nn.init.zeros_(block.mixer.token_shift)  # or steps could have length 0
    return backbone


def draw(*shape):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def whole(backbone, tokens):
    """Costs (N, T) by one forward."""
    logits, _ = backbone(tokens[:, :-1])
    return F.cross_entropy(logits.mT, tokens[:, 1:], reduction="none")


def close(came, wanted):
    torch.testing.assert_close(came, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch", [7, 16, 50, 1000])
@pytest.mark.parametrize("kind", MODELS)
def test_costs_with_the_state_carried_from_call_to_call_equal_one_forward(kind, batch):
    backbone, tokens = model(kind), draw(3, 23)
    read = []
    close(token_costs(backbone, tokens, batch=batch, advance=read.append), whole(backbone, tokens))
    assert sum(read) == 3 * 22
    last = token_costs(backbone, tokens, last=9, batch=batch)
    close(last, whole(backbone, tokens)[:, -9:])


@pytest.mark.parametrize("reset", [1, 5, 11, 22, 100])
@pytest.mark.parametrize("kind", MODELS)
def test_the_reset_control_equals_forwards_of_separate_pieces(kind, reset):
    backbone, tokens = model(kind), draw(2, 23)
    pieces = [whole(backbone, tokens[:, a : a + reset + 1]) for a in range(0, 22, reset)]
    close(reset_costs(backbone, tokens, reset, batch=30), torch.cat(pieces, dim=1))


class Largest(TorchDispatchMode):
    """The size of the largest tensor that an operation returned."""

    found = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        for leaf in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(leaf, torch.Tensor):
                self.found = max(self.found, leaf.numel())
        return result


@pytest.mark.parametrize("kind", ["linear", "mamba"])
def test_no_tensor_of_a_call_grows_with_the_length_of_the_text(kind, monkeypatch):
    monkeypatch.setattr("tttvideo.reading.LOGITS", 20 * V)
    backbone, sizes = model(kind), []
    for T in (96, 288):
        tokens = draw(1, T + 1)
        with Largest() as largest:
            token_costs(backbone, tokens, batch=32)
        sizes.append(largest.found)
    assert 20 * V <= sizes[0] == sizes[1]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 100, 1000])
def test_bins_hold_every_token_once_and_their_weighted_mean_is_the_total(length):
    random = np.random.default_rng(0)
    costs, targets = random.random((3, length)), random.integers(0, 3, (3, length))
    lengths, edges = np.array([1, 3, 0]), log_bins(length)
    assert edges[0] == 1 and edges[-1] == length + 1 and (np.diff(edges) > 0).all()
    t = tally(costs, targets, lengths, None, edges)
    assert t.tokens.sum(axis=0).tolist() == (3 * np.diff(edges)).tolist()
    bins = [t.nats_per_token(k) for k in range(len(edges) - 1)]
    weighted = sum(e.value * n for e, n in zip(bins, np.diff(edges), strict=True)) / length
    assert weighted == pytest.approx(costs.mean()) == t.nats_per_token().value


def test_bits_per_byte_exclude_marks_and_nats_per_token_only_bos():
    lengths = np.array([1, 3, 2, 0, 0])  # of pieces "a", "the", "is", BOS, EOS
    bos, eos = 3, 4
    targets = np.array([[0, 1, eos, bos, 2]])
    costs = np.array([[1.0, 2.0, 4.0, 8.0, 16.0]])
    t = tally(costs, targets, lengths, bos)
    assert t.nats_per_token().value == pytest.approx((1 + 2 + 4 + 16) / 4)
    assert t.bits_per_byte().value == pytest.approx((1 + 2 + 16) / math.log(2) / (1 + 3 + 2))


def test_the_error_is_that_of_the_mean_over_documents():
    e = ratio(np.array([2.0, 4.0, 4.0, 10.0]), np.array([2, 2, 2, 2]))
    means = np.array([1, 2, 2, 5])
    assert e.value == 2.5 and e.documents == 4
    assert e.error == pytest.approx(means.std(ddof=1) / 2)
    assert e.margin == pytest.approx(3.182446 * e.error)  # Student's t of three degrees of freedom
    assert e.z == pytest.approx(2.5 / e.error)
    e = ratio(np.array([1.0, 5.0]), np.array([1, 3]))  # 1.5; residuals -0.5 and 0.5
    assert e.value == 1.5 and e.error == pytest.approx(math.sqrt(2 * 0.5) / 4)


def test_one_document_has_no_error_and_empty_documents_do_not_count():
    assert ratio(np.array([3.0]), np.array([2])) == ratio(np.array([3.0, 0]), np.array([2, 0]))
    assert ratio(np.array([3.0]), np.array([2])).margin is None


def test_differences_are_paired_token_by_token():
    """Documents differ much and their difference does not, so the error is small."""
    targets = np.zeros((3, 4), int)
    base = np.repeat([[1.0], [5.0], [9.0]], 4, axis=1)
    both = [tally(x, targets, np.array([1]), None) for x in (base + 0.25, base)]
    e = both[0].minus(both[1]).nats_per_token()
    assert e.value == pytest.approx(0.25) and e.error == pytest.approx(0)
    assert both[0].nats_per_token().error > 1


def test_targets_are_summed_by_their_documents_and_seeds_are_averaged():
    t = Tally(*(np.array([[1.0], [2.0], [4.0]]) for _ in range(4))).grouped(np.array([1, 0, 1]), 3)
    assert t.nats.tolist() == [[2], [5], [0]]
    assert Tally.mean([t, t.minus(t)]).nats.tolist() == [[1], [2.5], [0]]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_inner_losses_are_those_of_the_definition(kind):
    """By the specification, token by token; and in a layer whose steps are small the loss falls."""
    backbone, tokens = model(kind), draw(2, 3 * M + 1)
    for block in backbone.blocks:
        block.mixer.config = replace(block.mixer.config, base_lr=0.01)
    layer, calls = backbone.blocks[0].mixer, []
    layer.register_forward_hook(lambda _, arguments, result: calls.append(arguments[0]))
    found = inner_losses(backbone, tokens)
    assert [len(losses.after) for losses in found] == [3, 3]
    x, norm = torch.cat(calls, dim=1), (layer.norm_weight, layer.norm_bias)
    with torch.no_grad():
        state = layer.init_state(2)
        q, k, v, _ = layer.views(x, Packed((state,), (3 * M,)))
        eta, scale, inner_state = layer.eta(x), layer.token_scale(), state.inner
        per_token = tuple(n[:, None] for n in norm)
        for i in range(3):
            cut = slice(i * M, i * M + M)
            parts = [y[:, cut] for y in (q, k, v, eta)]
            keys, values = (y.transpose(1, 2) for y in parts[1:3])
            _, after = reference.read_tokens(*parts, scale, *norm, inner_state)
            of = {"initial": state.inner, "before": inner_state, "after": after}
            for name, at in of.items():
                mean = inner.loss(at.weights, keys, values, per_token) / (2 * 2 * M)
                assert getattr(found[0], name)[i] == pytest.approx(mean.item(), abs=1e-9)
            inner_state = after
    for losses in found:
        assert all(a < b for a, b in zip(losses.after, losses.before, strict=True))


def test_the_inner_loss_without_a_norm_falls_too():
    torch.manual_seed(0)
    ttt = TTTConfig(mini_batch_size=M, norm=False, learn_step=False, base_lr=0.01)
    backbone = Backbone(BackboneConfig(V, 8, 1, 2, 12, ttt=ttt)).double()
    (losses,) = inner_losses(backbone, draw(2, 3 * M))
    assert losses.before[0] == losses.initial[0]
    assert all(a < b for a, b in zip(losses.after, losses.before, strict=True))


def test_a_model_without_an_inner_loop_is_refused():
    with pytest.raises(ValueError, match="a model of attention has no inner loop"):
        inner_losses(model("attention"), draw(1, 8))
    with pytest.raises(ValueError, match="3 tokens are less than a mini-batch of 4"):
        inner_losses(model("linear"), draw(1, 3))


def test_documents_long_enough_are_taken_evenly():
    starts = np.array([0, 10, 15, 40, 60])  # sizes 10 5 25 20 40
    begins, sizes = eval_targets.choose_documents(starts, 100, 10, most=3)
    assert begins.tolist() == [0, 40, 60] and sizes.tolist() == [10, 20, 40]
    with pytest.raises(ValueError, match="the longest has 40; choose --length 39 or less, or --jo"):
        eval_targets.choose_documents(starts, 100, 41, most=3)


def test_joined_documents_begin_with_one_and_share_no_token():
    starts = np.array([0, 10, 15, 40, 60])
    begins, sizes = eval_targets.choose_documents(starts, 100, 30, most=9, join=True)
    assert begins.tolist() == [0, 40] and sizes.tolist() == [30, 30]
    with pytest.raises(ValueError, match="choose --length 99 or less$"):
        eval_targets.choose_documents(starts, 100, 101, most=9, join=True)


def test_targets_have_their_context_and_do_not_overlap():
    owners, places = eval_targets.place_targets([20, 28, 100], context=16, span=4, most=3)
    assert owners.tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert places.tolist() == [16, 16, 20, 24, 16, 56, 96]


@pytest.mark.parametrize("context", [3, 8, 19])
def test_shuffled_contexts_hold_the_same_pieces_and_none_of_their_own_document(context):
    owners = np.array([0, 0, 1, 1, 1, 2, 3])
    contexts = np.arange(7 * context).reshape(7, context)
    found = eval_targets.shuffle_pieces(contexts, owners, piece=8)
    assert sorted(found.flat) == list(range(7 * context))
    assert (owners[found // context] != owners[:, None]).all()
    pieces = found[:, context % 8 :].reshape(-1, 8)
    assert (np.diff(pieces, axis=1) == 1).all()
    assert not eval_targets.can_shuffle(np.array([0, 0, 1]))


def test_gathered_rows_are_tokens_and_zeros_behind_the_last():
    assert eval_targets.read_rows(np.arange(10) + 1, [0, 8], 3).tolist() == [[1, 2, 3], [9, 10, 0]]
