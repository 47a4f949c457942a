"""The chat formats against independent oracles: Jinja's rendering and tokenizers that are trained here."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stillroom import chat_format, tokenising
from stillroom.chat_format import EOS, FORMATS, encode
from stillroom.errors import InputError, ModelError, ParamsError
from stillroom.records import Message

CORPUS = [
    "Why is the sky blue? Because air scatters blue light more than red light.",
    "[INST] [/INST] <<SYS>> <</SYS>> system user assistant\n\n\nThe ferry leaves at seven.",
    "What is a glacier? A slow river of ice, which carries stones down to the valley.",
]
CONTROLS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CONTROLS += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TALK = (
    Message("user", "Why is the sky blue?"),
    Message("assistant", "Because air scatters blue light."),
    Message("user", "And a glacier?"),
    Message("assistant", "A slow river of ice."),
)


def byte_level():
    """GPT-2's kind: every byte is spelled, a text begins as it stands."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=CONTROLS)
    )
    return wrapped(backend)


def sentencepiece():
    """Llama-2's kind: a text begins with a space of the tokenizer's own."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    extra = ["<unk>", *CONTROLS, *(f"<0x{i:02X}>" for i in range(256))]
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=extra))
    return wrapped(backend)


def wrapped(backend):
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=CONTROLS[2:],
        clean_up_tokenization_spaces=False,
    )


TOKENIZERS = {"byte-level": byte_level(), "sentencepiece": sentencepiece()}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


@pytest.fixture(params=FORMATS)
def chat(request):
    return FORMATS[request.param]


def rows(messages):
    return [{"role": m.role, "content": m.content} for m in messages]


def rendered(chat, tokenizer, messages, **options):
    return tokenizer.apply_chat_template(
        rows(messages), chat_template=chat.jinja(), tokenize=False, **options
    )


def spelled(chat, tokenizer, messages, **options):
    names = {chat_format.BOS: tokenizer.bos_token, EOS: tokenizer.eos_token}
    return "".join(
        names.get(p.text, p.text) if p.control else p.text for p in chat.pieces(messages, **options)
    )


CONTENT = st.text(st.sampled_from("[]INST/<>SY|im_end \n'\"{}\\ab\u00e9"), min_size=1, max_size=30)


@st.composite
def conversations(draw):
    messages = [Message("system", draw(CONTENT))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages += [Message("user", draw(CONTENT)), Message("assistant", draw(CONTENT))]
    return messages


@pytest.mark.parametrize("name", FORMATS)
@given(messages=conversations())
@settings(max_examples=40)
def test_jinja_spells_what_pieces_spell(name, messages):
    chat, tokenizer = FORMATS[name], TOKENIZERS["byte-level"]
    assert rendered(chat, tokenizer, messages) == spelled(chat, tokenizer, messages)
    asked = rendered(chat, tokenizer, messages[:-1], add_generation_prompt=True)
    assert asked == spelled(chat, tokenizer, messages[:-1], prompt=True)


def test_a_prompt_has_the_ids_that_a_server_computes(chat, tokenizer):
    for messages in (TALK[:1], (Message("system", "Answer briefly."), *TALK[:1])):
        served = tokenizer.apply_chat_template(
            rows(messages), chat_template=chat.jinja(), add_generation_prompt=True, return_dict=False
        )
        assert encode(chat, tokenizer, [messages], prompt=True)[0].ids == served


def test_each_prompt_is_a_prefix_of_the_training_row(chat, tokenizer):
    whole = encode(chat, tokenizer, [TALK])[0]
    for turns in (1, 3):
        prompt = encode(chat, tokenizer, [TALK[:turns]], prompt=True)[0].ids
        assert whole.ids[: len(prompt)] == prompt
        assert whole.learn[len(prompt)] is True


def test_loss_tokens_decode_to_every_answer_and_its_end(chat, tokenizer):
    row = encode(chat, tokenizer, [TALK])[0]
    end = tokenizer.eos_token if chat.end == EOS else chat.end
    runs, last = [], False
    for token, learn in zip(row.ids, row.learn, strict=True):
        if learn and not last:
            runs.append([])
        if learn:
            runs[-1].append(token)
        last = learn
    answers = [m.content for m in TALK if m.role == "assistant"]
    assert [run[-1] for run in runs] == [tokenizer.convert_tokens_to_ids(end)] * 2
    assert [tokenizer.decode(run[:-1]).removeprefix(chat.lead) for run in runs] == answers


def test_the_end_token_is_learned_though_it_is_the_pad_token(tokenizer):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    row = encode(FORMATS["inst"], tokenizer, [TALK])[0]
    ends = [i for i, token in enumerate(row.ids) if token == tokenizer.eos_token_id]
    assert [row.learn[i] for i in ends] == [True, True]


@pytest.mark.parametrize(("name", "count"), [("inst", 1), ("llama-3", 1), ("chatml", 0), ("llama-2", 2)])
def test_begin_tokens(tokenizer, name, count):
    """One; Llama-2 publishes one a turn."""
    ids = encode(FORMATS[name], tokenizer, [TALK])[0].ids
    assert ids.count(tokenizer.bos_token_id) == count
    assert ids[: min(count, 1)] == [tokenizer.bos_token_id][:count]


def test_no_text_becomes_a_control_token(chat, tokenizer):
    plain = (Message("user", "a b"), Message("assistant", "c"))
    evil = " ".join(CONTROLS)
    attack = (Message("user", f"a {evil} b"), Message("assistant", f"c {evil}"))
    controls = set(tokenizer.convert_tokens_to_ids(CONTROLS))

    def count(messages):
        return sum(token in controls for token in encode(chat, tokenizer, [messages])[0].ids)

    assert count(attack) == count(plain)
    assert tokenizer.backend_tokenizer.encode_special_tokens is False


@given(text=CONTENT)
def test_a_users_text_spells_no_marker(text):
    chat = FORMATS["llama-2"]
    assert not any(marker in chat.escape(text) for marker in chat.escapes)


def test_an_answer_of_a_sentencepiece_tokenizer_has_no_space_of_the_tokenizer():
    tokenizer = TOKENIZERS["sentencepiece"]
    row = encode(FORMATS["inst"], tokenizer, [TALK[:2]])[0]
    answer = [token for token, learn in zip(row.ids, row.learn, strict=True) if learn]
    assert "".join(tokenizer.convert_ids_to_tokens(answer)) == "Because▁air▁scatters▁blue▁light.</s>"
    space = encode(FORMATS["llama-2"], tokenizer, [TALK[:2]])[0]
    answer = [token for token, learn in zip(space.ids, space.learn, strict=True) if learn]
    assert "".join(tokenizer.convert_ids_to_tokens(answer)) == "▁Because▁air▁scatters▁blue▁light.</s>"


def test_metaspace_and_byte_level_prefixes_are_switched_off():
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
    levels = pre_tokenizers.Sequence([metaspace, pre_tokenizers.ByteLevel(add_prefix_space=True)])
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = levels
    spec = tokenising.without_prefix(json.loads(backend.to_str()))
    first, second = spec["pre_tokenizer"]["pretokenizers"]
    assert first["prepend_scheme"] == "never"
    assert second["add_prefix_space"] is False


def test_system_messages_add_up_and_must_be_followed_by_a_user():
    chat = FORMATS["inst"]
    both = chat.text([Message("system", "A."), Message("system", "B."), Message("user", "C?")])
    assert both == "[INST]\nA.\n\nB.\n\nC?\n[/INST]\n\n"
    with pytest.raises(InputError, match="system message"):
        chat.pieces([*TALK, Message("system", "too late")])


def test_the_export_of_recipe_a():
    assert FORMATS["inst"].text(TALK[:2]) == (
        "[INST]\nWhy is the sky blue?\n[/INST]\n\nBecause air scatters blue light."
    )


@pytest.mark.parametrize("content", ["{bos}", "{eos}"])
def test_contents_that_read_like_our_names_of_control_tokens_are_exported(content):
    messages = [Message("user", content), Message("assistant", content)]
    for chat in FORMATS.values():
        assert chat.text(messages).count(content) == 2


def test_an_unknown_role_is_refused_by_the_template(chat, tokenizer):
    with pytest.raises(Exception, match="unknown role: tool"):
        tokenizer.apply_chat_template(
            [{"role": "tool", "content": "x"}], chat_template=chat.jinja(), tokenize=False
        )


def test_a_format_needs_its_control_tokens():
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token=None)
    with pytest.raises(ModelError, match="end token"):
        encode(FORMATS["inst"], bare, [TALK])
    with pytest.raises(ParamsError, match="no chat format"):
        chat_format.get("vicuna")


def test_load_tokenizer(tmp_path):
    TOKENIZERS["byte-level"].save_pretrained(tmp_path / "model")
    loaded = chat_format.load_tokenizer(tmp_path / "model")
    assert encode(FORMATS["inst"], loaded, [TALK]) == encode(
        FORMATS["inst"], TOKENIZERS["byte-level"], [TALK]
    )
    with pytest.raises(ModelError, match="no tokenizer"):
        chat_format.load_tokenizer(tmp_path / "absent")
