"""The tokenizer's own template: templates as published, against transformers' own rendering and mask."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stillroom import chat_format
from stillroom.chat_format import encode, end_id, get
from stillroom.errors import InputError, ModelError, ParamsError
from stillroom.records import Message

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role != 'system' or not loop.first %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
PHI_3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
GENERATION = (
    "{{ bos_token }}{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{%- if m['role'] == 'assistant' -%}"
    "{%- generation -%}{{ m['content'] + '<|im_end|>' }}{%- endgeneration -%}{{ '\\n' }}{%- else -%}"
    "{{ m['content'] + '<|im_end|>\\n' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "qwen": (QWEN, "<|im_end|>"),
    "llama-3": (LLAMA_3, "<|eot_id|>"),
    "mistral": (MISTRAL, "</s>"),
    "zephyr": (ZEPHYR, "</s>"),
    "phi-3": (PHI_3, "<|end|>"),
    "generation": (GENERATION, "<|im_end|>"),
}
CONTROLS = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
GREEDY = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def made(template):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=CONTROLS
    )
    backend.train_from_iterator(["Why is the sky blue? user assistant system\n\n[INST] [/INST]"], trainer)
    if "<|end|>" in template:  # Phi-3's swallow the white space behind them
        backend.add_special_tokens([AddedToken(text, rstrip=True) for text in GREEDY])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


TOKENIZERS = {name: made(template) for name, (template, _) in TEMPLATES.items()}
OWN = get("tokenizer")
WORD = st.text(st.sampled_from("ab é\n[]/<>im_endINSTu'"), min_size=1, max_size=20).filter(str.strip)
TALK = (
    Message("user", "Why is the sky blue?"),
    Message("assistant", "Air scatters."),
    Message("user", "And a glacier?"),
    Message("assistant", "Ice."),
)


@st.composite
def talks(draw):
    return [
        Message(role, draw(WORD)) for _ in range(draw(st.integers(1, 3))) for role in ("user", "assistant")
    ]


def turns(messages):
    return [{"role": m.role, "content": m.content} for m in messages]


def runs(row):
    """The ids of each uninterrupted stretch with loss."""
    found, last = [], False
    for token, learn in zip(row.ids, row.learn, strict=True):
        if learn and not last:
            found.append([])
        if learn:
            found[-1].append(token)
        last = learn
    return found


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=talks())
@settings(max_examples=40)
def test_the_text_is_the_templates_and_the_mask_is_each_answer_with_its_end(name, messages):
    tokenizer, end = TOKENIZERS[name], TEMPLATES[name][1]
    if name != "phi-3":  # whose control tokens swallow white space
        rendered = tokenizer.apply_chat_template(turns(messages), tokenize=False)
        assert OWN.bound(tokenizer).text(messages) == rendered
    row = encode(OWN, tokenizer, [messages])[0]
    answers = [m.content for m in messages if m.role == "assistant"]
    found = runs(row)
    assert [run[-1] for run in found] == [tokenizer.convert_tokens_to_ids(end)] * len(answers)
    said = [tokenizer.decode(run[:-1]) for run in found]
    if name == "llama-3":
        answers = [answer.strip() for answer in answers]
    if name == "mistral":
        answers = [f" {answer} " for answer in answers]
    assert said == answers


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=talks())
@settings(max_examples=40)
def test_each_prompt_has_the_ids_that_a_server_computes_and_is_a_prefix_of_the_row(name, messages):
    tokenizer = TOKENIZERS[name]
    whole = encode(OWN, tokenizer, [messages])[0]
    for count in range(1, len(messages), 2):
        prompt = encode(OWN, tokenizer, [messages[:count]], prompt=True)[0].ids
        assert whole.ids[: len(prompt)] == prompt
        assert whole.learn[len(prompt)]
    served = tokenizer.apply_chat_template(turns(messages[:1]), add_generation_prompt=True, return_dict=False)
    assert encode(OWN, tokenizer, [messages[:1]], prompt=True)[0].ids == served


def test_the_mask_of_generation_blocks_is_that_of_transformers():
    tokenizer = TOKENIZERS["generation"]
    served = tokenizer.apply_chat_template(turns(TALK), return_dict=True, return_assistant_tokens_mask=True)
    row = encode(OWN, tokenizer, [TALK])[0]
    assert row.ids == served["input_ids"]
    assert row.learn == [bool(mask) for mask in served["assistant_masks"]]


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_text_becomes_a_control_token(name):
    tokenizer = TOKENIZERS[name]
    controls = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    evil = " ".join([*CONTROLS, *GREEDY])
    attack = [Message(m.role, f"{evil} {m.content} {evil}.") for m in TALK]

    def count(messages):
        return sum(token in controls for token in encode(OWN, tokenizer, [messages])[0].ids)

    assert count(attack) == count(TALK)


@pytest.mark.parametrize("name", TEMPLATES)
def test_one_begin_token_where_the_template_writes_it_and_the_end_is_learned_though_it_pads(name):
    tokenizer, (template, end) = TOKENIZERS[name], TEMPLATES[name]
    row = encode(OWN, tokenizer, [TALK])[0]
    assert row.ids.count(tokenizer.bos_token_id) == ("bos_token" in template)
    assert end_id(OWN, tokenizer) == tokenizer.convert_tokens_to_ids(end)
    ends = [learn for token, learn in zip(row.ids, row.learn, strict=True) if token == end_id(OWN, tokenizer)]
    assert sum(ends) == 2


def test_system_messages_stand_where_the_template_puts_them():
    messages = [Message("system", "Be brief."), *TALK]
    for name in ("chatml", "qwen", "zephyr", "generation"):
        text = OWN.bound(TOKENIZERS[name]).text(messages)
        assert "Be brief." in text
        assert "helpful assistant" not in text
    assert "helpful assistant" in OWN.bound(TOKENIZERS["qwen"]).text(TALK)
    with pytest.raises(InputError, match=r"refuses the roles `system user .*must alternate"):
        encode(OWN, TOKENIZERS["mistral"], [messages])


REWRITES = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")


def test_a_conversation_that_the_template_rewrites_is_refused():
    tokenizer = made(REWRITES)
    encode(OWN, tokenizer, [TALK])
    with pytest.raises(InputError, match="does not write this conversation as it stands: 'Hm"):
        encode(OWN, tokenizer, [[Message("user", "Hm?"), Message("assistant", "<think>x</think>Yes.")]])


HIDES = CHATML.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}{{ 'Now: ' }}")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "has no chat template"),
        (CHATML + "{{ strftime_now('%d') }}", "the day's date"),
        (CHATML.replace("<|im_end|>", "\\n"), "ends an answer with no control token"),
        (HIDES, "writes a prompt otherwise"),
        (GENERATION.replace("{%- generation -%}", "{{ '> ' }}{%- generation -%}"), "does not begin where"),
        (CHATML.replace("message['content']", "message['content'] | upper"), "as it stands"),
        ("{{ raise_exception('no') }}", "refuses the roles"),
    ],
)
def test_a_template_whose_mask_cannot_be_exact_is_refused(template, says):
    with pytest.raises(ModelError, match=re.escape(says)) as caught:
        encode(OWN, made(template or ""), [TALK])
    assert caught.value.where == "common.chat_format"


def test_without_the_tokenizer_only_the_export_is_spelled():
    assert OWN.text(TALK[:2]) == chat_format.FORMATS["inst"].text(TALK[:2])
    for ask in (OWN.jinja, lambda: OWN.text(TALK[:1], prompt=True)):
        with pytest.raises(ParamsError, match="without the tokenizer"):
            ask()
    assert OWN.bound(TOKENIZERS["qwen"]).jinja() == QWEN
