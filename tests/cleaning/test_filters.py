import pytest

from stillroom.cleaning.filters import boilerplate, language, length
from stillroom.errors import ParamsError
from stillroom.records import Message
from stillroom.stages.extract import VENDOR_NOTICES


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


def test_length_counts_the_human_turns():
    check = length(3, 10)
    assert check([Message("user", "abcde"), Message("assistant", "x" * 99), Message("user", "fghij")]) is None
    assert check(human("ab ")) == "2 characters, under 3"
    assert check(human("abcdef", "ghijk")) == "11 characters, over 10"
