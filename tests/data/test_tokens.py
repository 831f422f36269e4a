"""Laws of token files, and of folders of them."""

import json
import os
import random
import resource
import sys
from dataclasses import replace

import numpy as np
import pytest

from tttvideo.data import tokens as tokens_module
from tttvideo.data.text.documents import BYTES
from tttvideo.data.tokens import (
    HEADER_BYTES,
    MAGIC,
    Header,
    TokenFile,
    file_hash,
    open_tokens,
    token_writer,
)


VIDEO = Header("video", "abc", 1000, grid=(2, 3), fps=12.5)
PIXELS = replace(VIDEO, grid=(1, 1))


def write(path, header, documents):
    with token_writer(path, header) as out:
        for tokens in documents:
            out.start_document()
            out.write(np.array(tokens))
    return TokenFile(path)


@pytest.mark.parametrize("header", [BYTES, PIXELS, Header("text", "bpe", 100_000)], ids=str)
def test_tokens_starts_and_header_are_read_back(tmp_path, header):
    top = header.vocab_size - 1
    file = write(tmp_path / "new/a.bin", header, [[1, 2, top], [], [top]])
    assert file.tokens.tolist() == [1, 2, top, top]
    assert file.starts.tolist() == [0, 3, 3]
    assert (file.header.tokens, file.header.documents) == (4, 3)
    for name in ("grid", "fps", "bos", "eos"):
        assert getattr(file.header, name) == getattr(header, name)
    assert not list(tmp_path.rglob("*.partial"))


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    write(tmp_path / "a.bin", BYTES, [[7]])
    with pytest.raises(KeyError), token_writer(tmp_path / "a.bin", BYTES) as out:
        out.write(np.array([1, 2]))
        raise KeyError
    assert TokenFile(tmp_path / "a.bin").tokens.tolist() == [7]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_is_synchronised_before_it_is_renamed(tmp_path, monkeypatch):
    written, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (real(file), written.append(os.fstat(file))))

    def rename(source, target, replace=os.replace):
        assert [(file.st_ino, file.st_size) for file in written] == [
            (source.stat().st_ino, source.stat().st_size)
        ]
        replace(source, target)

    monkeypatch.setattr(os, "replace", rename)
    assert write(tmp_path / "a.bin", BYTES, [[7, 8]]).tokens.tolist() == [7, 8]


def test_a_file_that_is_no_token_file_is_named(tmp_path):
    path = tmp_path / "a.bin"
    path.write_text("hello")
    with pytest.raises(ValueError, match="a.bin is not a token file; make one with"):
        TokenFile(path)
    write(path, BYTES, [[1, 2, 3]])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="bytes, but its header asks for"):
        TokenFile(path)
    path.write_bytes(whole.replace(b'"tokens"', b'"takens"'))
    with pytest.raises(ValueError, match="damaged header"):
        TokenFile(path)
    write_empty = tmp_path / "empty.bin"
    with token_writer(write_empty, BYTES):
        pass
    with pytest.raises(ValueError, match="holds no tokens"):
        TokenFile(write_empty)


WRONG = {
    "kind": ["sound", 3, None, "video"],
    "tokenizer": [3, None],
    "vocab_size": ["258", 258.0, True, 0, -1, 1 << 40, 10**30, None],
    "grid": [[2], [2, 3], [0, 3], "23", 6],
    "fps": ["x", -1, 0, float("nan"), float("inf"), True],
    "tokens": [-1, 1 << 62, "6", 10**4000, None, [6]],
    "documents": [-1, 0, 1 << 62, "3", True],
    "bos": [258, -1, "256", [256]],
    "eos": [258, 1.5],
    "conditions": [["smells"], ["poses", "poses"], "poses", [3], {}],
    "action_kinds": [0, -3, "4"],
    "pose_periods": [[6], [6, 0], [6, 6, 6]],
    "copies": [1, "yes"],
    "smell": [1],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_header_with_a_value_that_cannot_be_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / "a.bin"
    write(path, BYTES, [[1, 2, 3], [], [4, 5, 6]])
    whole = path.read_bytes()
    for value in WRONG[name]:
        fields = json.loads(whole[len(MAGIC) : HEADER_BYTES]) | {name: value}
        head = MAGIC + json.dumps(fields).encode()
        path.write_bytes(head.ljust(HEADER_BYTES) + whole[HEADER_BYTES:])
        with pytest.raises(ValueError, match=r"a\.bin has (a damaged header|4\d* byt)") as error:
            open_tokens(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300 + len(str(path))


@pytest.mark.parametrize("head", [b"", b"{}", b"[]", b"[" * 4000, b"null", b'{"kind":"text"}'])
def test_a_header_that_is_no_header_is_refused_in_one_line(tmp_path, head):
    path = tmp_path / "a.bin"
    path.write_bytes((MAGIC + head).ljust(HEADER_BYTES) + bytes(100))
    with pytest.raises(ValueError, match=r"a\.bin has a damaged header \(.*\); prepare it again"):
        open_tokens(path)


@pytest.mark.parametrize("starts", [(1, 3), (0, -1), (3, 0), (0, 7), (0, 1 << 62), (-(1 << 63), 0)])
def test_starts_of_documents_out_of_order_are_refused(tmp_path, starts):
    path = tmp_path / "a.bin"
    write(path, BYTES, [[1, 2, 3], [4, 5, 6]])
    path.write_bytes(path.read_bytes()[:-16] + np.array(starts, "<i8").tobytes())
    with pytest.raises(ValueError, match=r"a\.bin has starts of documents out of order"):
        open_tokens(path)


def test_a_video_begins_with_a_frame(tmp_path):
    path = tmp_path / "a.bin"
    write(path, VIDEO, [[1] * 6, [2] * 6])
    path.write_bytes(path.read_bytes()[:-8] + np.array([3], "<i8").tobytes())
    with pytest.raises(ValueError, match=r"a\.bin has starts of documents out of order"):
        open_tokens(path)


def test_ten_thousand_changed_headers_are_refused_in_one_line_or_fit_the_file(tmp_path):
    path, rng = tmp_path / "a.bin", random.Random(0)
    write(path, VIDEO, [[1] * 6, [2] * 12])
    whole = path.read_bytes()
    end, refused = whole.index(b"}") + 1, 0
    values = [b"null", b"-1", b"0", b'"x"', b"[]", b"[2,3]", b"{}", b"1e999", b"NaN", b"true"]
    names = list(json.loads(whole[len(MAGIC) : HEADER_BYTES]))
    for _ in range(10_000):
        head = bytearray(whole[:HEADER_BYTES])
        if rng.random() < 0.5:
            for _ in range(rng.randint(1, 4)):
                head[rng.randrange(end)] = rng.randrange(256)
        else:  # a value of another type under a name that exists
            fields = json.loads(head[len(MAGIC) :]) | {rng.choice(names): "?"}
            text = json.dumps(fields).encode().replace(b'"?"', rng.choice(values))
            head = (MAGIC + text).ljust(HEADER_BYTES)
        path.write_bytes(head + whole[HEADER_BYTES:])
        try:
            data = open_tokens(path)
            assert len(data.tokens) == 18 and data.starts.tolist() == [0, 6]
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 5_000


def change_token(path, place, token):
    with open(path, "r+b") as file:
        file.seek(HEADER_BYTES + 2 * place)
        file.write(np.array(token, "<u2").tobytes())


def test_a_token_above_the_vocabulary_is_refused_at_opening_or_when_it_is_read(corpus, monkeypatch):
    shard = corpus / "train/00002.bin"
    change_token(shard, 4, 258)
    message = r"00002\.bin has the token 258, and its vocabulary ends at 257"
    with pytest.raises(ValueError, match=message):
        open_tokens(corpus / "train")
    monkeypatch.setattr(tokens_module, "FEW", 0)  # as if there were many
    data = open_tokens(corpus / "train")
    assert len(data.tokens[:9]) == 9
    for read in (slice(0, 11), slice(9, 10), 9):
        with pytest.raises(ValueError, match="has the token 258, and its vocabulary ends at 257"):
            data.tokens[read]
    with pytest.raises(ValueError, match=message):
        open_tokens(corpus / "train", verify=True)


def test_verify_compares_every_file_with_the_hash_in_the_manifest(corpus):
    open_tokens(corpus / "train", verify=True)
    change_token(corpus / "train/00002.bin", 4, 77)
    assert open_tokens(corpus / "train").tokens[9] == 77
    with pytest.raises(ValueError, match=r"00002\.bin is not the file that manifest.json lists"):
        open_tokens(corpus / "train", verify=True)


SHARDS = [None, 3, [3], [{}], [{"file": 3}], [{"file": "train/a.bin", "tokens": "x"}]]


@pytest.mark.parametrize("shards", SHARDS, ids=str)
def test_a_manifest_of_wrong_types_is_refused_in_one_line(corpus, shards):
    (corpus / "manifest.json").write_text(json.dumps({"shards": shards}))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged; prepare it again"):
        open_tokens(corpus / "train")


KNOWN = replace(VIDEO, conditions=("poses", "actions"), action_kinds=4)


def write_known(path, frames, header=KNOWN):
    """A video whose frame f has f as each token, pose (f, -f) and action f."""
    rows = np.array(frames)
    with token_writer(path, header) as out:
        for part in (rows[:1], rows[1:]):
            out.start_document()
            poses = np.stack((part, -part), axis=1)
            out.write(part.repeat(6), poses=poses, actions=part)
    return TokenFile(path)


def test_conditions_are_read_back_with_a_row_per_frame(tmp_path):
    file = write_known(tmp_path / "a.bin", [0, 1, 2])
    assert file.conditions["poses"].tolist() == [[0, 0], [1, -1], [2, -2]]
    assert file.conditions["actions"].tolist() == [0, 1, 2]
    assert file.header.action_kinds == 4 and file.header.conditions == ("poses", "actions")
    write_known(tmp_path / "b.bin", [3, 4])
    joined = open_tokens(tmp_path).conditions
    assert joined["poses"][2:4].tolist() == [[2, -2], [3, -3]]
    write(tmp_path / "a.bin", VIDEO, [[0] * 12])
    assert TokenFile(tmp_path / "a.bin").conditions == {}


def test_conditions_of_another_form_are_refused(tmp_path):
    write_known(tmp_path / "a.bin", [0, 1, 2])
    whole = (tmp_path / "a.poses.npy").read_bytes()
    np.savez(tmp_path / "zip.npz", np.zeros((3, 2)))
    for rows in (np.zeros(3), np.zeros((3, 2), "S4"), np.zeros((3, 2), bool), np.float32(3)):
        np.save(tmp_path / "a.poses.npy", rows)
        with pytest.raises(ValueError, match=r"a\.poses\.npy is missing or damaged"):
            TokenFile(tmp_path / "a.bin")
    for content in (whole[:-1], whole.replace(b"(3, 2)", b"(3, 9)"), b"", b"\x93NUMPY" + bytes(99)):
        (tmp_path / "a.poses.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.poses\.npy is missing or damaged"):
            TokenFile(tmp_path / "a.bin")
    (tmp_path / "zip.npz").rename(tmp_path / "a.poses.npy")
    with pytest.raises(ValueError, match=r"a\.poses\.npy is missing or damaged"):
        TokenFile(tmp_path / "a.bin")


def test_conditions_that_are_not_of_the_file_are_refused(tmp_path):
    write_known(tmp_path / "a.bin", [0, 1, 2])
    np.save(tmp_path / "a.poses.npy", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="a.poses.npy has 2 rows for 3 frames; prepare it again"):
        TokenFile(tmp_path / "a.bin")
    (tmp_path / "a.poses.npy").unlink()
    with pytest.raises(ValueError, match="a.poses.npy is missing or damaged"):
        TokenFile(tmp_path / "a.bin")
    write_known(tmp_path / "a.bin", [0, 1, 2])
    write_known(tmp_path / "b.bin", [0, 1], replace(KNOWN, action_kinds=5))
    with pytest.raises(ValueError, match="action_kinds is 4 and 5"):
        open_tokens(tmp_path)


def test_the_hashes_are_of_what_was_written_and_a_document_that_was_taken_back_is_not(tmp_path):
    with token_writer(tmp_path / "a.bin", KNOWN) as out:
        for token in (1, 2, 3):
            out.start_document()
            out.write(np.full(6, token), poses=np.full((1, 2), token), actions=np.array([token]))
            out.cut_back(min(2, token))
    assert TokenFile(tmp_path / "a.bin").tokens.tolist() == [1] * 6 + [2] * 6
    names = ("a.bin", "a.poses.npy", "a.actions.npy")
    assert out.hashes == {tmp_path / name: file_hash(tmp_path / name) for name in names}


@pytest.mark.parametrize("name, place", [("a.bin", 10), ("a.bin", -20), ("a.poses.npy", -1)])
def test_a_file_that_does_not_hold_what_was_written_is_refused(tmp_path, name, place):
    with (
        pytest.raises(OSError, match=f"{name}.* does not hold what was written to it; another"),
        token_writer(tmp_path / "a.bin", KNOWN) as out,
    ):
        out.start_document()
        out.write(np.full(6, 1), poses=np.full((1, 2), 1), actions=np.array([1]))
        finish = out.finish

        def finish_then_change():
            finish()
            with open(tmp_path / f"{name}.partial", "r+b") as file:
                file.seek(place, os.SEEK_SET if place > 0 else os.SEEK_END)
                file.write(b"?")

        out.finish = finish_then_change
    assert not list(tmp_path.iterdir())


DOCUMENTS = [[[1, 2, 3], [4]], [[5]], [[], [6, 7, 8, 9], [10, 11]]]


@pytest.fixture
def corpus(tmp_path):
    """The manifest of a folder of three shards, train/, that holds tokens 1 to 11."""
    shards = []
    for number, documents in enumerate(DOCUMENTS):
        file = write(tmp_path / f"train/{number:05}.bin", BYTES, documents)
        facts = {"tokens": len(file.tokens), "documents": len(documents)}
        shards.append({"file": f"train/{number:05}.bin", "sha256": file_hash(file.path), **facts})
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": shards}))
    return tmp_path


def test_shards_are_read_as_one(corpus):
    tokens = open_tokens(corpus / "train")
    assert tokens.path == corpus / "train"
    assert (tokens.header.tokens, tokens.header.documents, tokens.header.bos) == (11, 6, 256)
    assert tokens.starts.tolist() == [0, 3, 4, 5, 5, 9] and tokens.starts.dtype == np.int64
    whole = np.arange(1, 12)
    assert len(tokens.tokens) == 11
    for start in range(-12, 13):
        for stop in [*range(-12, 13), None]:
            part = tokens.tokens[start:stop]
            assert part.dtype == np.uint16 and np.array_equal(part, whole[start:stop])
    assert [tokens.tokens[n] for n in range(-11, 11)] == [*whole, *whole]
    with pytest.raises(IndexError):
        tokens.tokens[11]


def test_a_slice_inside_a_shard_is_not_copied(corpus):
    tokens = open_tokens(corpus / "train")
    for start, stop, shard in ((0, 4, 0), (4, 5, 1), (6, 11, 2)):
        assert np.shares_memory(tokens.tokens[start:stop], tokens.files[shard].tokens)


def test_a_single_file_is_opened_like_a_folder(corpus):
    tokens = open_tokens(corpus / "train/00000.bin")
    assert tokens.tokens[:].tolist() == [1, 2, 3, 4] and tokens.starts.tolist() == [0, 3]
    assert tokens.header == TokenFile(corpus / "train/00000.bin").header


def test_a_fingerprint_depends_on_the_content_with_and_without_a_manifest(corpus):
    listed = open_tokens(corpus / "train").fingerprint
    (corpus / "manifest.json").unlink()
    assert open_tokens(corpus / "train").fingerprint == listed
    (corpus / "train").rename(corpus / "elsewhere")
    assert open_tokens(corpus / "elsewhere").fingerprint == listed
    write(corpus / "elsewhere/00001.bin", BYTES, [[6]])
    assert open_tokens(corpus / "elsewhere").fingerprint != listed
    one = open_tokens(corpus / "elsewhere/00000.bin").fingerprint
    assert one != open_tokens(corpus / "elsewhere/00001.bin").fingerprint


def test_shards_that_do_not_belong_together_are_refused(corpus):
    for header, message in (
        (Header("text", "abc", 258, bos=256, eos=257), "tokenizer is bytes and abc"),
        (Header("text", "bytes", 258), "bos is 256 and None"),
        (PIXELS, "kind is text and video"),
    ):
        write(corpus / "train/00001.bin", header, [[5]])
        with pytest.raises(ValueError, match=f"00000.bin and .*00001.bin do not belong.*{message}"):
            open_tokens(corpus / "train")


def test_a_folder_that_is_not_what_the_manifest_lists_is_refused(corpus):
    shard = corpus / "train/00001.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="00001.bin has .* bytes, but its header asks for"):
        open_tokens(corpus / "train")
    write(shard, BYTES, [[5, 6]])
    with pytest.raises(ValueError, match="does not hold the shards that .*manifest.json lists"):
        open_tokens(corpus / "train")
    shard.unlink()
    with pytest.raises(ValueError, match="does not hold the shards"):
        open_tokens(corpus / "train")
    shard.write_bytes(whole)
    assert len(open_tokens(corpus / "train").tokens) == 11
    write(corpus / "train/00003.bin", BYTES, [[5]])
    with pytest.raises(ValueError, match="does not hold the shards"):
        open_tokens(corpus / "train")
    (corpus / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="manifest.json is damaged"):
        open_tokens(corpus / "train")


def test_a_folder_that_cannot_be_read_is_named(corpus):
    with pytest.raises(ValueError, match=f"is a corpus; name a part of it: {corpus}/train$"):
        open_tokens(corpus)
    with pytest.raises(ValueError, match="no token file .*nowhere"):
        open_tokens(corpus / "nowhere")
    (corpus / "new").mkdir()
    with pytest.raises(ValueError, match="the folder .*new has no token file"):
        open_tokens(corpus / "new")
    (corpus / "manifest.json").unlink()
    (corpus / "working").mkdir()
    with pytest.raises(ValueError, match="is not finished; run the `tttvideo prepare` again"):
        open_tokens(corpus / "train")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_folder_may_have_more_shards_than_files_may_be_open(tmp_path):
    for number in range(60):
        write(tmp_path / f"train/{number:05}.bin", BYTES, [[number]])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, limits[1]))
    try:
        assert open_tokens(tmp_path / "train").tokens[:].tolist() == list(range(60))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
