"""Laws of the range coder: any symbols come back, in as many bytes as their probability says."""

import math
import random

import pytest

from tttvideo.sampling.range_coder import TOTAL, RangeDecoder, RangeEncoder


def split(generator, symbols, kind):
    """Ends of `symbols` parts of TOTAL: about equal, very unequal, or all but one of size 1."""
    if kind == "certain":
        place = generator.randrange(symbols)
        return [n if n <= place else TOTAL - symbols + n for n in range(symbols + 1)]
    weights = [generator.random() ** (40 if kind == "unequal" else 1) for _ in range(symbols)]
    scale = (TOTAL - symbols) / (sum(weights) + 1e-9)
    sizes = [1 + int(weight * scale) for weight in weights]
    sizes[0] += TOTAL - sum(sizes)
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return ends


def draw(generator, ends, likely):
    """A symbol by its probability, or any."""
    if not likely:
        return generator.randrange(len(ends) - 1)
    place = generator.randrange(TOTAL)
    return next(n for n, end in enumerate(ends[1:]) if place < end)


def code(models, symbols):
    encoder = RangeEncoder()
    for ends, symbol in zip(models, symbols, strict=True):
        encoder.encode(ends[symbol], ends[symbol + 1] - ends[symbol])
    return encoder.finish()


def decode(data, models):
    decoder, found = RangeDecoder(data), []
    for ends in models:
        target = decoder.target()
        symbol = next(n for n, end in enumerate(ends[1:]) if target < end)
        decoder.remove(ends[symbol], ends[symbol + 1] - ends[symbol])
        found.append(symbol)
    return found, decoder.is_finished


@pytest.mark.parametrize("likely", [True, False], ids=["likely", "any"])
@pytest.mark.parametrize("kind", ["equal", "unequal", "certain"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 17, 400])
def test_symbols_come_back_and_cost_what_their_probability_says(count, kind, likely):
    for seed in range(20):
        generator = random.Random(seed)
        models = [split(generator, generator.choice([1, 2, 3, 50]), kind) for _ in range(count)]
        symbols = [draw(generator, ends, likely) for ends in models]
        data = code(models, symbols)
        assert decode(data, models) == (symbols, True)
        bits = sum(
            math.log2(TOTAL / (ends[symbol + 1] - ends[symbol]))
            for ends, symbol in zip(models, symbols, strict=True)
        )
        assert bits - 1e-6 <= 8 * len(data) <= bits + 8 + 1e-6


@pytest.mark.parametrize("first", [0, 1])
def test_a_carry_runs_through_all_bytes_before_it(first):
    """Symbols at the upper end make bytes of 255, until one that lies above them."""
    ends = [0, TOTAL - 1, TOTAL]
    symbols = [first] + [1] * 40 + [0, 1, 1]
    data = code([ends] * len(symbols), symbols)
    assert decode(data, [ends] * len(symbols)) == (symbols, True)
    thirds = [0, TOTAL // 3, 2 * TOTAL // 3, TOTAL]
    symbols = [1] * 3000 + [2]
    assert decode(code([thirds] * 3001, symbols), [thirds] * 3001) == (symbols, True)


def test_bytes_that_are_cut_off_end_the_decoding_and_others_are_noticed():
    generator = random.Random(0)
    models = [split(generator, 50, "equal") for _ in range(300)]
    symbols = [draw(generator, ends, True) for ends in models]
    data = code(models, symbols)
    with pytest.raises(ValueError, match="ends before its symbols do"):
        decode(data[: len(data) // 2], models)
    assert not decode(data + b"\0", models)[1]
    changed = bytes([*data[:-9], data[-9] ^ 1, *data[-8:]])
    assert decode(changed, models)[0] != symbols
