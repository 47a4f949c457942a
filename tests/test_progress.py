import re

import pytest

from stillroom.progress import Tracker, clock, per_second, short, track, tracked


def test_elsewhere_than_in_a_terminal_there_are_plain_lines_and_a_last_one(capsys):
    with track("train", 600, "steps") as tracker:
        tracker.advance(120, "loss 2.31")
    with track("train", 600, "steps") as tracker:
        tracker.advance(600)
    assert [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "train: 120/600 steps",
        "train: 600/600 steps",
    ]


def test_a_line_comes_when_it_is_due_and_makes_its_note_only_then(capsys):
    made = []

    def note():
        made.append(1)
        return "80 % cached"

    tracker = Tracker("distill", 1000, "conversations", every=3600)
    for _ in range(100):
        tracker.advance(1, note)
    assert capsys.readouterr().err == ""
    assert not made
    tracker._due = 0
    tracker.advance(1, note)
    line = capsys.readouterr().err
    assert re.fullmatch(r"distill: 101/1,000 conversations, [\d.]+[KMG]?/s, \S+ left, 80 % cached\n", line)
    assert len(made) == 1


@pytest.mark.parametrize("total", [90_000, None])
def test_the_bar_fits_80_columns_and_reads_the_note_as_it_is_drawn(capsys, monkeypatch, total):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with track("distill", total, "conversations") as tracker:
        tracker.advance(57_600, lambda: f"{tracker.done:,} · " + "much to tell " * 9)
    drawn = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err).replace("\r", "\n")
    lines = [line for line in drawn.split("\n") if line.strip()]
    assert max(map(len, lines)) <= 80
    assert "57,600 · much to tell" in lines[-1]
    assert ("64% 57,600/90,000 conversations" if total else " 57,600 conversations") in lines[-2]


def test_what_is_taken_from_tracked_is_counted(capsys):
    assert list(tracked("abc", "letters", 3, "letters")) == ["a", "b", "c"]
    assert re.fullmatch(r"letters: 3/3 letters, [\d.]+[KMG]?/s, done\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (950, "950"),
        (9_999, "9,999"),
        (12_345, "12.3K"),
        (999_999, "1000K"),
        (4_560_000, "4.56M"),
        (3e10, "30.0G"),
    ],
)
def test_short_numbers(number, text):
    assert short(number) == text


def test_rates_and_times():
    assert [per_second(rate) for rate in (0.04, 8.11, 212.4, 34e6)] == [
        "2.4/min",
        "8.1/s",
        "212/s",
        "34.0M/s",
    ]
    assert [clock(s) for s in (0.4, 59, 153, 3753, 190_000)] == [
        "0:00",
        "0:59",
        "2:33",
        "1:02:33",
        "2 days, 4:46:40",
    ]
