"""Laws of text tokenizers."""

import json

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tttvideo.data.text import tokenizer as tokenizers_room
from tttvideo.data.text.documents import Utf8Decoder, split_text
from tttvideo.data.text.tokenizer import (
    ByteTokenizer,
    JsonTokenizer,
    load_tokenizer,
    read_tokenizer,
    tokenizer_of,
    train_bpe,
)


ENGLISH = (
    "It was the best of times,\nit was the worst of times.\n\n  It was the age of wisdom.\n" * 9
)
HARD = "Grüße, 世界! 🙂\tdef f(x):\r\n\r\n    return  x\n\n\n</s> <s>tail  "


def llama_like(*added):
    """A tokenizer as sentencepiece makes them: spaces as ▁, bytes for what it does not know."""
    words = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", "a", "b", "c", "ü", "▁a", "b▁", "ab", *added]
    merges = [("▁", "a"), ("b", "▁"), ("a", "b")]
    model = models.BPE(
        {word: n for n, word in enumerate(words)}, merges, byte_fallback=True, unk_token="<s>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def word_level(*words):
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "bpe": JsonTokenizer(train_bpe([ENGLISH], 280)),
    "llama": JsonTokenizer(llama_like().to_str()),
}
each = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


@each
@pytest.mark.parametrize(
    "text", [ENGLISH, HARD, "a b ab 世", ""], ids=["english", "hard", "ab", ""]
)
def test_decoding_inverts_encoding_and_leaves_out_marks(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode([tokenizer.bos, *tokens, tokenizer.eos]) == text
    assert not {tokenizer.bos, tokenizer.eos} & set(tokens)
    assert all(0 <= token < tokenizer.vocab_size for token in tokens)


@each
def test_the_lengths_of_tokens_add_up_to_the_bytes_of_the_text(tokenizer):
    lengths = tokenizer.byte_lengths()
    assert lengths.shape == (tokenizer.vocab_size,)
    assert lengths[[tokenizer.bos, tokenizer.eos]].tolist() == [0, 0]
    prefix = tokenizer is TOKENIZERS["llama"]  # puts a space before every text
    assert lengths[tokenizer.encode(HARD)].sum() == len(HARD.encode()) + prefix


@each
def test_a_stream_of_tokens_is_decoded_token_by_token(tokenizer):
    tokens = [tokenizer.bos, *tokenizer.encode(HARD), tokenizer.eos]
    decoder = tokenizer.decoder()
    shown = [decoder([token]) for token in tokens]
    assert "".join(shown).removeprefix(" ") + decoder([], final=True) == HARD
    assert "�" not in "".join(shown)
    assert tokenizer.decoder()(tokens, final=True).removeprefix(" ") == HARD


def test_a_stream_keeps_the_space_before_its_first_word():
    tokenizer = TOKENIZERS["llama"]
    assert tokenizer.decoder()(tokenizer.encode("ab")) == " ab"


def test_half_a_character_at_the_end_becomes_a_replacement_character():
    decoder = ByteTokenizer().decoder()
    assert decoder([0xE4, 0xB8]) == ""
    assert decoder([], final=True) == "�"


def test_lengths_of_words_include_the_space_that_their_decoder_adds():
    tokenizer = JsonTokenizer(word_level("[BOS]", "[EOS]", "a", "house").to_str())
    assert tokenizer.byte_lengths().tolist() == [0, 0, 2, 6]


def test_training_is_deterministic_and_fills_the_vocabulary():
    texts = [ENGLISH, HARD * 3, ENGLISH[::-1]]
    text = train_bpe(iter(texts), 300)
    assert text == train_bpe(iter(texts), 300)
    tokenizer = JsonTokenizer(text)
    assert tokenizer.vocab_size == 300
    assert (tokenizer.bos, tokenizer.eos) == (0, 1)
    assert len(tokenizer.encode(ENGLISH)) < len(ENGLISH) / 2


def test_a_vocabulary_that_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="--train-bpe 257 must be 258 or more"):
        train_bpe([ENGLISH], 257)
    with pytest.raises(ValueError, match="enough for 260 tokens only; choose --train-bpe 260"):
        train_bpe(["ab ab"], 400)


def test_truncation_and_padding_in_the_file_are_ignored():
    tokenizer = Tokenizer.from_str(train_bpe([ENGLISH], 280))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=500)
    tokens = JsonTokenizer(tokenizer.to_str()).encode(ENGLISH)
    assert tokens == TOKENIZERS["bpe"].encode(ENGLISH)


@pytest.mark.parametrize(
    "names, marks",
    [
        (["<s>", "</s>"], (1, 2)),
        (["<|end_of_text|>", "<|begin_of_text|>"], (2, 1)),
        (["[EOS]", "[BOS]"], (2, 1)),
        (["<|bos|>", "<|eos|>"], (1, 2)),
        (["<|endoftext|>"], (1, 1)),
        (["</s>"], (1, 1)),
    ],
    ids=str,
)
def test_marks_are_found_by_their_usual_names(names, marks):
    tokenizer = JsonTokenizer(word_level("a", *names).to_str())
    assert (tokenizer.bos, tokenizer.eos) == marks


def test_marks_of_other_names_are_given_by_name_or_id():
    text = bert_like().to_str()
    for marks in (("[CLS]", "[SEP]"), (1, 2)):
        tokenizer = JsonTokenizer(text, marks=marks)
        assert (tokenizer.bos, tokenizer.eos) == (1, 2)
        assert tokenizer.byte_lengths()[[1, 2]].tolist() == [0, 0]
        assert tokenizer.decode([1, 4, 2]) == "the"
    assert (one := JsonTokenizer(text, marks=(None, "[SEP]"))).bos == one.eos == 2
    both = JsonTokenizer(word_level("<s>", "</s>", "<|im_start|>").to_str(), marks=(2, None))
    assert (both.bos, both.eos) == (2, 1)


def test_a_mark_that_is_no_token_or_ordinary_text_is_refused_with_near_names():
    text = bert_like().to_str()
    message = "--bos CLS is no token of tokenizer.json; near names are: .CLS., "
    with pytest.raises(ValueError, match=message):
        JsonTokenizer(text, marks=("CLS", None))
    with pytest.raises(ValueError, match="--eos the is a token of ordinary text in tokenizer.json"):
        JsonTokenizer(text, marks=(None, "the"))
    with pytest.raises(ValueError, match="begins or ends a doc.*or name a token of it as --bos or"):
        JsonTokenizer(text)


def bert_like():
    tokenizer = word_level("[PAD]", "[CLS]", "[SEP]", "[MASK]", "the", "[UNK]")
    tokenizer.model.unk_token = "[UNK]"
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def test_a_tokenizer_that_cannot_serve_is_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(
        ValueError, match="there is no tokenizer .*tokenizer.json; choose bytes, or"
    ):
        read_tokenizer(path)
    path.write_text('{"model": 3')
    with pytest.raises(
        ValueError, match="tokenizer.json cannot be read as a tokenizer.json: "
    ) as e:
        read_tokenizer(path)
    assert "\n" not in str(e.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="tokenizer.json cannot be read as a tokenizer.json: "):
        read_tokenizer(path)
    path.write_text(word_level("a", "b").to_str())
    with pytest.raises(ValueError, match="tokenizer.json has no token that begins or ends a doc"):
        read_tokenizer(path)


def test_a_name_and_its_json_load_the_same_tokenizer():
    bpe = TOKENIZERS["bpe"]
    again = load_tokenizer(bpe.name, bpe.to_json())
    assert (again.name, again.encode(HARD)) == (bpe.name, bpe.encode(HARD))
    assert isinstance(load_tokenizer("bytes"), ByteTokenizer)
    with pytest.raises(ValueError, match="needs its tokenizer.json"):
        load_tokenizer(bpe.name)
    with pytest.raises(ValueError, match=f"is {bpe.name}, but the tokens are of other"):
        load_tokenizer("other", bpe.to_json())


def test_the_tokenizer_of_a_corpus_is_found_beside_its_parts(tmp_path):
    bpe = TOKENIZERS["bpe"]
    (tmp_path / "train").mkdir()
    for path in (tmp_path / "train", tmp_path / "train/00000.bin"):
        with pytest.raises(ValueError, match="there is no tokenizer.json beside"):
            tokenizer_of(path, bpe.name)
    (tmp_path / "tokenizer.json").write_text(bpe.to_json())
    for path in (tmp_path / "train", tmp_path / "train/00000.bin"):
        assert tokenizer_of(path, bpe.name).name == bpe.name
    assert tokenizer_of(tmp_path / "train", "bytes").name == "bytes"


def cut_anyhow(data, rng):
    cuts = np.sort(rng.integers(0, len(data), 40))
    return [bytes(part) for part in np.split(np.frombuffer(data, np.uint8), cuts)]


def test_pieces_depend_on_the_text_alone_and_cut_no_token():
    rng, text = np.random.default_rng(0), (ENGLISH + HARD + "Wisdom.\nTimes.\n\nIt\n\n" * 40) * 5
    expected = list(split_text([text], 200))
    assert "".join(expected) == text and max(map(len, expected)) <= 200 and len(expected) > 20
    for _ in range(5):
        chunks = cut_anyhow(text.encode(), rng)
        assert list(split_text(Utf8Decoder().decode_all(chunks), 200)) == expected
    tokenizer = TOKENIZERS["bpe"]
    assert sum(map(tokenizer.encode, expected), []) == tokenizer.encode(text)


def trained(normalizer, pre_tokenizer):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<s>"], initial_alphabet=sorted(set(HARD)), **SMALL
    )
    tokenizer.train_from_iterator([ENGLISH], trainer)
    return JsonTokenizer(tokenizer.to_str())


SMALL = {"max_token_length": 8, "show_progress": False}  # or a line would be one token
Metaspace, ByteLevel = pre_tokenizers.Metaspace, pre_tokenizers.ByteLevel
ONE_LINE = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]  # as T5 reads a text
SPACED = {
    "llama": JsonTokenizer(llama_like().to_str()),
    "metaspace first": trained(None, Metaspace(prepend_scheme="first")),
    "metaspace always": trained(None, Metaspace(prepend_scheme="always")),
    "metaspace never": trained(None, Metaspace(prepend_scheme="never")),
    "one line": trained(normalizers.Sequence(ONE_LINE), Metaspace()),
    "byte level": trained(None, ByteLevel(add_prefix_space=True)),
    "characters": trained(None, None),
}


@pytest.mark.parametrize("size", [60, 200])
@pytest.mark.parametrize("tokenizer", SPACED.values(), ids=SPACED)
def test_a_text_in_pieces_has_the_tokens_of_the_whole(monkeypatch, tokenizer, size):
    monkeypatch.setattr(tokenizers_room, "CONTEXT", 50)
    text = "".join(line + HARD * (n % 9 == 0) for n, line in enumerate(ENGLISH.splitlines(True)))
    found = list(tokenizer.encode_all(split_text([text], size)))
    assert "".join(piece for piece, _ in found) == text and len(found) > 5
    assert [token for _, tokens in found for token in tokens] == tokenizer.encode(text)
    assert list(tokenizer.encode_all([])) == [("", [])]
    assert list(tokenizer.encode_all(["ab"])) == [("ab", tokenizer.encode("ab"))]


def test_pieces_encoded_alone_would_have_other_tokens():
    cut = list(split_text([ENGLISH], 60))
    for tokenizer in (SPACED["llama"], SPACED["metaspace first"], SPACED["byte level"]):
        assert sum(map(tokenizer.encode, cut), []) != tokenizer.encode(ENGLISH)


@pytest.mark.parametrize(
    "text", ["x" * 50, "x y" * 20, "\n" * 50, "\n\nx" * 20, "x\n" * 20], ids=ascii
)
def test_a_text_without_line_ends_or_spaces_is_cut_too(text):
    cut = list(split_text([text], 7))
    assert "".join(cut) == text
    assert min(map(len, cut)) > 0 and max(map(len, cut)) <= 7


@pytest.mark.parametrize(
    "data", [b"ab\xffcd", b"ab\xe4\xb8", b"\xe4\xb8cd", "世界".encode()], ids=str
)
def test_wrong_utf8_is_replaced_and_noticed(data):
    for size in (1, 2, 3, 10):
        utf8 = Utf8Decoder()
        text = "".join(utf8.decode_all(data[i : i + size] for i in range(0, len(data), size)))
        assert text == data.decode(errors="replace")
        try:
            data.decode()
        except UnicodeDecodeError as error:
            assert utf8.damaged == error.start
        else:
            assert utf8.damaged is None


def test_the_text_of_a_trained_tokenizer_is_a_json_of_the_library():
    assert json.loads(TOKENIZERS["bpe"].to_json())["model"]["type"] == "BPE"
