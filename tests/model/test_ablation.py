"""The ladder from linear attention to TTT, and the theorems that it stands on.

The truths here are written out in the tests, apart from the code that they hold against.
"""

import math

import pytest
import torch

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.kernels import Packed, State, ttt_norm_free
from tttvideo.kernels.baselines import linear_attention as kernel
from tttvideo.mixers.attention import attend
from tttvideo.mixers.linear_attention import LinearAttention, LinearAttentionConfig
from tttvideo.mixers.ttt import TTTConfig, TTTLayer


B, T, H, D = 2, 21, 3, 6
EXACT = {"rtol": 1e-12, "atol": 1e-12}
LONG = kernel.CHUNK + 29
PLAIN = TTTConfig(
    backbone="transformer", mini_batch_size=64, norm=False, learn_start=False, learn_step=False
)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def inputs(M, T=T):
    """q, k, v, eta, token_scale and a start, with nothing equal and nothing zero."""
    torch.manual_seed(0)
    eta, token_scale = torch.rand(B, T, H).double() / 4, torch.rand(M).double() + 0.5
    return *(normal(B, T, H, D) for _ in range(3)), eta, token_scale, State((normal(B, H, D, D),))


@pytest.mark.parametrize("backend", ["dual", "reference"])
def test_one_gradient_step_on_all_of_the_past_from_zero_is_linear_attention(backend):
    """Theorem 1: z_t = sum over s <= t of v_s (k_s . q_t)."""
    q, k, v, *_ = inputs(T)
    ones, zero = torch.ones(B, T, H).double(), State((torch.zeros(B, H, D, D).double(),))
    y, _ = ttt_norm_free(q, k, v, ones, ones[0, :, 0], zero, mini_batch_size=T, backend=backend)
    scores = torch.einsum("bthd,bshd->bhts", q, k)
    causal = torch.arange(T)[:, None] >= torch.arange(T)
    torch.testing.assert_close(y, torch.einsum("bhts,bshd->bthd", scores * causal, v), **EXACT)


def test_softmax_attention_is_the_nonparametric_learner_of_nadaraya_and_watson():
    """Theorem 2: the mean of the labels v_s, s <= t, weighed by the kernel exp(q_t . k_s)."""
    torch.manual_seed(0)
    q, k, v = normal(B, H, T, D), normal(B, H, T, D), normal(B, H, T, D)
    y = attend(q * math.sqrt(D), k, v, None)  # attend divides by the root, the theorem does not
    for t in range(T):
        kernel = torch.exp((q[:, :, t, None] * k[:, :, : t + 1]).sum(-1, keepdim=True))
        estimate = (kernel * v[:, :, : t + 1]).sum(2) / kernel.sum(2)
        torch.testing.assert_close(y[:, :, t], estimate, **EXACT)


@pytest.mark.parametrize("backend", ["dual", "reference"])
def test_mini_batches_of_one_token_are_the_delta_rule(backend):
    """S <- S - eta k^T (k S - v), and the token reads after its own write."""
    q, k, v, eta, _, state = inputs(1)
    one = torch.ones(1).double()
    y, after = ttt_norm_free(q, k, v, eta, one, state, mini_batch_size=1, backend=backend)
    for b in range(B):
        for h in range(H):
            S = state.weights[0][b, h].clone()
            for t in range(T):
                error = k[b, t, h] @ S - v[b, t, h]
                S = S - eta[b, t, h] * torch.outer(k[b, t, h], error)
                torch.testing.assert_close(y[b, t, h], q[b, t, h] @ S, **EXACT)
            torch.testing.assert_close(after.weights[0][b, h], S, **EXACT)


@pytest.mark.parametrize("M, length", [(4, T), (T, T), (LONG, LONG), (LONG + 5, LONG)])
def test_the_norm_free_dual_form_equals_the_reference_and_so_do_its_gradients(M, length):
    *tokens, start = inputs(M, length)
    operands = [x.requires_grad_() for x in (*tokens, *start.weights)]
    found = []
    for backend in ("dual", "reference"):
        state = State((operands[-1],))
        y, after = ttt_norm_free(*operands[:-1], state, mini_batch_size=M, backend=backend)
        results = y, *after.weights, *after.open
        torch.manual_seed(1)
        loss = sum((normal(*x.shape) * x).sum() for x in results)
        found.append((*results, *torch.autograd.grad(loss, operands)))
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["dual", "reference"])
@pytest.mark.parametrize("cuts", [(1,) * T, (3, 1, 9, 8)], ids=str)
def test_any_cut_gives_the_norm_free_model_the_same_output_and_state(cuts, backend):
    *tokens, token_scale, state = inputs(4)
    options = {"mini_batch_size": 4, "backend": backend}
    whole, end = ttt_norm_free(*tokens, token_scale, state, **options)
    ys = []
    for part in zip(*(x.split(cuts, dim=1) for x in tokens), strict=True):
        y, state = ttt_norm_free(*part, token_scale, state, **options)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, dim=1), whole, **EXACT)
    assert state.filled == end.filled
    torch.testing.assert_close((*state.weights, *state.open), (*end.weights, *end.open), **EXACT)


def test_packed_sequences_of_the_norm_free_model_equal_separate_calls():
    *tokens, token_scale, state = inputs(4)
    states = tuple(state.map(lambda x, b=b: x[b : b + 1]) for b in range(B))
    packed = [x.flatten(0, 1)[None] for x in tokens]
    y, after = ttt_norm_free(*packed, token_scale, Packed(states, (T, T)), mini_batch_size=4)
    alone, end = ttt_norm_free(*tokens, token_scale, state, mini_batch_size=4)
    torch.testing.assert_close(y.view_as(alone), alone, **EXACT)
    torch.testing.assert_close(
        torch.cat([s.weights[0] for s in after.states]), end.weights[0], **EXACT
    )


def test_the_norm_free_model_refuses_the_triton_backend():
    *tokens, state = inputs(4)
    with pytest.raises(ValueError, match="'triton' cannot serve: the inner model without a norm"):
        ttt_norm_free(*tokens, state, mini_batch_size=4, backend="triton")
    with pytest.raises(ValueError, match=r"state.weights end in .* they must be \(\(6, 6\),\)"):
        ttt_norm_free(*tokens, State((*state.weights, state.weights[0])), mini_batch_size=4)


@pytest.mark.parametrize("T", [1, kernel.CHUNK, LONG])
def test_chunks_of_linear_attention_equal_token_by_token(T):
    torch.manual_seed(0)
    operands = normal(B, H, T, D), normal(B, H, T, D), normal(B, H, T, 4), normal(B, H, D, 4)
    found = []
    for form in (kernel.linear_attention, kernel.reference):
        leaves = [x.clone().requires_grad_() for x in operands]
        results = form(*leaves)
        loss = sum(x.sin().sum() for x in results)
        found.append((*results, *torch.autograd.grad(loss, leaves)))
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


def test_normalised_linear_attention_is_a_mean_of_values_weighted_by_positive_features():
    torch.manual_seed(0)
    layer = LinearAttention(H * D, H, LinearAttentionConfig()).double()
    q, k, v = normal(B, H, T, D), normal(B, H, T, D), normal(B, H, T, D)
    y, _ = layer.read(q, k, v, layer.init_state(B).memory)
    q, k = (torch.where(x > 0, x + 1, torch.exp(x)) for x in (q, k))
    for t in range(T):
        weights = (q[:, :, t, None] * k[:, :, : t + 1]).sum(-1, keepdim=True)
        mean = (weights * v[:, :, : t + 1]).sum(2) / weights.sum(2)
        torch.testing.assert_close(y[:, :, t], mean, rtol=1e-6, atol=1e-9)  # it adds an epsilon


def test_ttt_by_batch_gradient_descent_equals_plain_linear_attention():
    """Not in the parameters, and not in the function, while one mini-batch holds the sequence."""
    torch.manual_seed(0)
    linear = LinearAttention(24, 4, LinearAttentionConfig(normalise=False)).double()
    ttt = TTTLayer(24, 4, PLAIN).double()
    ttt.load_state_dict(linear.state_dict())
    x = normal(B, 50, 24)
    torch.testing.assert_close(ttt(x)[0], linear(x)[0], **EXACT)


def test_every_switch_of_the_ladder_changes_the_function():
    torch.manual_seed(0)
    x, full = normal(B, 50, 24), TTTConfig(backbone="transformer", mini_batch_size=16)
    outputs, counts = [], []
    for changes in ({}, {"norm": False}, {"learn_start": False}, {"learn_step": False}):
        torch.manual_seed(1)
        layer = TTTLayer(24, 4, TTTConfig(**vars(full) | changes)).double()
        outputs.append(layer(x)[0])
        counts.append(sum(p.numel() for p in layer.parameters()))
    # a norm and a bias; W and b; step sizes of writers and readers
    assert [counts[0] - count for count in counts[1:]] == [3 * 24, 4 * 6 * 7, 4 * 25 + 16]
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("key", ["norm", "learn_start"])
def test_an_inner_mlp_has_a_norm_and_a_learned_start(key):
    with pytest.raises(ValueError, match=f"ttt.{key} is false, which is for ttt.inner linear"):
        TTTLayer(24, 4, TTTConfig(inner="mlp", **{key: False}))


RUNGS = {
    "normalised": {"mixer": "linear_attention"},
    "plain": {
        "mixer": "linear_attention",
        "linear_attention": LinearAttentionConfig(normalise=False),
    },
    "batch": {"ttt": PLAIN},
    "start": {"ttt": TTTConfig(**vars(PLAIN) | {"learn_start": True, "mini_batch_size": 4})},
    "norm": {"ttt": TTTConfig(**vars(PLAIN) | {"norm": True, "mini_batch_size": 4})},
}


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_gives_the_same_logits_for_any_cut_and_learns_across_windows(rung):
    torch.manual_seed(0)
    model = Backbone(BackboneConfig(31, 16, 2, 2, 24, **RUNGS[rung])).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    tokens = torch.randint(31, (2, 29))
    whole, _ = model(tokens)
    first, state = model(tokens[:, :10])
    second, _ = model(tokens[:, 10:], model.attach_carry(model.detach_carry(state)))
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole, rtol=1e-9, atol=1e-9)
    second.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    if model.config.mixer == "ttt" and model.config.ttt.learn_start:
        assert all(block.mixer.inner_weights[0].grad.any() for block in model.blocks)
