"""Laws of token files, windows, order and resuming."""

import numpy as np
import pytest
import torch

from tttvideo.data.text import BYTES, ByteDecoder, find_files, read_bytes
from tttvideo.data.tokens import (
    Header,
    ResumableLoader,
    TokenFile,
    TokenWriter,
    Windows,
)


VIDEO = Header("video", "abc", 1000, grid=(2, 3), fps=12.5)


def write(path, header, documents):
    with TokenWriter(path, header) as out:
        for tokens in documents:
            out.start_document()
            out.write(np.array(tokens))
    return TokenFile(path)


@pytest.mark.parametrize("header", [BYTES, VIDEO, Header("text", "bpe", 100_000)], ids=str)
def test_tokens_starts_and_header_come_back(tmp_path, header):
    top = header.vocab_size - 1
    file = write(tmp_path / "new/a.bin", header, [[1, 2, top], [], [top]])
    assert file.tokens.tolist() == [1, 2, top, top]
    assert file.starts.tolist() == [0, 3, 3]
    assert (file.header.tokens, file.header.documents) == (4, 3)
    assert (file.header.grid, file.header.fps) == (header.grid, header.fps)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    write(tmp_path / "a.bin", BYTES, [[7]])
    with pytest.raises(KeyError), TokenWriter(tmp_path / "a.bin", BYTES) as out:
        out.write(np.array([1, 2]))
        raise KeyError
    assert TokenFile(tmp_path / "a.bin").tokens.tolist() == [7]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_that_is_no_token_file_is_named(tmp_path):
    path = tmp_path / "a.bin"
    path.write_text("hello")
    with pytest.raises(ValueError, match="a.bin is not a token file; make one with"):
        TokenFile(path)
    write(path, BYTES, [[1, 2, 3]])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="bytes long and its header says"):
        TokenFile(path)
    path.write_bytes(whole.replace(b'"tokens"', b'"takens"'))
    with pytest.raises(ValueError, match="damaged header"):
        TokenFile(path)
    write_empty = tmp_path / "empty.bin"
    with TokenWriter(write_empty, BYTES):
        pass
    with pytest.raises(ValueError, match="holds no tokens"):
        TokenFile(write_empty)


def test_text_becomes_its_bytes_and_back(tmp_path):
    text = "Grüße, 世界!\n"
    (tmp_path / "b").mkdir()
    (tmp_path / "b/z.txt").write_text(text)
    (tmp_path / "b/a.TXT").write_text("first")
    (tmp_path / "b/skip.md").write_text("no")
    paths = find_files([tmp_path / "b"], (".txt",))
    assert [path.name for path in paths] == ["a.TXT", "z.txt"]
    chunks = list(read_bytes(paths[1], chunk=4))
    assert max(map(len, chunks)) == 4
    decoder = ByteDecoder()
    assert "".join(decoder(chunk.tolist()) for chunk in chunks) + decoder([], True) == text


def test_text_input_that_cannot_serve_is_named(tmp_path):
    with pytest.raises(ValueError, match="no file or folder .*nowhere"):
        find_files([tmp_path / "nowhere"], (".txt",))
    with pytest.raises(ValueError, match="has no file that ends in .txt"):
        find_files([tmp_path], (".txt",))
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="a.txt is empty"):
        list(read_bytes(tmp_path / "a.txt"))


def test_windows_lie_end_to_end_and_share_one_token():
    windows = Windows(np.arange(20), length=6)
    assert [w.tolist() for w in windows] == [list(range(n, n + 7)) for n in (0, 6, 12)]
    with pytest.raises(ValueError, match="6 tokens are too few for one window of 6"):
        Windows(np.arange(6), length=6)


@pytest.mark.parametrize("total", [7, 12, 13, 19, 20])
def test_moved_windows_stay_inside_the_tokens(total):
    windows = Windows(np.arange(total), length=6, may_move=True)
    for offset in range(6):
        windows.move_by(offset)
        for n in range(len(windows)):
            assert len(windows[n]) == 7


def deliver(loader, batches):
    """The next batches, over as many epochs as it takes, as a consumer that counts takes them."""
    taken = []
    while len(taken) < batches:
        for number, batch in enumerate(loader, 1):
            taken.append(batch.tolist())
            if len(taken) == batches or number == len(loader):
                break
    return taken


def new_loader(seed=0):
    windows = Windows(np.arange(60), length=6, may_move=True)
    return ResumableLoader(windows, batch_size=2, seed=seed, step=3)


def test_the_order_depends_on_seed_and_epoch_alone():
    first = deliver(new_loader(), 8)
    torch.manual_seed(5)
    np.random.seed(5)
    assert deliver(new_loader(), 8) == first
    assert deliver(new_loader(seed=1), 8) != first
    assert first[:4] != first[4:]


def test_windows_of_video_begin_at_whole_frames():
    starts = {row[0] % 3 for batch in deliver(new_loader(), 40) for row in batch}
    assert starts == {0}


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 9])
def test_a_resumed_loader_goes_on_at_the_very_batch(stop):
    whole = deliver(new_loader(), 12)
    loader = new_loader()
    assert deliver(loader, stop) == whole[:stop]
    resumed = new_loader()
    resumed.load_state_dict(loader.state_dict())
    assert deliver(resumed, 12 - stop) == whole[stop:]


def test_a_position_in_other_data_is_refused():
    loader = ResumableLoader(Windows(np.arange(70), length=6, may_move=True), batch_size=2)
    with pytest.raises(ValueError, match="items was 8 and is 10; start a new run"):
        loader.load_state_dict(new_loader().state_dict())
