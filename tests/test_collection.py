import random

from stillroom.collection import Wholes, collection
from stillroom.sources.question import Origin, Passage

PASSAGES = [Passage(f"T{n % 7}", f"text {n} — ünïcode") for n in range(50)] + [Passage("", "untitled")]


def filled(folder, passages):
    """A collection's places by number, and what stands at each."""
    with collection(folder) as kept:
        for number, passage in enumerate(passages, 1):
            kept.add(passage, Origin(f"f{number % 3}", number))
        places = kept.settle().tolist()
        wholes = Wholes(kept)
        found = [kept[place] for place in range(len(kept))]
        assert [wholes[place] for place in range(len(wholes))] == [passage.whole for passage in found]
        return places, found, [kept.where(place) for place in range(len(kept))]


def test_equal_passages_have_one_place_that_only_content_decides(tmp_path):
    draw, settled = random.Random(2), []
    for _ in range(3):
        given = draw.sample(PASSAGES * 3, 3 * len(PASSAGES))
        places, found, where = filled(tmp_path / "kept", given)
        assert [found[place] for place in places] == given
        assert sorted(found) == sorted(PASSAGES)
        first = {given.index(passage) + 1: passage for passage in PASSAGES}
        assert where == [f"f{n % 3}:{n}" for passage in found for n in first if first[n] == passage]
        settled.append(found)
    assert settled[0] == settled[1] == settled[2]


def test_an_empty_collection(tmp_path):
    assert filled(tmp_path / "kept", []) == ([], [], [])


def test_the_folder_goes_with_it_and_what_a_killed_run_left(tmp_path):
    (tmp_path / "kept/index").mkdir(parents=True)
    with collection(tmp_path / "kept") as kept:
        assert [path.name for path in kept.folder.iterdir()] == ["passages.txt"]
    assert not list(tmp_path.iterdir())
