import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.artifacts import canonical_json
from stillroom.cleaning.duplicates import digest, same_id, same_turns
from stillroom.cleaning.likeness import WORD, Likeness, jaccard, words_of
from stillroom.cleaning.near_duplicates import near
from stillroom.cleaning.scratch import Cleaned, scratch
from stillroom.records import Conversation, Message

WORDS = [f"word{i}" for i in range(400)]


@pytest.fixture
def kept(tmp_path):
    with scratch(tmp_path / "scratch") as made:
        yield made


def human(*texts, system=None):
    opening = [Message("system", system)] if system else []
    return [*opening, *(Message("user", text) for text in texts)]


def cleaned(identifier, messages, likeness=None):
    line = canonical_json(Conversation(identifier, "s", tuple(messages)))
    bands = likeness.bands(messages) if likeness else ()
    return Cleaned(identifier, line, len(messages), 1, digest(messages), bands)


def verdicts(check, kept, conversations):
    return [check(c, kept.write(c.line)) for c in conversations]


def test_the_first_with_an_id_stays(kept):
    rows = [cleaned(name, human("x")) for name in ("1", "2", "1", "1\0")]
    assert [bool(v) for v in verdicts(same_id(kept), kept, rows)] == [False, False, True, False]


def test_the_first_with_the_same_human_turns_and_system_message_stays(kept):
    rows = [
        cleaned("1", human("a b")),
        cleaned("2", human("a", "b")),
        cleaned("3", [*human("a b"), Message("assistant", "other")]),
        cleaned("4", human("a b", system="s")),
    ]
    assert verdicts(same_turns(kept), kept, rows) == [None, None, "the human turns of 1", None]


def sentence(rng, length=60):
    return " ".join(rng.choices(WORDS, k=length))


def test_a_text_with_one_word_changed_is_a_near_duplicate_and_another_text_is_not(kept):
    likeness = Likeness(0.8, 3, 128)
    text = sentence(random.Random(0))
    changed = text.replace(text.split()[20], "other", 1).upper().replace(" ", ", ")
    texts = {"first": text, "changed": changed, "another": sentence(random.Random(1))}
    rows = [cleaned(name, human(t), likeness) for name, t in texts.items()]
    first, second, third = verdicts(near(kept, likeness), kept, rows)
    assert (first, third) == (None, None)
    assert second == "shares 0.90 of the runs of 3 words with first"


def test_short_texts_are_near_duplicates_only_word_for_word(kept):
    likeness = Likeness(0.8, 5, 128)
    texts = [
        "What is 2 + 3?",
        "What is 2 + 4?",
        "what is 2+3",
        "天空为什么是蓝色的",
        "天空为什么是红色的",
        "?",
        "!",
    ]
    found = verdicts(near(kept, likeness), kept, [cleaned(t, human(t), likeness) for t in texts])
    assert [bool(v) for v in found] == [False, False, True, False, False, False, True]


def test_one_question_under_two_system_messages_is_two(kept):
    likeness = Likeness(0.5, 3, 64)
    rows = [cleaned(s, human("one two three four", system=s), likeness) for s in ("a", "b")]
    assert verdicts(near(kept, likeness), kept, rows) == [None, None]


def corpus(rng, size):
    """Texts of which many are others with some words replaced."""
    texts = [sentence(rng) for _ in range(size // 4)]
    while len(texts) < size:
        words = rng.choice(texts).split()
        for _ in range(rng.randint(0, 8)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        texts.append(" ".join(words))
    rng.shuffle(texts)
    return texts


def greedy(texts, likeness):
    """Every text compared with every one kept before: the definition."""
    kept = []
    for name, text in enumerate(texts):
        mine = likeness.shingles(human(text))
        if all(jaccard(mine, other) < likeness.threshold for _, other in kept):
            kept.append((name, mine))
    return {name for name, _ in kept}


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_what_stays_is_nearly_what_comparing_all_pairs_leaves(kept, threshold):
    likeness = Likeness(threshold, 3, 128)
    texts = corpus(random.Random(3), 600)
    rows = [cleaned(str(i), human(t), likeness) for i, t in enumerate(texts)]
    stays = {i for i, v in enumerate(verdicts(near(kept, likeness), kept, rows)) if v is None}
    want = greedy(texts, likeness)
    assert 150 < len(want) < 500
    assert len(stays ^ want) <= 0.02 * len(texts)


@settings(max_examples=40)
@given(st.lists(st.text("ab ", max_size=12), max_size=30))
def test_what_goes_is_like_one_that_stays(tmp_path_factory, texts):
    likeness = Likeness(0.6, 2, 32)
    rows = [cleaned(str(i), human(t), likeness) for i, t in enumerate(texts)]
    with scratch(tmp_path_factory.mktemp("near") / "scratch") as kept:
        found = verdicts(near(kept, likeness), kept, rows)
    for i, verdict in enumerate(found):
        if verdict:
            first = int(verdict.rpartition(" ")[2])
            assert found[first] is None
            assert jaccard(*(likeness.shingles(human(texts[n])) for n in (first, i))) >= 0.6


@given(st.text(st.characters(max_codepoint=127)) | st.text())
def test_words_are_the_same_by_the_short_way(text):
    assert words_of(text) == WORD.findall(text)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_a_pair_at_the_threshold_is_found_with_the_recall_that_is_promised(threshold):
    bands, rows = Likeness(threshold, 5, 128).banding
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.98


def test_a_scratch_leaves_nothing_and_clears_what_a_killed_run_left(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    (folder / "index.sqlite").write_bytes(b"cut off")
    with scratch(folder) as kept:
        assert kept.totals() == (0, 0, 0)
    assert list(tmp_path.iterdir()) == []
