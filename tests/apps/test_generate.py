"""`tttvideo generate`: prompts from all sources, stop strings, saved states, and wrong input."""

import codecs
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tttvideo.apps.cli import main
from tttvideo.apps.show.stream_text import StreamedText, print_texts
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.data.text import documents, unpack
from tttvideo.data.text.documents import Utf8Decoder, encode_chunks
from tttvideo.data.text.tokenizer import ByteTokenizer, JsonTokenizer, train_bpe
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.sampling import texts
from tttvideo.sampling.saved_states import load_state_file
from tttvideo.weights.checkpoints import TokenCheckpoint, load_tokens_model, save_tokens_model


BOOK = (
    "It was the best of times,\nit was the worst of times; \n\n it was the age – of wisdom.\n" * 9
)
TOKENIZER = JsonTokenizer(train_bpe([BOOK], 290))


def save_model(path, tokenizer, seed=0, marks=True, eos=None, **changes):
    torch.manual_seed(seed)
    ttt = TTTConfig(mini_batch_size=4)
    vocab_size = tokenizer.vocab_size if marks else 256
    model = Backbone(BackboneConfig(vocab_size, 16, 2, 2, 24, ttt=ttt, **changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    facts = (tokenizer.bos, tokenizer.eos if eos is None else eos) if marks else (None, None)
    save_tokens_model(TokenCheckpoint(model, tokenizer.name, tokenizer.to_json(), *facts), path)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with models of bytes and of a tokenizer.json, and prompts."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "bytes.ckpt", ByteTokenizer())
    save_model(folder / "other.ckpt", ByteTokenizer(), seed=1)
    save_model(folder / "unmarked.ckpt", ByteTokenizer(), marks=False)
    save_model(folder / "json.ckpt", TOKENIZER)
    save_model(folder / "attention.ckpt", TOKENIZER, mixer="attention")
    save_model(folder / "video.ckpt", ByteTokenizer(), grid=(2, 3))
    unknown = ByteTokenizer()
    unknown.name = "unknown"
    save_model(folder / "unknown.ckpt", unknown)
    (folder / "book.txt").write_text(BOOK, encoding="utf-8")
    (folder / "raw.txt").write_bytes(BOOK.encode() + b"\xff\xfe half \xe2\x80")
    (folder / "prompts.txt").write_text("It was\n\nwisdom – is\nno\n", encoding="utf-8")
    (folder / "empty.txt").touch()
    return folder


@pytest.fixture(autouse=True)
def inside(models, monkeypatch, tmp_path):
    """In a folder of its own with links to the models."""
    monkeypatch.chdir(tmp_path)
    for path in models.iterdir():
        Path(path.name).symlink_to(path)


@pytest.fixture
def generate(capsys):
    """A function that runs the command and returns its standard output."""

    def run(*arguments):
        capsys.readouterr()
        main(["generate", *map(str, arguments)])
        return capsys.readouterr().out

    return run


SEEDED = ("--tokens", 30, "--seed", 7)
NAMES = ("bytes", "json", "attention")


@pytest.mark.parametrize("name", NAMES)
def test_several_prompts_give_the_texts_of_each_alone_with_the_next_seed(generate, name):
    prompts = ["It was", "wisdom – is", "x"]
    options = [word for prompt in prompts for word in ("--prompt", prompt)]
    together = generate(f"{name}.ckpt", *options, *SEEDED)
    alone = [
        generate(f"{name}.ckpt", "--prompt", prompt, "--tokens", 30, "--seed", 7 + row)
        for row, prompt in enumerate(prompts)
    ]
    assert together == "".join(f"--- {n} of 3 ---\n{one}" for n, one in enumerate(alone, 1))
    assert all(one.startswith(prompt) for one, prompt in zip(alone, prompts, strict=True))


def test_a_prompts_file_has_a_prompt_in_each_line(generate):
    options = [word for p in ("It was", "wisdom – is", "no") for word in ("--prompt", p)]
    wanted = generate("json.ckpt", *options, *SEEDED)
    assert generate("json.ckpt", "--prompts-file", "prompts.txt", *SEEDED) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_a_file_read_in_pieces_gives_the_text_of_a_prompt_read_at_once(generate, name, monkeypatch):
    whole = generate(f"{name}.ckpt", "--prompt", BOOK, *SEEDED)
    monkeypatch.setattr(unpack, "CHUNK", 7)
    monkeypatch.setattr(documents, "PIECE", 100)
    monkeypatch.setattr(texts, "CHUNK", 48)
    assert BOOK + generate(f"{name}.ckpt", "--prompt-file", "book.txt", *SEEDED) == whole


def encode(tokenizer, chunks):
    """The tokens of a text that comes in chunks."""
    return np.concatenate([tokens for tokens, _ in encode_chunks(tokenizer, chunks, Utf8Decoder())])


def test_tokens_do_not_depend_on_the_chunks_of_a_text(monkeypatch):
    monkeypatch.setattr(documents, "PIECE", 100)
    data = BOOK.encode()
    for size in (1, 64, len(data)):
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        assert encode(TOKENIZER, chunks).tolist() == TOKENIZER.encode(BOOK)


def test_bytes_and_standard_input_are_read_unchanged(generate, monkeypatch):
    from_file = generate("unmarked.ckpt", "--prompt-file", "raw.txt", *SEEDED)
    raw = Path("raw.txt").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert generate("unmarked.ckpt", "--prompt", "-", *SEEDED) == from_file
    assert bytes(encode(ByteTokenizer(), [raw]).astype(np.uint8)) == raw


def test_the_rates_of_reading_and_writing_are_printed(capsys):
    for name, count in (("bytes", 7), ("unmarked", 6)):  # BOS is one
        main(["generate", f"{name}.ckpt", "--prompt", "It was", "--tokens", "12"])
        pace = r"read (\d+) tokens, [\d,]+ tokens per second; wrote (\d+) tokens, [\d,]+ tokens per"
        read, wrote = re.search(pace, capsys.readouterr().err).groups()
        assert int(read) == count and int(wrote) <= 12


def test_a_stop_string_ends_a_text_before_it(generate):
    prompt = ("json.ckpt", "--prompt", "It was", *SEEDED)
    whole = generate(*prompt)
    stop = whole[14:17]
    assert generate(*prompt, "--stop", "never, never", "--stop", stop) == (
        whole[: whole.index(stop, len("It was"))] + "\n"
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 50])
@pytest.mark.parametrize(
    "stops, wanted",
    [
        (["\n\n"], "abc abd – ab\nabab"),
        (["abab", "zz"], "abc abd – ab\n"),
        (["bd –", "d"], "abc ab"),
        (["abd – ab", "– "], "abc abd "),
        (["zz"], "abc abd – ab\nabab\n\nend z"),
        ([], "abc abd – ab\nabab\n\nend z"),
    ],
    ids=repr,
)
def test_a_streamed_text_does_not_depend_on_its_pieces(stops, wanted, size):
    data = "abc abd – ab\nabab\n\nend z".encode()
    stream, pieces = StreamedText(ByteTokenizer().decoder(), stops), []
    for i in range(0, len(data), size):
        pieces.append(stream(list(data[i : i + size])))
        assert wanted.startswith("".join(pieces))
        if stream.ended:
            break
    pieces.append(stream([], final=True))
    assert "".join(pieces) == wanted
    assert stream.ended == (not wanted.endswith("end z"))


def test_characters_that_begin_no_stop_string_are_streamed_at_once():
    stream = StreamedText(ByteTokenizer().decoder(), ["stop"])
    assert [stream([byte]) for byte in b"as sto s"] == ["a", "", "s ", "", "", "", "sto ", ""]


def test_the_first_text_is_printed_while_it_is_decoded_and_the_others_after_it(capsys):
    printed = []

    def pieces():
        for piece in ((1, "b", False), (0, "a", False), (1, "c", True), (0, "", True)):
            yield piece
            printed.append(capsys.readouterr().out)

    print_texts(pieces(), ["1:", "2:"])
    assert printed == ["1:", "a", "", "\n2:bc\n"]


def last(path, name):
    return load_state_file(path, load_tokens_model(f"{name}.ckpt").backbone)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_resumes_exactly(generate, name):
    """The same tokens and the same random numbers as in one run, over several files."""
    start = (f"{name}.ckpt", "--prompt-file", "book.txt", "--seed", 8)
    generate(*start, "--tokens", 25, "--save-state", "whole")
    generate(*start, "--tokens", 0, "--save-state", "deep/first")
    generate(f"{name}.ckpt", "--load-state", "deep/first", "--tokens", 11, "--save-state", "second")
    generate(f"{name}.ckpt", "--load-state", "second", "--tokens", 14, "--save-state", "second")
    whole, second = last("whole", name), last("second", name)
    assert torch.equal(whole.prefix.logits, second.prefix.logits)
    assert torch.equal(whole.draws, second.draws)
    tokenizer = ByteTokenizer() if name == "bytes" else TOKENIZER
    assert whole.tokens == second.tokens == 1 + len(tokenizer.encode(BOOK)) + 25


@pytest.mark.parametrize("name", NAMES)
def test_a_book_read_once_gives_the_answers_of_a_book_read_for_each_question(generate, name):
    generate(f"{name}.ckpt", "--prompt-file", "book.txt", "--tokens", 0, "--save-state", "book")
    questions = ("\nWhat was it?", "\nWisdom?")
    options = [word for question in questions for word in ("--prompt", question)]
    both = generate(f"{name}.ckpt", "--load-state", "book", *options, *SEEDED)
    for row, question in enumerate(questions):
        read = generate(
            f"{name}.ckpt", "--prompt", BOOK + question, "--tokens", 30, "--seed", 7 + row
        )
        assert read.removeprefix(BOOK) in both


def test_without_a_prompt_a_document_is_begun_after_its_mark(generate):
    begun = generate("json.ckpt", *SEEDED)
    for prompts in (["--prompt", ""], ["--prompt=", "--prompt", "It was"]):
        assert begun in generate("json.ckpt", *prompts, *SEEDED).removeprefix("--- 1 of 2 ---\n")
    assert generate("json.ckpt", "--tokens", 0, "--save-state", "mark") == "\n"
    model = load_tokens_model("json.ckpt")
    logits, _ = model.backbone(torch.tensor([[model.bos]]))
    torch.testing.assert_close(last("mark", "json").prefix.logits, logits[:, -1])


def test_an_empty_prompt_after_a_saved_state_adds_nothing(generate):
    generate("json.ckpt", "--prompt", "It", "--tokens", 0, "--save-state", "it")
    load = ("json.ckpt", "--load-state", "it", *SEEDED)
    assert generate(*load, "--prompt", "") == generate(*load)


def test_the_byte_order_mark_of_a_prompt_is_not_read(generate, monkeypatch):
    wanted = generate("bytes.ckpt", "--prompt", "It was", *SEEDED)
    data = codecs.BOM_UTF8 + b"It was"
    Path("mark.txt").write_bytes(data)
    assert "It was" + generate("bytes.ckpt", "--prompt-file", "mark.txt", *SEEDED) == wanted
    assert generate("bytes.ckpt", "--prompts-file", "mark.txt", *SEEDED) == wanted
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert "It was" + generate("bytes.ckpt", "--prompt", "-", *SEEDED) == wanted


def test_the_number_of_tokens_in_a_loaded_state_is_printed(generate, capsys):
    four = "--tokens", 4, "--seed", 7  # an unlucky draw is the end of the text
    generate("bytes.ckpt", "--prompt", "It was", *four, "--save-state", "it")
    main(["generate", "bytes.ckpt", "--load-state", "it", "--tokens", "3"])
    assert "11 tokens were read before\n" in capsys.readouterr().err


def test_without_a_seed_a_loaded_state_is_continued_differently_each_time(generate):
    generate("json.ckpt", "--prompt", "It", "--tokens", 0, "--save-state", "it")
    assert last("it", "json").draws is None
    assert len({generate("json.ckpt", "--load-state", "it", "--tokens", 30) for _ in range(4)}) > 1


def test_a_text_ends_with_its_document(generate):
    start = ("--prompt", "It was", "--temperature", 0, "--tokens")
    third = generate("json.ckpt", *start, 3, "--save-state", "third")
    then = last("third", "json")
    eos = then.prefix.logits.argmax().item()  # the token that would come next
    save_model("ends.ckpt", TOKENIZER, eos=eos)
    assert generate("ends.ckpt", *start, 20, "--save-state", "ended") == third
    ended = last("ended", "json")
    assert torch.equal(ended.prefix.logits, then.prefix.logits) and ended.tokens == then.tokens


@pytest.mark.parametrize(
    "line, message",
    [
        ("unmarked.ckpt", "knows no mark of a document's start (BOS), from which a text could"),
        ("bytes.ckpt --prompt-file empty.txt", "the prompt empty.txt is empty"),
        ("bytes.ckpt --prompts-file empty.txt", "empty.txt is empty; write a prompt into each"),
        ("bytes.ckpt --prompt-file nowhere.txt", "nowhere.txt"),
        ("bytes.ckpt --prompt x --tokens 0", "--tokens 0 must be 1 or more"),
        ("bytes.ckpt --prompt x --tokens -1 --save-state x.state", "--tokens -1 must be 1"),
        ("bytes.ckpt --prompt x --stop=", "--stop is empty; give at least one character"),
        ("bytes.ckpt --prompt x --seed -1", "seed -1 must be 0 or more"),
        (
            "bytes.ckpt --prompt x --prompt y --save-state x.state",
            "saves one text, and there are 2",
        ),
        ("bytes.ckpt --prompt x --save-state .", "--save-state . is a folder; name a file"),
        ("bytes.ckpt --load-state nowhere", "there is no saved state nowhere"),
        ("bytes.ckpt --load-state book.txt", "book.txt is not a saved state of"),
        ("bytes.ckpt --load-state bytes.ckpt", "bytes.ckpt is not a saved state of"),
        ("bytes.ckpt --load-state half.state", "half.state is not a saved state of"),
        ("other.ckpt --load-state bytes.state", "bytes.state is the state of another model"),
        ("video.ckpt --prompt x", "is a model of video, not of text; `tttvideo predict` runs it"),
        ("unknown.ckpt --prompt x", "unknown.ckpt has no tokenizer"),
    ],
)
def test_bad_input_gets_one_clear_line(generate, line, message):
    if "state" in message:
        generate("bytes.ckpt", "--prompt", "x", "--tokens", 1, "--save-state", "bytes.state")
        whole = Path("bytes.state").read_bytes()
        Path("half.state").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit) as stopped:
        generate(*line.split())
    assert message in str(stopped.value) and "\n" not in str(stopped.value)
    assert not Path("x.state").exists()


def test_empty_standard_input_is_an_empty_prompt(generate, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit, match="the prompt - is empty"):
        generate("bytes.ckpt", "--prompt", "-")
