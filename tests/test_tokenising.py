"""A table of words against the tokenizer itself, on texts that are hard to cut."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from stillroom.tokenising import LLAMA_3, SPLITS, Codec, Words, gather, separable

CORPUS = ["The ferry leaves at 7:30, doesn't it? ", "x = [1, 22, 333]\n    return  x\n\n", "déjà vu — naïve "]
CORPUS += ["Why is the sky blue? Because air scatters blue light more than red light."] * 3
CONTROLS = ["<s>", "</s>", "<|end|>"]
BYTES = pre_tokenizers.ByteLevel.alphabet()
PARTS = [" ", "  ", "\n", "\t", "\u00a0", "\x1c", "\x85", "\u3000", "▁", "é", "e\u0301", "\u0301", "漢字"]
PARTS += [
    "😀",
    "a",
    "The",
    "blue",
    "light,",
    "'s",
    "'",
    "7",
    "1234567",
    ".",
    "!?",
    "[",
    "<|end|>",
    "<s>",
    "  x",
]
TEXT = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)


def byte_level(pre_tokenizer, normalizer=None, added=()):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    if normalizer:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=BYTES, special_tokens=CONTROLS)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(list(added))
    return backend


def split(pattern):
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def sentencepiece(normalizer=None, pre_tokenizer=None, crossing=False):
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if normalizer:
        backend.normalizer = normalizer
    cutter = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.pre_tokenizer = cutter
    special = ["<unk>", *CONTROLS, *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=520, special_tokens=special)
    backend.train_from_iterator([text.replace(" ", "▁") for text in CORPUS], trainer)
    spec = json.loads(backend.to_str())
    spec["pre_tokenizer"] = None
    if crossing:
        spec["model"]["vocab"]["e▁"] = len(spec["model"]["vocab"])
        spec["model"]["merges"].insert(0, ["e", "▁"])
    backend = Tokenizer.from_str(json.dumps(spec))
    if pre_tokenizer:
        backend.pre_tokenizer = pre_tokenizer
    return backend


MARKS = normalizers.Replace(" ", "▁")
GPT_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
TOKENIZERS = {
    "gpt-2": byte_level(GPT_2),
    "gpt-2, prefix": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "gpt-neox": byte_level(GPT_2, normalizers.NFC(), [AddedToken("  ", special=False, normalized=True)]),
    "llama-3": byte_level(split(LLAMA_3)),
    "qwen": byte_level(split(SPLITS[1]), normalizers.NFC()),
    "llama-2": sentencepiece(normalizers.Sequence([normalizers.Prepend("▁"), MARKS])),
    "metaspace first": sentencepiece(
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    ),
    "metaspace always": sentencepiece(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always")),
}
CODECS = {name: Codec(backend) for name, backend in TOKENIZERS.items()}
WORDS = {name: Words(codec, most_characters=300) for name, codec in CODECS.items()}


def rows(found):
    return [part.tolist() for part in np.split(found.ids, np.cumsum(found.lengths)[:-1])]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(texts=st.lists(TEXT, min_size=1, max_size=4), data=st.data())
@example(texts=["a  b", "x\n  y \n z", "at 7 ", " at", ""], data=None)
@settings(max_examples=60)
def test_words_make_the_ids_of_the_tokenizer(name, texts, data):
    places = st.sampled_from(["first", "inner", "continued"])
    drawn = [data.draw(places) if data else "first" for _ in texts]
    assert separable(json.loads(TOKENIZERS[name].to_str()))
    backend = Tokenizer.from_str(TOKENIZERS[name].to_str())
    backend.encode_special_tokens = True
    for _ in range(2):  # new words, then known ones
        found = rows(WORDS[name].ragged(texts, drawn))
        for text, place, ids in zip(texts, drawn, found, strict=True):
            assert ids == CODECS[name].encode([text], place)[0]
            if place == "first":
                assert ids == backend.encode(text, add_special_tokens=False).ids


def test_a_text_inside_a_row_is_what_a_server_encodes_behind_a_control_token():
    for name, backend in TOKENIZERS.items():
        spelled = backend.encode("<s>The ferry<|end|>The ferry", add_special_tokens=False).ids
        control = [backend.token_to_id(token) for token in ("<s>", "<|end|>")]
        inner = CODECS[name].encode(["The ferry"], "inner")[0]
        assert spelled == [control[0], *inner, control[1], *inner], name


BARE = byte_level(GPT_2)


@pytest.mark.parametrize(
    "backend",
    [
        sentencepiece(MARKS, crossing=True),
        byte_level(pre_tokenizers.Whitespace()),
        byte_level(split(r"\p{L}+ \p{L}+")),
        byte_level(GPT_2, normalizers.Lowercase()),
        byte_level(GPT_2, normalizers.Replace(Regex("a b"), "c")),
        byte_level(GPT_2, added=[AddedToken("blue light", special=False)]),
        byte_level(GPT_2, added=[AddedToken("<t>", special=False, rstrip=True)]),
        Tokenizer(models.WordPiece({"a": 0}, unk_token="a")),
        Tokenizer(models.BPE(dropout=0.1)),
        Tokenizer(models.BPE(end_of_word_suffix="</w>")),
    ],
    ids=range(10),
)
def test_a_tokenizer_of_which_it_cannot_be_shown_encodes_every_text_itself(backend):
    assert not separable(json.loads(backend.to_str()))
    words = Words(Codec(backend))
    words.ragged(["blue light at"], ["first"])
    assert not words._index


def test_a_token_that_crosses_words_is_made():
    backend = sentencepiece(MARKS, crossing=True)
    found = Words(Codec(backend)).ragged(["blue light"], ["first"])
    assert "e▁" in [backend.id_to_token(i) for i in found.ids.tolist()]


def test_no_texts_make_no_ids():
    found = WORDS["gpt-2"].ragged([], [])
    assert (len(found.ids), len(found.lengths)) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=9))
def test_gather_is_slices_end_to_end(spans):
    values = np.arange(30, dtype=np.int32) * 7
    expected = [v for start, length in spans for v in values[start : start + length].tolist()]
    starts = np.array([start for start, _ in spans], np.int64)
    lengths = np.array([length for _, length in spans], np.int64)
    assert gather(values, starts, lengths).tolist() == expected
