import math
import random
import shutil
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillroom.errors import StillroomError
from stillroom.retrieval import Index, words


def index_of(texts, folder):
    return Index(texts, folder / "index")


def bm25(query, texts):
    """(place, score) of every text that shares a word, by the formula, word for word."""
    split = [Counter(text.lower().split()) for text in texts]
    mean = sum(own.total() for own in split) / len(split) or 1
    scores = []
    for place, own in enumerate(split):
        score = 0.0
        for word in dict.fromkeys(query.lower().split()):
            having = sum(word in other for other in split)
            idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
            count = own[word]
            score += 2.2 * idf * count / (count + 1.2 * (0.25 + 0.75 * own.total() / mean))
        if score:
            scores.append((place, round(score, 6)))
    return sorted(scores, key=lambda hit: (-hit[1], hit[0]))


VOCABULARY = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op"]
TEXTS = st.lists(st.lists(st.sampled_from(VOCABULARY), max_size=120).map(" ".join), min_size=1, max_size=30)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=TEXTS,
    query=st.lists(st.sampled_from([*VOCABULARY, "zz"]), max_size=5).map(" ".join),
    data=st.data(),
)
def test_the_ranking_is_that_of_brute_force(tmp_path_factory, texts, query, data):
    k = data.draw(st.integers(0, len(texts) + 1))
    index = index_of(texts, tmp_path_factory.mktemp("index"))
    assert index.hits(query, k) == bm25(query, texts)[:k]


def test_of_many_long_texts_the_best_are_found_without_scoring_all(tmp_path):
    draw = random.Random(7)
    names = [f"w{n}" for n in range(500)]
    weights = [1 / n for n in range(1, 501)]
    texts = [" ".join(draw.choices(names, weights, k=draw.randint(1, 300))) for _ in range(1000)]
    index = index_of(texts, tmp_path)
    scored = []
    index._score, score = lambda place, weights: scored.append(place) or score(place, weights), index._score
    for query in ("w3 w40 w400", "w0 w1", "w450", "w0 w0 w99 absent"):
        scored.clear()
        assert index.hits(query, 10) == bm25(query, texts)[:10]
        assert len(scored) < 200


def test_a_text_that_is_best_only_by_its_exact_length_is_found(tmp_path):
    # the index knows both lengths as 40, and names the first texts first
    texts = ["cat " + "dog " * 40] * 9 + ["cat " + "dog " * 39]
    assert [hit.place for hit in index_of(texts, tmp_path).hits("cat", 1)] == [9]


def test_ties_go_to_the_lower_place(tmp_path):
    index = index_of(["the cat sat", "a dog ran", "cat and dog", "the cat sat", "a fish"], tmp_path)
    assert [place for place, _ in index.hits("cat sat", 2)] == [0, 3]
    assert index.hits("nothing known", 3) == []
    assert index.hits("cat", 0) == []


def test_those_without_a_word_in_common_come_last():
    index = Index(["a fish", "the cat sat", "a dog ran", "one cat"])
    assert index.ranked("cat", 3) == [3, 1, 0]
    assert index.ranked("cat", 9) == [3, 1, 0, 2]
    assert index.ranked("cat", 0) == []


def test_nothing_can_be_asked_too(tmp_path):
    assert index_of([], tmp_path).hits("cat", 3) == []


def test_words_of_scripts_without_spaces_are_characters():
    assert words("Émile X 日本語 don_t") == ["émile", "日", "本", "語", "don_t"]
    assert all(len(word) <= 64 for word in words("x" * 200))


def test_what_cannot_be_written_is_no_traceback(tmp_path):
    class Texts(list):
        def __getitem__(self, place):
            shutil.rmtree(tmp_path / "index")
            return super().__getitem__(place)

    with pytest.raises(StillroomError, match=r"index: .*\n  Free some space"):
        index_of(Texts(["cat"]), tmp_path)
