"""Laws of files of weights from strangers: damaged or forged ones are refused in one line."""

import io
import os
import random
import zipfile

import pytest
import torch

from helpers.models import small
from tttvideo.sampling.decode import prefill
from tttvideo.sampling.saved_states import SavedState, load_state_file, save_state_file
from tttvideo.weights import checkpoints
from tttvideo.weights.checkpoints import (
    TokenCheckpoint,
    load_tokens_model,
    save_tokens_model,
    save_torch_file,
)


MUTANTS = 1000


@pytest.fixture
def model(tmp_path):
    model = small(dtype=torch.float32)
    save_tokens_model(TokenCheckpoint(model, "bytes", bos=1, eos=2), tmp_path / "a.ckpt")
    prefix = prefill(model, torch.tensor([[1, 2, 3]]))
    save_state_file(SavedState(prefix, 3), model, tmp_path / "a.state")
    return model


def mutated(whole: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut off, put in, or a part set to zeros."""
    place, size = rng.randrange(len(whole)), rng.choice((1, 1, 4, 64, 1024))
    kind = rng.choice(("change", "cut", "put", "zero", "drop"))
    if kind == "cut":
        return whole[:place]
    put = bytes(size) if kind == "zero" else b"" if kind == "drop" else rng.randbytes(size)
    return whole[:place] + put + whole[place + (0 if kind == "put" else size) :]


@pytest.mark.parametrize("name", ["a.ckpt", "a.state"])
def test_changed_files_are_refused_in_one_line_but_for_two_in_a_thousand(tmp_path, model, name):
    whole, rng = (tmp_path / name).read_bytes(), random.Random(0)
    weights = model.state_dict()
    refused = other = 0
    for _ in range(MUTANTS):
        (tmp_path / name).write_bytes(mutated(whole, rng))
        try:
            if name == "a.ckpt":
                found = load_tokens_model(tmp_path / name).backbone.state_dict()
                other += not all(torch.equal(found[key], weights[key]) for key in weights)
            else:
                assert load_state_file(tmp_path / name, model).tokens == 3
        except ValueError as error:
            refused += 1
            assert name in str(error) and "\n" not in str(error)
    assert refused > MUTANTS / 2
    assert other <= MUTANTS / 500  # changes of the archive's directory, which no checksum covers


def test_one_bit_of_a_weight_is_noticed(tmp_path, model):
    whole = (tmp_path / "a.ckpt").read_bytes()
    place = whole.index(model.embedding.weight.detach().numpy().tobytes())
    (tmp_path / "a.ckpt").write_bytes(
        whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    )
    with pytest.raises(ValueError, match=r"a\.ckpt is not a checkpoint .*checksum of .* differs"):
        load_tokens_model(tmp_path / "a.ckpt")


SIZES = {"depth": 10_000, "vocab_size": 20_000_000, "width": 1 << 30, "mlp_width": 1 << 30}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_without_weights_is_refused_before_a_model_is_built(
    tmp_path, model, monkeypatch, name
):
    content = torch.load(tmp_path / "a.ckpt")
    content["tttvideo"]["backbone"][name] = SIZES[name]
    save_torch_file(content, tmp_path / "a.ckpt")
    monkeypatch.setattr(checkpoints, "Backbone", None)
    with pytest.raises(ValueError, match=f"a.ckpt does not fit .*: {name} is {SIZES[name]}"):
        load_tokens_model(tmp_path / "a.ckpt")


def repeated(depth=60):
    part = []
    for _ in range(depth):
        part = [part, part]
    return part


FORGED = {
    "lists in lists": lambda: repeated(),
    "a tensor that repeats": lambda: torch.zeros(1).expand(1 << 40),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_small_file_of_large_parts_is_refused(tmp_path, model, kind):
    content = torch.load(tmp_path / "a.ckpt") | {"more": FORGED[kind]()}
    save_torch_file(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt .*its parts are larger than the file"):
        load_tokens_model(tmp_path / "a.ckpt")


def test_a_packed_archive_is_refused(tmp_path, model):
    with zipfile.ZipFile(tmp_path / "a.ckpt") as old:
        parts = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as new:
        for name, part in parts.items():
            new.writestr(name, part + bytes(1 << 20))
    with pytest.raises(ValueError, match=r"a\.ckpt .*its parts are larger than the file"):
        load_tokens_model(tmp_path / "a.ckpt")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, model, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    before = (tmp_path / "a.ckpt").read_bytes()
    monkeypatch.setattr(checkpoints, "open", lambda path, mode: Full(path, "w"), raising=False)
    with pytest.raises(OSError, match=r"a\.ckpt cannot be written: No space left on device"):
        save_tokens_model(TokenCheckpoint(model, "bytes"), tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "a.state"]
