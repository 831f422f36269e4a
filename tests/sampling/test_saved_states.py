"""Laws of state files."""

import pytest
import torch

from helpers.models import MIXERS, small
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.decode import Decoding, prefill
from tttvideo.sampling.saved_states import SavedState, load_state_file, save_state_file


def decode(decoding, count, choose):
    """Tokens and the logits after each."""
    for _ in range(count):
        token = choose(decoding.logits)
        decoding.read(token)
        yield token, decoding.logits


@pytest.mark.parametrize("name", MIXERS)
def test_decoding_continues_from_a_file_as_from_the_state_itself(name, tmp_path):
    model, prompt = small(**MIXERS[name]), torch.randint(31, (1, 14))
    choose = Chooser(seed=5)
    decoding = Decoding.start(model, prefill(model, prompt))
    assert len(list(decode(decoding, 3, choose))) == 3
    prefix, draws = decoding.prefix(), choose.generator(0).get_state()
    save_state_file(SavedState(prefix, 17, draws), model, tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    saved, again = load_state_file(tmp_path / "state", model), Chooser()
    again.generator(0).set_state(saved.draws)
    assert saved.tokens == 17
    loaded = Decoding.start(model, saved.prefix)
    for here, there in zip(decode(decoding, 9, choose), decode(loaded, 9, again), strict=True):
        assert torch.equal(here[0], there[0]) and torch.equal(here[1], there[1])


def test_a_state_of_another_model_is_refused(tmp_path):
    model, other = small(), small()
    torch.nn.init.zeros_(other.norm.weight[:1])
    prefix = prefill(model, torch.randint(31, (1, 14)))
    save_state_file(SavedState(prefix, 14), model, tmp_path / "state")
    with pytest.raises(ValueError, match="of another model; load it with the checkpoint that"):
        load_state_file(tmp_path / "state", other)


def test_a_damaged_state_is_refused(tmp_path):
    model, path = small(), tmp_path / "state"
    prefix = prefill(model, torch.randint(31, (1, 14)))
    save_state_file(SavedState(prefix, 14), model, path)
    whole = path.read_bytes()
    torch.save({"state_dict": {}}, tmp_path / "other")
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], (tmp_path / "other").read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a saved state of .*, or not a whole one"):
            load_state_file(path, model)
    with pytest.raises(ValueError, match="there is no saved state"):
        load_state_file(tmp_path / "nowhere", model)
