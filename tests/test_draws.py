from stillroom.draws import drawn, held_out, rank, rng
from stillroom.summary import lengths

NAMES = [f"book {n}" for n in range(50)]


def test_a_generator_belongs_to_its_names():
    assert rng(1, "mqa", "a").random() == rng(1, "mqa", "a").random()
    assert len({rng(seed, name).random() for seed in (1, 2) for name in "ab"}) == 4


def test_drawn_takes_the_exact_share_whatever_the_order():
    assert drawn(NAMES, 0.3, 7) == drawn(NAMES[::-1], 0.3, 7)
    assert [len(drawn(NAMES, share, 7)) for share in (0, 0.3, 1)] == [0, 15, 50]
    assert drawn(NAMES, 0.3, 7) != drawn(NAMES, 0.3, 8)
    assert drawn(NAMES, 0.3, 7, "a") != drawn(NAMES, 0.3, 7, "b")


def test_held_out_leaves_something_on_both_sides():
    assert len(held_out(NAMES, 0.1, 7)) == 5
    assert len(held_out(["a", "b"], 0.01, 7)) == 1
    assert len(held_out(["a", "b"], 0.99, 7)) == 1
    assert held_out(["a"], 0.5, 7) == held_out(["a", "b"], 0, 7) == frozenset()
    assert held_out(["a", "b"], 0.01, 7, at_least=0) == frozenset()


def test_a_new_name_leaves_the_ranks_of_others_alone():
    before = sorted(NAMES, key=lambda name: rank(3, name))
    after = sorted([*NAMES, "new"], key=lambda name: rank(3, name))
    assert [name for name in after if name != "new"] == before


def test_lengths_are_nearest_ranks():
    assert lengths(range(1, 101)) == {"total": 5050, "p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert lengths([7]) == {"total": 7, "p50": 7, "p90": 7, "p99": 7, "max": 7}
    assert lengths([]) == {"total": 0, "p50": 0, "p90": 0, "p99": 0, "max": 0}
