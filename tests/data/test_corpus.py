"""Laws of prepared text: documents are kept, with any number of workers and after any kill."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tokenizers
import zstandard

from tttvideo.apps.cli import main
from tttvideo.data import corpus as skeleton
from tttvideo.data import work_items as workers
from tttvideo.data.inputs import find_files
from tttvideo.data.text import corpus, python_corpus
from tttvideo.data.text.tokenizer import train_bpe
from tttvideo.data.tokens import open_tokens


DOCUMENTS = [f"Document {n}: Grüße, 世界!\n" * (1 + n % 7) for n in range(40)]
ALL = ["train", "validation"]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus, "ITEM_BYTES", 600)


def prepare(line, out="out"):
    main(["prepare", "text", *line.split(), "--out", out])
    return json.loads(Path(out, "manifest.json").read_text())


def as_lines(documents, field="text"):
    return "".join(json.dumps({"id": 3, field: text}) + "\n" for text in documents).encode()


def write_texts(folder="books", documents=DOCUMENTS):
    Path(folder).mkdir()
    for number, text in enumerate(documents):
        Path(folder, f"{number:02}.txt").write_text(text, encoding="utf-8")


def read_back(out="out", part="train"):
    """Documents of a corpus of bytes; each stands between its marks."""
    tokens = open_tokens(Path(out, part))
    found = []
    for document in np.split(tokens.tokens[:], tokens.starts[1:]):
        assert document[0] == tokens.header.bos and document[-1] == tokens.header.eos
        found.append(bytes(document[1:-1].tolist()).decode())
    return found


def snapshot(out):
    """Every file below a folder, with its bytes."""
    files = (path for path in Path(out).rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def message_of(line, out="out"):
    with pytest.raises(SystemExit) as stopped:
        prepare(line, out)
    message = str(stopped.value)
    assert message.startswith("tttvideo prepare text: ") and "\n" not in message
    return message


def write_parquet(path, documents, field="text"):
    table = pyarrow.table({"id": range(len(documents)), field: documents})
    pyarrow.parquet.write_table(table, path, row_group_size=7)


def write_zst(path, data):
    frames = (data[: len(data) // 3], data[len(data) // 3 :])  # a line crosses from one to the next
    Path(path).write_bytes(b"".join(map(zstandard.ZstdCompressor().compress, frames)))


def write_gz(path, data):
    Path(path).write_bytes(gzip.compress(data[:100]) + gzip.compress(data[100:]))


FORMATS = {
    "books": lambda: write_texts(),
    "a.jsonl": lambda: Path("a.jsonl").write_bytes(as_lines(DOCUMENTS)),
    "a.jsonl.zst": lambda: write_zst("a.jsonl.zst", as_lines(DOCUMENTS)),
    "a.jsonl.gz": lambda: write_gz("a.jsonl.gz", as_lines(DOCUMENTS)),
    "a.parquet": lambda: write_parquet("a.parquet", DOCUMENTS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_documents_of_every_format_are_stored_between_their_marks(name):
    FORMATS[name]()
    manifest = prepare(f"{name} --workers 1")
    assert read_back() == DOCUMENTS
    size = sum(len(text.encode()) for text in DOCUMENTS)
    total = {"documents": 40, "bytes": size, "tokens": size + 80}
    assert manifest["totals"]["train"] == total
    assert {name: sum(s[name] for s in manifest["shards"]) for name in total} == total
    assert manifest["documents"] == 40
    assert not Path("out/working").exists() and not Path("out/validation").exists()


def test_the_field_option_selects_the_text():
    Path("a.jsonl").write_bytes(as_lines(["one"], "body"))
    write_parquet("b.parquet", ["two"], "body")
    prepare("a.jsonl b.parquet --field body --workers 1")
    assert read_back() == ["one", "two"]


def test_files_are_found_in_folders_and_by_globs():
    write_texts("books/", ["one", "two"])
    write_texts("books/more", ["three"])
    Path("books/skip.md").write_text("no")
    Path("books/[x].txt").write_text("four")
    names = {
        "books": ["00.txt", "01.txt", "[x].txt", "00.txt"],
        "books/*.txt": ["00.txt", "01.txt", "[x].txt"],
        "books/**": ["00.txt", "01.txt", "[x].txt", "00.txt"],
        "**/0[0].txt": ["00.txt", "00.txt"],
        "books/[x].txt": ["[x].txt"],
    }
    for name, expected in names.items():
        assert [path.name for path in find_files([name], (".txt",))] == expected


def test_a_file_that_is_named_twice_is_read_once_where_it_is_named_first():
    write_texts("books", ["one", "two", "three"])
    Path("link.txt").symlink_to("books/02.txt")
    line = ["books/01.txt", "./books/01.txt", "link.txt", "books", "books/*.txt"]
    names = ["books/01.txt", "link.txt", "books/00.txt"]
    assert [str(path) for path in find_files(line, (".txt",))] == names
    prepare(f"{' '.join(line)} --workers 1")
    assert read_back() == ["two", "three", "one"]


def test_a_gz_file_may_be_padded_with_zeros_as_gzip_allows(monkeypatch):
    monkeypatch.setattr("tttvideo.data.text.unpack.CHUNK", 1000)
    one, two = (gzip.compress(as_lines(part)) for part in (DOCUMENTS[:9], DOCUMENTS[9:]))
    Path("a.jsonl.gz").write_bytes(one + bytes(2500) + two + bytes(512))
    assert gzip.decompress(Path("a.jsonl.gz").read_bytes()) == as_lines(DOCUMENTS)
    prepare("a.jsonl.gz --workers 1")
    assert read_back() == DOCUMENTS
    Path("b.jsonl.gz").write_bytes(one + b"\0text")
    assert "b.jsonl.gz cannot be unpacked" in message_of("b.jsonl.gz --workers 1", "none")


@pytest.mark.parametrize("vocabulary", ["", "--train-bpe 300"], ids=["bytes", "bpe"])
def test_the_number_of_workers_changes_nothing(vocabulary):
    write_texts()
    line = f"books {vocabulary} --validation 0.3 --shard-tokens 200"
    for count in (1, 2):
        manifest = prepare(f"{line} --workers {count}", f"out{count}")
    assert len(manifest["shards"]) > 10
    assert snapshot("out1") == snapshot("out2")
    assert manifest["tokenizer"] == open_tokens("out1/train").header.tokenizer


def test_a_trained_tokenizer_gives_the_texts_back():
    from tttvideo.data.text.tokenizer import tokenizer_of

    write_texts()
    prepare("books --train-bpe 300 --workers 1")
    tokens = open_tokens("out/train")
    tokenizer = tokenizer_of("out/train", tokens.header.tokenizer)
    parts = np.split(tokens.tokens[:], tokens.starts[1:])
    assert [tokenizer.decode(part.tolist()) for part in parts] == DOCUMENTS
    assert tokenizer.byte_lengths()[tokens.tokens[:]].sum() == len("".join(DOCUMENTS).encode())
    prepare("books --tokenizer out/tokenizer.json --workers 1", "again")
    assert open_tokens("again/train").fingerprint == tokens.fingerprint


@pytest.mark.parametrize("workers", [1, 2])
def test_marks_of_other_names_stand_around_the_documents(workers):
    write_texts("books", ["a a", "b"])
    words = {"[CLS]": 0, "[SEP]": 1, "a": 2, "b": 3, "<s>": 4, "?": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save("words.json")
    line = f"books --tokenizer words.json --bos [CLS] --eos [SEP] --workers {workers}"
    prepare(line)
    tokens = open_tokens("out/train")
    assert tokens.tokens[:].tolist() == [0, 2, 2, 1, 0, 3, 1]
    assert (tokens.header.bos, tokens.header.eos) == (0, 1)
    assert "bos is '[CLS]' there and '<s>' here" in message_of(line.replace("[CLS]", "<s>"))


def test_a_tokenizer_is_trained_on_the_training_documents_alone():
    write_texts()
    prepare("books --train-bpe 300 --validation 0.3 --workers 1")
    tokens = open_tokens("out/train").starts
    prepare("books --validation 0.3 --workers 1", "plain")
    texts = read_back("plain")
    assert len(texts) == len(tokens) < len(DOCUMENTS)
    assert Path("out/tokenizer.json").read_text() == train_bpe(texts, 300)


def test_documents_are_held_out_by_their_content_and_the_seed_alone():
    write_texts()
    Path("a.jsonl").write_bytes(as_lines(DOCUMENTS[::-1] * 2))
    prepare("books --validation 0.3 --workers 1", "a")
    prepare("a.jsonl --validation 0.3 --workers 1", "b")
    prepare("books --validation 0.3 --seed 1 --workers 1", "c")
    held = set(read_back("a", "validation"))
    assert 5 <= len(held) <= 20
    assert set(read_back("a")) == set(DOCUMENTS) - held
    assert set(read_back("b", "validation")) == held
    assert set(read_back("b")) == set(read_back("a"))
    assert set(read_back("c", "validation")) != held


def test_a_shard_ends_with_a_document_when_it_has_enough_tokens():
    Path("a.jsonl").write_bytes(as_lines(["x" * 30] * 9 + ["y" * 300] + ["z"]))
    manifest = prepare("a.jsonl --shard-tokens 90 --workers 1")
    assert [shard["tokens"] for shard in manifest["shards"]] == [96, 96, 96, 302, 3]
    assert [shard["file"] for shard in manifest["shards"]][-1] == "train/00004.bin"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survivors", [0, 1, 5])
def test_a_killed_run_resumes_to_the_same_bits(monkeypatch, survivors):
    write_texts()
    line = "books --train-bpe 300 --validation 0.3 --shard-tokens 200 --workers 1"
    prepare(line, "whole")
    done = []

    def do_then_die(job, tokenizer, number, sources, advance):
        if len(done) == survivors:
            next(iter(sources)).path.read_text()
            (job.folder / f"{number:05}.train.00000.bin.partial").write_text("half")
            raise Killed
        done.append(number)
        prepare_item(job, tokenizer, number, sources, advance)

    prepare_item = workers.prepare_item
    with monkeypatch.context() as patch:
        patch.setattr(workers, "prepare_item", do_then_die)
        with pytest.raises(Killed):
            prepare(line, "cut")
    assert not Path("cut/train").exists()
    repeated = []
    with monkeypatch.context() as patch:
        patch.setattr(workers, "prepare_item", lambda *a: (repeated.append(a[2]), prepare_item(*a)))
        patch.setattr(corpus, "train_bpe", None)  # it was trained
        prepare(line, "cut")
    assert not set(done) & set(repeated)
    assert snapshot("cut") == snapshot("whole")


@pytest.mark.parametrize("moves", [0, 1, 4, 9])
def test_a_run_that_is_killed_while_it_moves_shards_resumes_to_the_same_bits(monkeypatch, moves):
    write_texts()
    line = "books --validation 0.3 --shard-tokens 200 --workers 1"
    prepare(line, "whole")
    left = [None] * moves

    def move_then_die(source, target, replace=os.replace):
        if Path(target).parent.name in ALL:
            if not left:
                raise Killed
            left.pop()
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(skeleton.os, "replace", move_then_die)
        with pytest.raises(Killed):
            prepare(line, "cut")
    if moves:
        with pytest.raises(ValueError, match="cut is not finished; run the `tttvideo prepare` ag"):
            open_tokens("cut/train")
    prepare(line, "cut")
    assert snapshot("cut") == snapshot("whole")


def test_a_shard_that_was_damaged_after_it_was_finished_is_prepared_again(monkeypatch):
    write_texts()
    prepare("books --workers 1", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "check_parts", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            prepare("books --workers 1", "cut")
    shard = Path("cut/working/00002.train.00000.bin")
    shard.write_bytes(bytes(len(shard.read_bytes())))
    prepare("books --workers 1", "cut")
    assert snapshot("cut") == snapshot("whole")


@pytest.mark.parametrize("left", [b"", bytes(90), b'{"shards": {"train'], ids=["", "0", "half"])
def test_an_unreadable_record_repeats_its_work_item_alone(monkeypatch, left):
    write_texts()
    prepare("books --workers 1", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "check_parts", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            prepare("books --workers 1", "cut")
    Path("cut/working/00002.json").write_bytes(left)
    repeated, prepare_item = [], workers.prepare_item
    monkeypatch.setattr(
        workers, "prepare_item", lambda *a: (repeated.append(a[2]), prepare_item(*a))
    )
    prepare("books --workers 1", "cut")
    assert repeated == [2]
    assert snapshot("cut") == snapshot("whole")


def test_files_are_synchronised_before_they_are_renamed(monkeypatch):
    written, renamed, real = set(), [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (real(file), written.add((os.fstat(file).st_size, inode(file))))
    )

    def rename(source, target, replace=os.replace):
        if Path(source).suffix == ".partial":
            assert (Path(source).stat().st_size, inode(source)) in written
            renamed.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", rename)
    write_texts("books", ["one"])
    prepare("books --workers 1")
    names = ["plan.1-1.json", "00000.train.00000.bin", "00000.json", "manifest.json"]
    assert renamed == names


def inode(file):
    return os.stat(file).st_ino


KILLS_ITSELF = """
import os, signal, sys
from multiprocessing import active_children
from tttvideo.apps.cli import main
from tttvideo.data import work_items as workers
from tttvideo.data.text import corpus

corpus.ITEM_BYTES = 600

def wait_then_die(*arguments, wait=workers.wait, **options):
    found = wait(*arguments, **options)
    if found.done:
        print(*(child.pid for child in active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return found

workers.wait = wait_then_die
main(sys.argv[1:])
"""


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_when_their_parent_is_killed_and_the_next_run_resumes():
    write_texts()
    line = "books --validation 0.3 --shard-tokens 200 --workers 2"
    command = [sys.executable, "-Pc", KILLS_ITSELF, "prepare", "text", *line.split()]
    with open("pids", "w") as pids:  # a pipe would stay open for as long as the workers live
        killed = subprocess.run([*command, "--out", "cut"], stdout=pids, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    workers = [int(process) for process in Path("pids").read_text().split()]
    deadline = time.monotonic() + 10
    while (alive := list(filter(is_alive, workers))) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in alive:
        os.kill(process, signal.SIGKILL)
    assert workers and not alive
    assert not Path("cut/manifest.json").exists() and list(Path("cut/working").glob("*.json"))
    prepare(line, "cut")
    prepare(line, "whole")
    assert snapshot("cut") == snapshot("whole")


def test_a_worker_that_dies_is_reported_and_finished_work_is_kept(monkeypatch):
    write_texts()
    real = workers.wait

    def kill_a_worker(*arguments, **options):
        for child in workers.get_context("spawn").active_children():
            child.kill()
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "wait", kill_a_worker)
        assert "a worker process died" in message_of("books --workers 2")
    assert Path("out/working/plan.json").exists()
    prepare("books --workers 1")
    assert read_back() == DOCUMENTS


@pytest.mark.parametrize("outs", [["out"] * 3, ["a", "b", "c"]], ids=["one folder", "three"])
def test_parts_that_are_merged_are_the_corpus_of_one_run(outs, capsys):
    write_texts()
    Path("tokenizer.json").write_text(train_bpe(DOCUMENTS, 300))
    line = "books --tokenizer tokenizer.json --validation 0.3 --shard-tokens 200 --workers 1"
    prepare(line, "whole")
    for number, out in enumerate(outs, 1):
        main(["prepare", "text", *line.split(), "--out", out, "--part", f"{number}/3"])
        assert f"part {number} of 3 of {out} is prepared" in capsys.readouterr().out
        assert not Path(out, "manifest.json").exists()
        with pytest.raises(ValueError, match=f"{out} is not finished; run the `ttt.* with --merge"):
            open_tokens(Path(out, "train"))
    prepare(f"{line} --merge {' '.join(out for out in outs if out != 'out')}")
    assert snapshot("out") == snapshot("whole")


def test_a_part_that_is_prepared_again_repeats_nothing(monkeypatch):
    write_texts()
    prepare_part = ["prepare", "text", "books", "--workers", "1", "--out", "out", "--part", "2/3"]
    main(prepare_part)
    before = snapshot("out")
    monkeypatch.setattr(workers, "prepare_item", None)
    main(prepare_part)
    assert snapshot("out") == before
    assert "work items are not prepared, the first for books/00.txt" in message_of("books --merge")
    assert snapshot("out") == before


def test_a_finished_corpus_is_not_changed(capsys):
    write_texts()
    prepare("books --workers 1")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    first = capsys.readouterr().out
    prepare("books --workers 2 --max-bad 0.5")
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before
    assert capsys.readouterr().out == "out is already prepared\n" + first
    assert first.splitlines()[-1].startswith("hash ")


def test_a_folder_with_another_corpus_is_refused(monkeypatch):
    write_texts()
    prepare("books --workers 1")
    assert "out holds another corpus (seed is 0 there and 1 here)" in message_of("books --seed 1")
    Path("books/00.txt").write_text("other")
    assert "(files were added, removed or changed since)" in message_of("books")
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "prepare_sources", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            prepare("books", "started")
    assert "started holds another corpus (field is 'text' there" in message_of(
        "books --field x", "started"
    )
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "VERSION", 1)
        prepare("books", "old")
    assert "old holds another corpus (version is 1 there and" in message_of("books", "old")
    Path("taken/train").mkdir(parents=True)
    assert "taken holds other files, such as train; choose another --out" in message_of(
        "books", "taken"
    )
    assert "books/01.txt is a file; name a folder" in message_of("books", "books/01.txt")
    assert snapshot("taken") == {}


def test_a_changed_file_of_the_same_size_is_noticed():
    write_texts("books", ["one", "two"])
    prepare("books --workers 1")
    facts = Path("books/01.txt").stat()
    Path("books/01.txt").write_text("owt")
    os.utime("books/01.txt", ns=(facts.st_atime_ns, facts.st_mtime_ns + 1000))
    assert "(files were added, removed or changed since)" in message_of("books --workers 1")


FOREIGN = ['{"name": "app", "icons": []}', '{"plan": "x", "hash": "y"}', "[1]", "3", "", "{"]


@pytest.mark.parametrize("content", FOREIGN, ids=repr)
def test_the_manifest_of_another_program_is_refused_and_not_changed(content):
    write_texts()
    Path("out").mkdir()
    Path("out/manifest.json").write_text(content)
    expected = "out/manifest.json is not the manifest of a corpus of text; choose another --out"
    assert expected in message_of("books --workers 1")
    assert snapshot("out") == {"manifest.json": content.encode()}


MALFORMED = {
    b"{\n": "is no JSON (",
    b'{"id": 3}\n': "has no field 'text'",
    b"[1]\n": "has no field 'text'",
    b'{"text": 3}\n': "has no string in 'text' but int",
    b'{"text": null}\n': "has no string in 'text' but NoneType",
    b'{"text": "\xff"}\n': "is no UTF-8 (",
    b'{"text": "\\ud800"}\n': "has half a surrogate pair in 'text'",
    b"[" * 100_000 + b"\n": "is no JSON (",
}


@pytest.mark.parametrize("line", MALFORMED, ids=lambda line: ascii(line[:20]))
def test_malformed_lines_are_counted_and_named(line, capsys):
    Path("a.jsonl").write_bytes(as_lines(["one"] * 9) + line + b"\n" + as_lines(["two"]))
    manifest = prepare("a.jsonl --max-bad 0.1 --workers 1")
    assert read_back() == ["one"] * 9 + ["two"]
    assert manifest["documents"] == 11 and manifest["malformed"]["count"] == 1
    assert manifest["malformed"]["first"][0].startswith(f"a.jsonl:10 {MALFORMED[line]}")
    assert f"1 documents left out: a.jsonl:10 {MALFORMED[line]}" in capsys.readouterr().err
    message = message_of("a.jsonl --workers 1 --max-bad 0.09", "none")
    expected = "1 of 11 documents hold no text, a larger share than --max-bad 0.09: a.jsonl:10 "
    assert expected + MALFORMED[line] in message
    assert "the finished work is kept, and a larger --max-bad resumes it" in message
    assert not set(os.listdir("none")) & {"manifest.json", *ALL}


def test_a_larger_max_bad_resumes_from_the_finished_work(monkeypatch):
    Path("a.jsonl").write_bytes(as_lines(["one"] * 9) + b"{\n")
    Path("b.jsonl").write_bytes(as_lines(["two"] * 40))
    line = "a.jsonl b.jsonl --workers 1 --max-bad"
    prepare(f"{line} 0.02", "whole")
    for share in (0.01, 0.0):
        assert (
            f"1 of 50 documents hold no text, a larger share than --max-bad {share}"
            in message_of(f"{line} {share}")
        )
    with monkeypatch.context() as patch:
        patch.setattr(workers, "prepare_item", None)
        prepare(f"{line} 0.02")
    assert snapshot("out") == snapshot("whole")


def test_a_finished_corpus_is_refused_by_a_smaller_max_bad():
    Path("a.jsonl").write_bytes(as_lines(["one"] * 9) + b"{\n")
    prepare("a.jsonl --workers 1 --max-bad 0.9")
    before = snapshot("out")
    assert "1 of 10 documents hold no text, a larger share than --max-bad 0.0: a.jsonl:10" in (
        message_of("a.jsonl --workers 1 --max-bad 0")
    )
    assert snapshot("out") == before
    prepare("a.jsonl --workers 1 --max-bad 0.1")


def test_malformed_lines_that_leave_no_text_are_named_as_the_cause():
    Path("a.jsonl").write_bytes(as_lines(["one"] * 9, "body"))
    assert "no text is left for train (a.jsonl:1 has no field 'text'; a.jsonl:2 " in message_of(
        "a.jsonl --workers 1"
    )
    assert not Path("out").exists()


def test_empty_documents_are_left_out_and_are_not_malformed(capsys):
    Path("a.jsonl").write_bytes(as_lines(["one", "", "two"]) + b"\n")
    write_texts("books", ["three", ""])
    write_parquet("b.parquet", ["", "four"])
    manifest = prepare("a.jsonl books b.parquet --workers 1")
    assert read_back() == ["one", "two", "three", "four"]
    assert (manifest["empty"], manifest["malformed"]["count"]) == (3, 0)
    assert "3 empty documents left out" in capsys.readouterr().err


def test_rows_without_a_text_are_malformed():
    write_parquet("a.parquet", ["one", None, "two"])
    manifest = prepare("a.parquet --max-bad 0.4 --workers 1")
    assert read_back() == ["one", "two"]
    assert manifest["malformed"]["first"] == ["a.parquet:2 has no string in 'text' but NoneType"]


def test_a_file_in_another_encoding_is_refused_before_anything_is_read(monkeypatch):
    write_texts("books", ["one"])
    Path("a.txt").write_text("two", encoding="utf-16")
    monkeypatch.setattr(corpus, "read_by_part", None)
    assert "a.txt is UTF-16 by its first bytes, and text must be UTF-8; con" in message_of(
        "books a.txt --workers 1"
    )
    assert not Path("out").exists()


def test_wrong_utf8_is_kept_by_bytes_replaced_by_other_tokenizers_and_reported_by_all(capsys):
    Path("a.txt").write_bytes(b"caf\xe9 au lait\n" * 20)
    for vocabulary, out in (("", "out"), ("--train-bpe 265", "bpe")):
        manifest = prepare(f"a.txt {vocabulary} --workers 1", out)
        assert manifest["damaged"] == {"count": 1, "first": ["a.txt at byte 3"]}
        assert "1 documents with bytes that are no UTF-8 (kept where" in (
            err := capsys.readouterr().err
        )
        assert err.endswith("LATIN1 -t UTF-8): a.txt at byte 3\n")
    assert bytes(open_tokens("out/train").tokens[1:-1].tolist()) == Path("a.txt").read_bytes()
    assert manifest["totals"]["train"]["bytes"] == len("caf� au lait\n".encode()) * 20


@pytest.mark.parametrize("vocabulary", ["", "--tokenizer tokenizer.json"], ids=["bytes", "bpe"])
def test_pieces_of_a_long_document_give_the_tokens_of_the_whole(monkeypatch, vocabulary):
    text = "It was the best of times,\nit was the worst of times.\n\nIt was\n" * 400
    Path("tokenizer.json").write_text(train_bpe([text], 270))
    Path("a.txt").write_text(text)
    prepare(f"a.txt {vocabulary} --workers 1", "whole")
    monkeypatch.setattr("tttvideo.data.text.unpack.CHUNK", 1000)
    monkeypatch.setattr("tttvideo.data.text.documents.PIECE", 700)
    prepare(f"a.txt {vocabulary} --workers 1", "pieces")
    assert open_tokens("pieces/train").fingerprint == open_tokens("whole/train").fingerprint


def test_memory_does_not_grow_with_the_document():
    line = b"It was the best of times, it was the worst of times.\n"
    Path("a.txt").write_bytes(line * (1 << 19))  # 27 MB
    prepare("stdlib --workers 1", "warm")
    tracemalloc.start()
    prepare("a.txt --workers 1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_the_built_in_corpus_has_long_validation_documents():
    train, held_out = python_corpus.stdlib_files()
    assert not set(train) & set(held_out) and len(train) > 300
    assert len(held_out) > 18 and min(path.stat().st_size for path in held_out) >= 32 << 10
    names = {path.name for path in train}
    assert "ast.py" in names
    assert not names & {"_pydecimal.py", "topics.py", "cp437.py", "test_config.py", "argparse.py"}
    assert not {"test", "tests", "idle_test", "lib2to3", "site-packages"} & {
        part for path in train for part in path.parts
    }


def test_the_built_in_corpus_is_prepared_with_its_validation_documents(monkeypatch):
    monkeypatch.setattr(corpus, "ITEM_BYTES", 1 << 24)
    train, held_out = python_corpus.stdlib_files()
    manifest = prepare("stdlib --workers 1")
    assert manifest["totals"]["validation"]["documents"] == len(held_out)
    assert read_back(part="validation") == [path.read_bytes().decode() for path in held_out]
    sizes = [path.stat().st_size for path in train]
    assert manifest["totals"]["train"]["bytes"] == sum(sizes)
    assert manifest["totals"]["train"]["documents"] == np.count_nonzero(sizes)


def test_the_hash_depends_on_the_content_and_not_on_the_folder():
    write_texts("books", ["one", "two"])
    write_texts("moved", ["one", "two"])
    write_texts("other", ["one", "twO"])
    hashes = [
        prepare(f"{name} --workers 1", f"out_{name}")["hash"]
        for name in ("books", "moved", "other")
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def cut_off(path, write):
    write()
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) - 20])


WRONG = {
    "nowhere": (lambda: None, "there is no file or folder nowhere"),
    "new": (lambda: Path("new").mkdir(), "the folder new has no file that ends in .txt, .md, "),
    "**/*.txt": (lambda: None, "the pattern **/*.txt has no file that ends in .txt, "),
    "a.txt": (lambda: Path("a.txt").touch(), "a.txt is empty; leave it out or put something in"),
    "a.doc": (lambda: Path("a.doc").write_text("x"), "a.doc does not end in .txt, .md, .jsonl, "),
    "a.jsonl": (lambda: Path("a.jsonl").write_text("\n\n"), "no text is left for train"),
    "a.jsonl.gz": (lambda: cut_off("a.jsonl.gz", FORMATS["a.jsonl.gz"]), "a.jsonl.gz is cut off"),
    "a.jsonl.zst": (lambda: cut_off("a.jsonl.zst", FORMATS["a.jsonl.zst"]), "a.jsonl.zst is cut"),
    "b.jsonl.gz": (lambda: Path("b.jsonl.gz").write_text("text"), "b.jsonl.gz cannot be unpacked"),
    "b.jsonl.zst": (lambda: Path("b.jsonl.zst").write_text("text"), "b.jsonl.zst cannot be unpa"),
    "b.parquet": (lambda: Path("b.parquet").write_text("text"), "b.parquet cannot be read as par"),
    "a.parquet --field x": (FORMATS["a.parquet"], "a.parquet has no column 'x'; choose --field fr"),
    "books --validation 1": (FORMATS["books"], "--validation 1.0 must be 0 or more and less than"),
    "books --validation 1e-9": (FORMATS["books"], "no text is left for validation"),
    "books --max-bad 2": (FORMATS["books"], "--max-bad 2.0 must be from 0 to 1"),
    "books --workers 0": (FORMATS["books"], "--workers 0 must be 1 or more"),
    "books --shard-tokens 0": (FORMATS["books"], "--shard-tokens 0 must be 1 or more"),
    "books --train-bpe 9": (FORMATS["books"], "--train-bpe 9 must be 258 or more"),
    "books --tokenizer books/00.txt": (FORMATS["books"], "00.txt cannot be read as a tokenizer.js"),
    "books --tokenizer no.json": (FORMATS["books"], "there is no tokenizer no.json"),
    "books --bos x": (FORMATS["books"], "--bos and --eos name tokens of a given tokenizer.json"),
    "books --part 0/3": (FORMATS["books"], "0/3 must be I/N with I from 1 to N, such as 2/8"),
    "books --part 2": (FORMATS["books"], "2 must be I/N with I from 1 to N, such as 2/8"),
    "books --part 1/2 --merge": (FORMATS["books"], "--part prepares and --merge joins; give one"),
    "books --part 1/2 --train-bpe 300": (FORMATS["books"], "--part needs a tokenizer that all"),
    "stdlib --validation 0.1": (lambda: None, "stdlib has its own validation documents; leave"),
}


@pytest.mark.parametrize("line", WRONG)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(line):
    make, message = WRONG[line]
    make()
    assert message in message_of(line if "--workers" in line else f"{line} --workers 1")
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["a.jsonl.zst", "b.jsonl.gz", "b.parquet"])
def test_bad_input_in_a_worker_is_refused_in_the_same_line(name):
    make, message = WRONG[name]
    make()
    write_texts()
    assert message in message_of(f"books {name} --workers 2")
    assert not Path("out").exists()


def test_a_parquet_file_without_pyarrow_names_the_extra(monkeypatch):
    FORMATS["a.parquet"]()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = message_of("a.parquet --workers 1")
    assert "a.parquet needs pyarrow: pip install 'tttvideo[parquet]'" in message


def test_preparing_text_imports_no_torch():
    write_texts()
    code = "import sys; from tttvideo.apps.cli import main; main(sys.argv[1:]); "
    code += "assert not {'torch', 'pyarrow', 'lightning'} & sys.modules.keys()"
    command = [sys.executable, "-Pc", code, "prepare", "text", "books", "--out", "out"]
    subprocess.run([*command, "--train-bpe", "300"], check=True)
