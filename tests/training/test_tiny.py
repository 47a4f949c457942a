import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from stillroom import chat_format
from stillroom.inference.generate import Generator
from stillroom.params import Sampling
from stillroom.records import Message
from stillroom.training import tiny
from stillroom.training.tiny_recipe import TinyModel, TinyTeacher

CHAT = chat_format.get("inst")
PAIRS = [
    ("Who keeps the lamp?", "Old Tamsin keeps the lamp on Skerrin."),
    ("When does the ferry leave?", "It leaves at seven in the morning."),
    ("What do the bees like?", "They like heather more than clover."),
    ("Is there a mill?", "Yes, it stands above the harbour."),
]
TALKS = [(Message("user", q), Message("assistant", a)) for q, a in PAIRS]
TEXTS = [text for pair in PAIRS for text in pair]
SIZES = {"vocabulary": 320, "hidden_size": 64, "intermediate_size": 96, "layers": 2, "positions": 128}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.build_tokenizer(TEXTS, 320, CHAT)


def taught(tokenizer, steps, seed=1):
    recipe = TinyTeacher(**SIZES, steps=steps, batch_tokens=128)
    model = tiny.build_model(recipe, tokenizer, seed)
    tiny.teach(model, chat_format.encode(CHAT, tokenizer, TALKS), recipe, seed)
    return model


def same(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    tokenizer = TOKENIZER
    ids = chat_format.encode_texts(tokenizer, [text])[0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert min(ids, default=3) >= 3


TOKENIZER = tiny.build_tokenizer(TEXTS, 300, CHAT)


def test_the_same_texts_give_the_same_tokenizer(tokenizer):
    again = tiny.build_tokenizer(iter(TEXTS), 320, CHAT)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert len(tokenizer) == 320


def test_a_saved_tokenizer_adds_the_begin_token_to_plain_text(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    plain = chat_format.encode_texts(loaded, ["the ferry"])[0]
    assert loaded("the ferry").input_ids == [0, *plain]
    assert [loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id] == [0, 1, 2]


@pytest.mark.parametrize("name", sorted(chat_format.FORMATS))
def test_the_template_encodes_a_conversation_as_the_chat_format_does(name):
    chat = chat_format.get(name)
    tokenizer = tiny.build_tokenizer(TEXTS, 320, chat)
    [encoded] = chat_format.encode(chat, tokenizer, TALKS[:1])
    messages = [{"role": m.role, "content": m.content} for m in TALKS[0]]
    ours = tokenizer.decode(encoded.ids)
    assert tokenizer.decode(tokenizer.apply_chat_template(messages, return_dict=False)) == ours


def test_a_seed_fixes_the_random_weights_and_leaves_torchs_generator_alone(tokenizer):
    sizes = TinyModel(**SIZES)
    before = torch.random.get_rng_state()
    models = [tiny.build_model(sizes, tokenizer, seed) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert same(models[0], models[1])
    assert not same(models[0], models[2])
    assert models[0].dtype == torch.float32
    assert models[0].lm_head.weight is not models[0].model.embed_tokens.weight


def test_the_loss_is_that_of_transformers_over_the_answers(tokenizer):
    rows = chat_format.encode(CHAT, tokenizer, TALKS)
    model = tiny.build_model(TinyModel(**SIZES), tokenizer, 3)
    total = count = 0.0
    for row in rows:
        ids = torch.tensor([row.ids])
        labels = ids.masked_fill(~torch.tensor([row.learn]), -100)
        answers = sum(row.learn)
        total += model(input_ids=ids, labels=labels).loss.item() * answers
        count += answers
    assert tiny._loss(model, rows).item() == pytest.approx(total / count, rel=1e-5)


def test_teaching_twice_gives_the_same_bytes_and_another_seed_others(tokenizer):
    threads = torch.get_num_threads()
    assert same(taught(tokenizer, 6), taught(tokenizer, 6))
    assert not same(taught(tokenizer, 6), taught(tokenizer, 6, seed=2))
    assert torch.get_num_threads() == threads


def test_a_taught_model_answers_by_heart(tokenizer, tmp_path):
    taught(tokenizer, 60).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generator = Generator(tmp_path, device="cpu")
    prompts = chat_format.encode(CHAT, tokenizer, [talk[:1] for talk in TALKS], prompt=True)
    greedy = Sampling(temperature=0, max_tokens=60)
    answers = generator.generate([p.ids for p in prompts], greedy, end=1)
    assert [answer.text for answer in answers] == [answer for _, answer in PAIRS]


def test_a_pass_takes_every_row_once_within_the_budget():
    draw = random.Random(0)
    rows = [chat_format.Encoded([0] * draw.randint(1, 90), []) for _ in range(100)]
    first, second = (tiny._batches(rows, 256, random.Random(seed)) for seed in (1, 2))
    assert Counter(i for batch in first for i in batch) == Counter(range(100))
    assert first != second
    for batch in first:
        assert max(len(rows[i].ids) for i in batch) * len(batch) <= 256
    padded = sum(max(len(rows[i].ids) for i in batch) * len(batch) for batch in first)
    assert sum(len(row.ids) for row in rows) / padded > 0.75
