"""Laws of generation."""

import math

import pytest
import torch

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.sampling.decode import (
    Memory,
    Texts,
    chooser,
    decode,
    decode_frames,
    likelihood,
    load_memory,
    prefill,
    save_memory,
    score,
)


def small(grid=None, **changes):
    torch.manual_seed(0)
    inner = changes.pop("inner", "linear")
    ttt = TTTConfig(inner=inner, mini_batch_size=None if grid else 4)
    model = Backbone(BackboneConfig(31, 16, 2, 2, 24, grid=grid, ttt=ttt, **changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def test_a_long_prompt_read_in_chunks_is_the_prompt_read_at_once():
    model, tokens = small(), torch.randint(31, (2, 23))
    whole, _ = prefill(model, tokens)
    torch.testing.assert_close(prefill(model, tokens, chunk=5)[0], whole, rtol=1e-5, atol=1e-5)


def test_a_prompt_goes_on_where_what_was_heard_ended():
    model, tokens = small(), torch.randint(31, (2, 23))
    whole, _ = prefill(model, tokens)
    parts = prefill(model, tokens[:, 9:], heard=prefill(model, tokens[:, :9]))
    torch.testing.assert_close(parts[0], whole, rtol=1e-5, atol=1e-5)


def test_greedy_decoding_is_what_rereading_everything_would_choose():
    model, tokens = small(), torch.randint(31, (2, 7))
    for token, _ in decode(model, prefill(model, tokens), 9, chooser(temperature=0)):
        again, _ = model(tokens)
        assert torch.equal(token, again[:, -1].argmax(-1))
        tokens = torch.cat((tokens, token[:, None]), dim=1)


def test_frames_are_decoded_as_their_tokens_are():
    model, tokens = small(grid=(2, 3), window_frames=1), torch.randint(31, (1, 12))
    heard = prefill(model, tokens)
    single = [token for token, _ in decode(model, heard, 12, chooser(temperature=0))]
    frames = list(decode_frames(model, heard, 2, chooser(temperature=0)))
    assert [frame.shape for frame in frames] == [(1, 6), (1, 6)]
    assert torch.equal(torch.cat(frames, dim=1), torch.stack(single, dim=1))


@pytest.mark.parametrize("cuts", [(23,), (1, 5, 17)], ids=str)
def test_scores_are_minus_log_probabilities_in_bits(cuts):
    model, tokens = small(), torch.randint(31, (2, 23))
    heard, bits = None, []
    for part in tokens.split(cuts, dim=1):
        cost, heard = score(model, part, heard)
        bits.append(cost)
    bits = torch.cat(bits, dim=1)
    logs = model(tokens)[0].log_softmax(-1) / math.log(2)
    wanted = -logs[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(bits[:, 1:], wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bits[:, 0], torch.full((2,), math.log2(31)), check_dtype=False)


@pytest.mark.parametrize("chunk", [1, 4, 99])
def test_a_likelihood_is_what_all_tokens_score_and_whether_all_are_likeliest(chunk):
    model, tokens = small(), torch.randint(31, (1, 23))
    heard = prefill(model, tokens)
    said = torch.stack([token for token, _ in decode(model, heard, 9, chooser(0.0))], dim=1)
    other = said.clone()
    other[0, 5] = (other[0, 5] + 1) % 31
    for text, likeliest in ((said, True), (other, False)):
        nats, greedy = likelihood(model, text, heard, chunk)
        bits, _ = score(model, text, heard)
        assert nats == pytest.approx(-bits.sum().item() * math.log(2))
        assert greedy == likeliest
    assert likelihood(model, tokens[:, :0], heard) == (0.0, True)


LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def share(choose, draws=4000):
    tokens = choose(LOGITS.expand(draws, -1))
    return (tokens.bincount(minlength=4) / draws).tolist()


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.4}, [1, 0, 0, 0]),
        ({"top_p": 0.81}, [0.526, 0.316, 0.158, 0]),
        ({"temperature": 0.5}, [0.685, 0.247, 0.062, 0.007]),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_the_options_say(options, wanted):
    assert share(chooser(**options, seed=0)) == pytest.approx(wanted, abs=0.03)


def test_a_seed_gives_the_same_draws_again():
    logits = torch.zeros(50, 31)
    first = chooser(seed=3)(logits)
    assert torch.equal(first, chooser(seed=3)(logits))
    assert not torch.equal(first, chooser(seed=4)(logits))


@pytest.mark.parametrize("options", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}], ids=str)
def test_options_without_meaning_are_named(options):
    with pytest.raises(ValueError, match="temperature and top-k must be 0 or more"):
        chooser(**options)


def test_each_row_draws_what_a_seed_of_its_own_gives():
    logits = torch.randn(4, 31)
    together = chooser(seed=3)(logits, rows=[2, 0, 7, 1])
    alone = [
        chooser(seed=3 + row)(one[None]) for one, row in zip(logits, (2, 0, 7, 1), strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_numbers_that_are_none_are_not_drawn_from(temperature):
    with pytest.raises(ValueError, match="logits are not finite"):
        chooser(temperature)(torch.tensor([[0.0, float("nan")]]))


MODELS = {
    "linear": {},
    "mlp": {"inner": "mlp"},
    "attention": {"mixer": "attention"},
    "mamba": {"mixer": "mamba"},
    "video": {"grid": (2, 3), "window_frames": 1},
}
SEED = 5


def alone(model, prompt, count, temperature, row):
    """Tokens of a text by itself, and the logits after each of them."""
    choose = chooser(temperature, seed=SEED + row)
    said = list(decode(model, prefill(model, prompt), count, choose))
    return [token.item() for token, _ in said], [logits for _, (logits, _) in said]


@pytest.mark.parametrize("temperature", [0, 1.0], ids=["greedy", "drawn"])
@pytest.mark.parametrize("lengths", [(3, 9, 14), (6, 30, 18, 12), (5, 5)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_each_of_several_texts_is_as_it_would_be_alone(name, lengths, temperature):
    """Packed, where states are not alike, and as batches."""
    model = small(**MODELS[name])
    prompts = [torch.randint(31, (1, length)) for length in lengths]
    heard = [prefill(model, prompt) for prompt in prompts]
    texts = Texts(model, heard, chooser(temperature, seed=SEED))
    said = [texts.step() for _ in range(7)]
    texts.end(texts.rows)
    for row, prompt in enumerate(prompts):
        tokens, logits = alone(model, prompt, 7, temperature, row)
        assert [step[row] for step in said] == tokens
        torch.testing.assert_close(texts.ended[row][0], logits[-1], rtol=1e-5, atol=1e-5)


def test_texts_that_are_alike_share_their_calls():
    model, calls = small(), []
    model.register_forward_hook(lambda _, inputs, __: calls.append(tuple(inputs[0].shape)))
    for lengths, wanted in (((4, 8, 12), [(3, 1)]), ((4, 5, 6, 7), [(1, 4)])):
        heard = [prefill(model, torch.randint(31, (1, length))) for length in lengths]
        calls.clear()
        Texts(model, heard, chooser()).step()
        assert calls == wanted


def test_a_text_that_ends_leaves_the_others_alone():
    model = small()
    prompts = [torch.randint(31, (1, length)) for length in (4, 8, 5)]
    truth = [alone(model, prompt, 8, 1.0, row)[0] for row, prompt in enumerate(prompts)]
    texts = Texts(model, [prefill(model, p) for p in prompts], chooser(seed=SEED))
    said = [texts.step() for _ in range(3)]
    texts.end([1])
    assert texts.rows == [0, 2]
    said += [texts.step() for _ in range(5)]
    for row in (0, 2):
        assert [step[row] for step in said] == truth[row]
    assert all(1 not in step for step in said[3:])


def test_a_text_ends_at_the_mark_of_the_end_which_is_not_read():
    model, prompt = small(), torch.randint(31, (1, 6))
    tokens, logits = alone(model, prompt, 6, 1.0, 0)
    eos = tokens[-1]
    first = tokens.index(eos)
    texts = Texts(model, [prefill(model, prompt)], chooser(seed=SEED), eos)
    said = []
    while texts.rows:
        said += texts.step().values()
    assert said == tokens[:first]
    torch.testing.assert_close(texts.ended[0][0], logits[first - 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_state_from_a_file_goes_on_as_if_it_had_never_been_away(name, tmp_path):
    model, prompt = small(**MODELS[name]), torch.randint(31, (1, 14))
    choose = chooser(seed=SEED)
    said = list(decode(model, prefill(model, prompt), 3, choose))
    draws = choose.generator(0).get_state()
    save_memory(Memory(said[-1][1], 17, draws), model, tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    memory, again = load_memory(tmp_path / "state", model), chooser()
    again.generator(0).set_state(memory.draws)
    assert memory.tokens == 17
    for here, there in zip(
        decode(model, said[-1][1], 9, choose), decode(model, memory.heard, 9, again), strict=True
    ):
        assert torch.equal(here[0], there[0]) and torch.equal(here[1][0], there[1][0])


def test_a_state_of_another_model_is_refused(tmp_path):
    model, other = small(), small()
    torch.nn.init.zeros_(other.norm.weight[:1])
    heard = prefill(model, torch.randint(31, (1, 14)))
    save_memory(Memory(heard, 14), model, tmp_path / "state")
    with pytest.raises(ValueError, match="of another model; load it with the checkpoint that"):
        load_memory(tmp_path / "state", other)


def test_a_state_that_is_damaged_is_refused(tmp_path):
    model, path = small(), tmp_path / "state"
    heard = prefill(model, torch.randint(31, (1, 14)))
    save_memory(Memory(heard, 14), model, path)
    whole = path.read_bytes()
    torch.save({"state_dict": {}}, tmp_path / "other")
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], (tmp_path / "other").read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a whole state of"):
            load_memory(path, model)
    with pytest.raises(ValueError, match="there is no saved state"):
        load_memory(tmp_path / "nowhere", model)
