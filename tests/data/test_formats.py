"""Laws of the files of a corpus: formats, packings, byte order marks, fields."""

import bz2
import codecs
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from tttvideo.data.text import unpack
from tttvideo.data.text.documents import Malformed
from tttvideo.data.text.formats import SUFFIXES, JsonValues, read_documents


TEXTS = ['One,\n"two" – Grüße', "", '世界 \\ [1, {"a": 2}]\r\n', "x" * 700]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unpack, "CHUNK", 64)


def read(name, field="text"):
    """The documents of a file; of malformed ones the reasons after their places."""
    found = []
    for document in read_documents(Path(name), field, lambda size: None):
        if isinstance(document, Malformed):
            found.append((document.place, document.reason))
        else:
            found.append(b"".join(document.chunks).decode())
    return found


def as_csv(texts):
    quoted = (text.replace('"', '""') for text in texts)
    return "id,text\r\n" + "".join(f'3,"{text}"\r\n' for text in quoted)


RECORDS = [{"id": 3, "text": text} for text in TEXTS]
CONTENT = {
    ".txt": (TEXTS[0], TEXTS[:1]),
    ".md": (TEXTS[0], TEXTS[:1]),
    ".jsonl": ("\n\n".join(map(json.dumps, RECORDS)), TEXTS),
    ".ndjson": ("\r\n".join(map(json.dumps, TEXTS)), TEXTS),
    ".json": (json.dumps(RECORDS, indent=2, ensure_ascii=False), TEXTS),
    ".csv": (as_csv(TEXTS), TEXTS),
}
PACK = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "mark"])
@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("form", CONTENT)
def test_every_format_is_read_from_every_packing_without_its_byte_order_mark(form, packing, mark):
    text, expected = CONTENT[form]
    data = mark + text.encode()
    streams = (data[:2], data[2:70], data[70:])  # the mark crosses a border too
    Path(f"a{form}{packing}").write_bytes(b"".join(map(PACK[packing], streams)))
    assert read(f"a{form}{packing}") == expected
    assert form + packing in SUFFIXES


def test_a_document_has_the_same_chunks_from_any_packing():
    data = bytes(range(1, 127)) * 3
    for packing, pack in PACK.items():
        for mark in (b"", codecs.BOM_UTF8):
            Path(f"a.txt{packing}").write_bytes(pack(mark + data))
            (document,) = read_documents(Path(f"a.txt{packing}"), "text", lambda size: None)
            assert [len(chunk) for chunk in document.chunks] == [64] * 5 + [58]


@pytest.mark.parametrize("packing", [".xz", ".bz2"])
def test_a_packed_file_that_is_cut_off_or_of_another_kind_is_refused(packing):
    whole = PACK[packing](TEXTS[0].encode() * 9)
    Path(f"a.txt{packing}").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="is cut off: its packed stream has no end"):
        read(f"a.txt{packing}")
    Path(f"a.txt{packing}").write_bytes(b"plain text, which is not packed")
    with pytest.raises(ValueError, match=f"a.txt{packing} cannot be unpacked: "):
        read(f"a.txt{packing}")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.csv.gz"])
def test_another_encoding_that_a_byte_order_mark_tells_is_refused(encoding, name):
    Path(name).write_bytes(gzip.compress(f"\ufeff{'text'}".encode(encoding.removesuffix("-le"))))
    with pytest.raises(ValueError, match=rf"{name} is UTF-(16|32) by its first bytes") as error:
        read(name)
    assert f"iconv -f {encoding[:6].upper()} -t UTF-8" in str(error.value)


JSON = {
    '["one", {"text": "two"}]': ["one", "two"],
    '{"text": "one"}': ["one"],
    '{"text": "one"}\n{"text":\n"two"} "three"': ["one", "two", "three"],
    " [ ] ": [],
    '[3, "one", {"body": 1}, {"text": null}]': [
        ("a.json:1", "has no field 'text'"),
        "one",
        ("a.json:3", "has no field 'text'"),
        ("a.json:4", "has no string in 'text' but NoneType"),
    ],
}


@pytest.mark.parametrize("text", JSON)
def test_a_json_file_is_a_list_or_records_one_after_another(text):
    Path("a.json").write_text(text)
    assert read("a.json") == JSON[text]


VALUES = [12, -0.5e3, 'é"\\\ud800', True, None, [[], {"a": [1, "x" * 99]}], 7]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_values_of_json_do_not_depend_on_its_pieces(size):
    for text in (json.dumps(VALUES, indent=1), "\n".join(map(json.dumps, VALUES))):
        assert list(JsonValues(text[i : i + size] for i in range(0, len(text), size))) == VALUES


@pytest.mark.parametrize(
    "text, record",
    [
        ('["one", "tw', 2),
        ('["one" "two"]', 2),
        ('["one", ]', 2),
        ('{"text": }', 1),
        ("[" * 9999, 1),
    ],
    ids=ascii,
)
def test_a_json_file_that_is_broken_is_refused_at_its_record(text, record):
    Path("a.json").write_text(text)
    with pytest.raises(ValueError, match="a.json cannot be read as JSON: ") as error:
        read("a.json")
    assert f", in record {record}; repair the file" in str(error.value)


def test_memory_does_not_grow_with_a_json_list_or_a_table(monkeypatch):
    monkeypatch.setattr(unpack, "CHUNK", 1 << 16)
    line = "It was the best of times, it was the worst of times. " * 20
    Path("a.json").write_text(json.dumps([line] * 8000))  # 8.5 MB
    Path("a.csv").write_text("text\n" + f'"{line}"\n' * 8000)
    for name in ("a.json", "a.csv"):
        tracemalloc.start()
        count = sum(1 for _ in read_documents(Path(name), "text", lambda size: None))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 8000 and peak < 2 << 20, name


def test_bytes_that_are_no_utf8_are_named_in_every_format():
    reason = "is no UTF-8 (byte 0xe9 in 'text')"
    Path("a.json").write_bytes(b'[{"text": "caf\xe9"}, {"text": "one"}]')
    Path("a.csv").write_bytes(b"text\ncaf\xe9\none\n")
    assert read("a.json") == [("a.json:1", reason), "one"]
    assert read("a.csv") == [("a.csv:2", reason), "one"]


def test_rows_of_a_table_are_named_by_the_line_they_begin_in():
    Path("a.csv").write_text('text,id\n"two\nlines",1\n\none,2\n"\ud7ff"\n,\n')
    assert read("a.csv") == ["two\nlines", "one", "\ud7ff", ""]
    assert read("a.csv", "id")[2] == ("a.csv:6", "has no field 'id'")


@pytest.mark.parametrize(
    "text, message",
    [
        ("id,body\n1,2\n", "a.csv has no column 'text'; choose --field from id, body"),
        ('text\n"one\n', "a.csv:2 cannot be read as CSV: unexpected end of data"),
        ('text\n"one"two\n', "a.csv:2 cannot be read as CSV: "),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(text, message):
    Path("a.csv").write_text(text)
    with pytest.raises(ValueError) as error:
        read("a.csv")
    assert message in str(error.value)


def test_a_field_inside_a_field_is_named_with_a_dot():
    nested = [{"meta": {"text": "one"}}, {"meta": 3}, {"meta": {}}, {"meta.text": "two", "meta": 1}]
    expected = ["one", *[(f"a.jsonl:{n}", "has no field 'meta.text'") for n in (2, 3)], "two"]
    Path("a.jsonl").write_text("\n".join(map(json.dumps, nested)))
    assert read("a.jsonl", "meta.text") == expected
    meta = [{"text": "one", "x": 1}, None, {"text": "two", "x": 2}]
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2, 3], "meta": meta}), "a.parquet")
    assert read("a.parquet", "meta.text") == [
        "one",
        ("a.parquet:2", "has no field 'meta.text'"),
        "two",
    ]
    with pytest.raises(ValueError, match="a.parquet has no column 'data'; choose --field from id,"):
        read("a.parquet", "data.text")
    Path("a.csv").write_text("meta.text\none\n")
    assert read("a.csv", "meta.text") == ["one"]
