import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st

from stillroom.reporting.cards import SIZES, dataset_card, size_category

LENGTHS = {"total": 4000, "p50": 3, "p90": 5, "p99": 9, "max": 12}
METRICS = {
    "conversations": 19_000,
    "turns": 57_000,
    "answers": {"complete": {"kept": 57_000}, "truncated": {"dropped": 1_200, "retried": 3}},
    "conversations_cut": {"truncated": 1_100},
    "conversations_lost": {"truncated": 100, "too_long": 7},
    "bought_answers": 58_203,
    "bought_prompt_tokens": 9_000_000,
    "bought_completion_tokens": 4_000_000,
    "turns_of_conversation": LENGTHS,
    "tokens_of_answer": LENGTHS,
    "tokens_of_conversation": LENGTHS,
}
SOURCE = {"conversations": 19_000, "turns": 57_000, "prompt_tokens": 9, "completion_tokens": 4}


def card(**changes):
    given = {
        "title": "Talks: distilled",
        "languages": ["en", "de"],
        "license": "cc-by-4.0",
        "data_file": "instructions.jsonl",
        "metrics": METRICS,
        "sources": {"sharegpt": SOURCE},
        "teacher": {"model": "llama-2-70b-chat", "id": None, "api": "completions"},
        "settings": {"chat_format": "inst", "system": "Be brief.\n```\n{x}", "samples": 2},
    }
    return dataset_card(**{**given, **changes})


def test_the_hub_reads_the_header():
    data = DatasetCard(card()).data
    assert (data.language, data.license, data.size_categories) == (["en", "de"], "cc-by-4.0", "10K<n<100K")
    assert data.configs == [{"config_name": "default", "data_files": "instructions.jsonl"}]
    assert data.pretty_name == "Talks: distilled"
    assert "language" not in DatasetCard(card(languages=[])).data.to_dict()


def test_the_settings_come_back_from_their_block():
    block = card().split("````yaml\n")[1].split("\n````\n")[0]
    assert yaml.safe_load(block) == {
        "teacher": {"model": "llama-2-70b-chat", "id": None, "api": "completions"},
        "chat_format": "inst",
        "system": "Be brief.\n```\n{x}",
        "samples": 2,
    }


def test_counts_and_drop_reasons_are_told():
    text = card()
    for line in (
        "| sharegpt | 19,000 | 57,000 | 9 | 4 |",
        "| truncated | 0 | 3 | 1,200 | cut at max_tokens |",
        "| truncated | 1,100 | 100 |",
        "| too_long | 0 | 7 |",
        "| tokens of an answer | 4,000 | 3 | 5 | 9 | 12 |",
    ):
        assert line in text.splitlines()
    assert "All answers, each once: 58,203 (9,000,000 + 4,000,000 tokens)." in text
    assert "answered by `llama-2-70b-chat` through its completions API" in text


def test_without_a_teacher_none_is_named():
    text = card(teacher=None, metrics={**METRICS, "conversations_cut": {}, "conversations_lost": {}})
    assert "with the answers that they came with" in text
    assert "llama" not in text
    assert "None did so early." in text


def test_a_name_cannot_break_a_table():
    text = card(sources={"a|b\nc": SOURCE})
    assert r"| a\|b c | 19,000 |" in text


@pytest.mark.parametrize(
    ("count", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (90_000, "10K<n<100K"), (10**9, "100M<n<1B")],
)
def test_size_categories(count, category):
    assert size_category(count) == category


@given(st.integers(min_value=1, max_value=10**8))
def test_every_number_is_in_its_category(count):
    units = {"K": 10**3, "M": 10**6, "B": 10**9}
    low, high = _bounds(size_category(count), units)
    assert low <= count < high


def _bounds(name, units):
    ends = [int(part[:-1]) * units[part[-1]] for part in name.split("<") if part != "n"]
    return (0, *ends) if len(ends) == 1 else ends


def test_there_is_one_name_per_power_of_ten():
    assert len({size_category(10**n) for n in range(2, 9)}) == len(SIZES)
