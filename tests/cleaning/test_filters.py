import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.cleaning import filters
from stillroom.cleaning.filters import boilerplate, language, length, required, surely_english
from stillroom.errors import ParamsError
from stillroom.records import Message
from stillroom.stages.extract import VENDOR_NOTICES

REAL = Path(__file__).parents[2] / "../shared/data"


@pytest.fixture(scope="module")
def english():
    return language(["english"])


def human(*texts):
    return [Message("user", text) for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "Why is the sky blue?",
        "Hi",
        "Continue",
        "2 + 2 = ?",
        "Give me a recipe for ratatouille",
        "print(x)",
        "translate 'guten Morgen, wie geht es dir' to English please",
        "what does the code do?\n```\nfür_jede_zahl = [zahl für zahl in meine_liste]\n```",
        "",
    ],
)
def test_english_stays(english, text):
    assert english(human(text)) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Wie lange muss ich Spaghetti kochen?", "german"),
        ("¿Cuántos planetas hay en el sistema solar?", "spanish"),
        ("为什么天空是蓝色的?", "chinese"),
        ("Сколько дней в високосном году?", "russian"),
        ("हिन्दी में बताओ", "hindi"),
        ("ገጽ ትርጉም እንዴት ነው", "unknown script"),
    ],
)
def test_other_languages_go_and_are_named(english, text, name):
    assert name in english(human(text))


def test_languages_are_a_setting():
    assert language(["english", "german"])(human("Wie lange muss ich Spaghetti kochen?")) is None
    assert language([])(human("Сколько дней в високосном году?")) is None
    with pytest.raises(ParamsError, match=r"extract\.languages: unknown language 'klingon'"):
        language(["klingon"])


def test_only_answers_are_searched_for_notices():
    check = boilerplate(VENDOR_NOTICES)
    said = "As an AI language model, I cannot"
    assert check([Message("user", said), Message("assistant", "Sure.")]) is None
    assert "As an AI language model" in check([Message("user", "Hi"), Message("assistant", said)])
    assert check([Message("user", "Hi"), Message("assistant", "Your network error is in line 3")]) is None
    assert check([Message("user", "Hi"), Message("assistant", "network error\n")]) is not None
    with pytest.raises(ParamsError, match="not a regular expression"):
        boilerplate(["("])


PATTERNS = [
    *VENDOR_NOTICES,
    *(r"GPT-4|[A-Q]+x?\b", r"\bOpen\s*AI\S", r"(?<!the )KEY\w{2}$", r"[^A]B", r"[A-z]-", r"(A)\1"),
]
SAID = "as an AI language model Too MANY requests in 1 hour OpenAI GPT-4 key"
ODD = "aAbBkKKsſiIİızZ_- \n.4"
"""letters that ignoring case makes one, and lower case does not"""
said = st.lists(st.sampled_from(SAID.split()) | st.text(st.sampled_from(ODD), max_size=6)).map(" ".join)


@given(said)
def test_case_is_ignored_as_the_expressions_alone_would(text):
    for pattern in PATTERNS:
        want = re.search(pattern, text, re.IGNORECASE)
        found = boilerplate([pattern])([Message("assistant", text)])
        assert found == (f"an answer says {want[0].strip()!r}" if want else None)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"as an AI (language )?model", ["as an ai "]),
        (r"(made|trained) by OpenAI", [" by openai"]),
        (r"help\.openai\.com|openai'?s? (content|usage) polic", ["openai"]),
        (r"help\.openai\.com|policies?", ["openai", "policie"]),
        (r"colou?r(ed)*s+ [a-z]{2}\bword", ["colo"]),
        (r"too many{2,3}x", ["too man"]),
        (r"abcd(e|f)|gh", []),
        (r"(abcd|efgh)", []),
        (r"(?x) a b c d e", []),
        (r"[a|b]wxyz|[]|]stuv", ["wxyz", "stuv"]),
        (r"^\s*$", []),
    ],
)
def test_words_without_which_nothing_matches(pattern, words):
    assert required(pattern) == words


FOREIGN = [
    "Wir wohnen seit drei Jahren in einem kleinen Dorf an der Elbe, und jeden Morgen fährt die Fähre.",
    "Nous habitons depuis trois ans dans un petit village au bord de la mer, et le bac part tôt.",
    "Vivimos desde hace tres años en un pueblo pequeño junto al mar, y cada mañana sale el barco.",
    "Abitiamo da tre anni in un piccolo paese sul mare, e ogni mattina parte il traghetto.",
    "We wonen al drie jaar in een klein dorp aan zee, en elke ochtend vertrekt de veerboot.",
    "Ik word nu even boos, want dit is over een week of drie nog niet klaar.",
    "Moramos há três anos numa pequena aldeia junto ao mar, e todas as manhãs parte o barco.",
]
ENGLISH = "We have lived in a small village by the sea for three years, and the ferry leaves every morning."


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("share", range(7))
def test_frequent_words_never_contradict_the_detector(english, monkeypatch, foreign, share):
    text = " ".join([*ENGLISH.split()[: 3 * share], *foreign.split()])
    quick = english(human(text))
    monkeypatch.setattr(filters, "surely_english", lambda text: False)
    assert english(human(text)) == quick
    assert not surely_english(foreign)


@pytest.mark.real_data
def test_frequent_words_never_contradict_the_detector_on_real_questions(english, monkeypatch):
    if not REAL.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    trees = (REAL / "oasst/en_100_tree.jsonl").read_text().splitlines()
    texts = [json.loads(tree)["prompt"]["text"] for tree in trees]
    texts += [r["instruction"] for r in json.loads((REAL / "instruct/roleplay.json").read_text())[:500]]
    quick = [english(human(text)) for text in texts]
    assert sum(map(surely_english, texts)) > len(texts) / 2
    monkeypatch.setattr(filters, "surely_english", lambda text: False)
    assert [english(human(text)) for text in texts] == quick


def test_length_counts_the_human_turns():
    check = length(3, 10)
    assert check([Message("user", "abcde"), Message("assistant", "x" * 99), Message("user", "fghij")]) is None
    assert check(human("ab ")) == "2 characters, under 3"
    assert check(human("abcdef", "ghijk")) == "11 characters, over 10"


def test_length_counts_tokens_where_they_are_limited():
    check = length(0, 100, 2, 4, count=lambda text: len(text.split()))
    assert check(human("a b", "c d")) is None
    assert check([Message("user", "a b"), Message("assistant", "x " * 50)]) is None
    assert check(human("a")) == "1 tokens, under 2"
    assert check(human("a b c", "d e")) == "5 tokens, over 4"
    assert check(human("a" * 101)) == "101 characters, over 100"

    def uncounted(text):
        raise AssertionError("nothing limits tokens")

    assert length(0, 100, None, None, count=uncounted)(human("a")) is None
