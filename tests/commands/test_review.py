"""A review in a real terminal: a pseudo-terminal, keys as a person presses them."""

import csv
import os
import pty
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "raft"))

from rooms import chunk, pair

from stillroom.artifacts import write_jsonl
from stillroom.cli import app
from stillroom.errors import InputError, StillroomError
from stillroom.raft import pairs, review
from stillroom.raft.session import parsed, written
from stillroom.teacher.prompts import cot_answer

PAIRS = [pair(f"r{n}", "eval" if n else "train") for n in range(5)]
PATHS = (Path("data/interim/raft-pairs.jsonl"), Path("data/review/raft.jsonl"))


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    """Four held-out pairs and one for training."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(PATHS[0], map(pairs.row, PAIRS))
    return tmp_path


class Terminal:
    """`stillroom raft review` in a terminal of 80 × 24."""

    def __init__(self, *options, **environment):
        command = [sys.executable, "-m", "stillroom", "raft", "review", *options]
        self.fd, inner = pty.openpty()
        usual = {k: v for k, v in os.environ.items() if k not in ("EDITOR", "VISUAL", "NO_COLOR", "COLUMNS")}
        env = {**usual, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        self.process = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, env=env, start_new_session=True
        )
        os.close(inner)
        self.screen = ""

    def sees(self, text):
        """Wait until the terminal shows a text, after what it was waited for before."""
        deadline = time.monotonic() + 60
        while text not in self.screen:
            assert time.monotonic() < deadline, self.screen
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    self.screen += os.read(self.fd, 65536).decode()
                except OSError as error:  # the program has ended
                    raise AssertionError(self.screen) from error
        seen, _, self.screen = self.screen.partition(text)
        return seen

    def types(self, keys):
        os.write(self.fd, keys.encode())

    def ends(self):
        """Wait for the end, while somebody reads what is said last; the exit code."""
        while self.process.poll() is None:
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.screen += os.read(self.fd, 65536).decode()
                except OSError:
                    break
        code = self.process.wait(60)
        os.close(self.fd)
        return code


def decisions():
    made = review.read(PATHS[1])
    return {p.id: made.status(p) for p in PAIRS if made.status(p) != "undecided"}, made


def test_a_person_keeps_drops_edits_and_comes_back_later(tmp_path):
    editor = tmp_path / "editor.py"
    editor.write_text(
        "import sys, pathlib\np = pathlib.Path(sys.argv[1])\n"
        "p.write_text(p.read_text().replace('What is the code of', 'Which code has'))"
    )
    terminal = Terminal(EDITOR=f"{sys.executable} {editor}")
    terminal.sees("1/4 · eval · undecided")
    seen = terminal.sees("q quit")
    assert f"\x1b[7m{chunk('r1').text.partition('. ')[0]}." in seen  # the quotation stands out in its passage
    assert "What is the code of room r1?" in seen
    terminal.types("k")
    terminal.sees("2/4 · eval · undecided")
    terminal.types("d")
    terminal.sees("3/4")
    assert decisions()[0] == {PAIRS[1].id: "kept", PAIRS[2].id: "dropped"}  # on disk after every key
    terminal.types("b")
    terminal.sees("2/4 · eval · dropped")
    terminal.types("x")
    terminal.sees("keys: k keep")
    terminal.types("e")
    terminal.sees("3/4")
    terminal.types("q")
    assert terminal.ends() == 0
    assert "2 of 4 decided (1 kept, 1 edited) in data/review/raft.jsonl" in terminal.screen
    assert review.read(PATHS[1])[PAIRS[2].identity].new_question == "Which code has room r2?"

    terminal = Terminal()
    terminal.sees("3/4 · eval · undecided")  # where it stopped
    terminal.types("\x1b[C")  # right: skip
    terminal.sees("4/4")
    terminal.types("d")
    assert terminal.ends() == 0
    assert "3 of 4 decided (1 kept, 1 edited, 1 dropped)" in terminal.screen
    assert decisions()[0] == {PAIRS[1].id: "kept", PAIRS[2].id: "edited", PAIRS[4].id: "dropped"}


def test_without_an_editor_lines_are_changed_in_place_and_a_note_is_kept():
    terminal = Terminal("--all")
    terminal.sees("1/5 · train · undecided")
    terminal.sees("q quit")
    terminal.types("n")
    terminal.sees("Note: ")
    terminal.types("twice\r")
    terminal.sees("q quit")
    terminal.types("e")
    terminal.sees("Question: What is the code of room r0?")
    terminal.types("!\r")
    terminal.sees("Answer: ")
    terminal.types(" exactly\r")
    terminal.sees("2/5")
    terminal.types("\x04")
    assert terminal.ends() == 0
    (decision,) = decisions()[1].values()
    assert decision.new_question == "What is the code of room r0?!"
    assert decision.new_answer == f"{PAIRS[0].cot_answer} exactly"
    assert decision.note == "twice"


def test_an_edit_that_does_not_quote_the_passage_is_not_taken(tmp_path):
    editor = tmp_path / "editor.py"
    editor.write_text(
        "import sys, pathlib\np = pathlib.Path(sys.argv[1])\n"
        "p.write_text(p.read_text().replace('##Room', '##Hall', 1).replace('What', 'Which'))"
    )
    terminal = Terminal(EDITOR=f"{sys.executable} {editor}")
    terminal.sees("q quit")
    terminal.types("e")
    terminal.sees("not taken: quote not in chunk")
    terminal.types("u")
    terminal.sees("q quit")
    terminal.types("q")
    assert terminal.ends() == 0
    assert not PATHS[1].exists()


def test_ctrl_c_leaves_the_terminal_as_it_was():
    terminal = Terminal()
    terminal.sees("q quit")
    terminal.types("k")
    terminal.sees("2/4")
    terminal.process.send_signal(2)
    assert terminal.ends() == 130
    assert decisions()[0] == {PAIRS[1].id: "kept"}


def run(*words):
    return CliRunner().invoke(app, ["raft", "review", *words], catch_exceptions=False)


def test_the_list_names_every_pair_and_decisions_that_lost_theirs():
    gone = review.decided(replace(PAIRS[1], question="Gone?"), "drop")
    kept = review.decided(PAIRS[1], "keep")
    review.write(PATHS[1], review.Decisions({d.pair: d for d in (gone, kept)}))
    rows = [line.split("\t") for line in run("--list").stdout.splitlines()]
    assert [row[0] for row in rows] == ["kept", "undecided", "undecided", "undecided", "stale"]
    assert rows[0][1:] == [PAIRS[1].identity, "eval", "house.md", PAIRS[1].question, PAIRS[1].answer]
    assert rows[-1][1:5] == [gone.pair, "drop", "house.md", "Gone?"]
    assert len(run("--list", "--all").stdout.splitlines()) == 6


def test_without_a_terminal_or_pairs_it_says_what_to_do():
    with pytest.raises(StillroomError, match=r"needs a terminal\n.*--export FILE"):
        run()
    PATHS[0].unlink()
    with pytest.raises(InputError, match=r"raft-pairs\.jsonl: no such file"):
        run("--list")


def filled(path, **changes):
    """Change rows of a CSV file by the pair's place."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for place, change in changes.items():
        rows[int(place[1:])] |= change
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(rows)
    return rows


def test_a_spreadsheet_goes_out_and_comes_back(checkout):
    review.write(
        PATHS[1], review.Decisions({PAIRS[3].identity: review.decided(PAIRS[3], "keep", note="a\nb")})
    )
    path = checkout / "pairs.csv"
    assert run("--export", str(path)).stdout == f"4 pairs in {path}\n"
    before = PATHS[1].read_bytes()
    run("--import", str(path))
    assert PATHS[1].read_bytes() == before
    edited = cot_answer("It is cold.", "cold")
    rows = filled(
        path, r0={"decision": " Drop"}, r1={"decision": "keep", "new_question": "Cold?", "new_answer": edited}
    )
    assert rows[0]["passage"] == chunk("r1").text
    assert run("--import", str(path)).stdout.startswith("3 decisions taken")
    statuses, made = decisions()
    assert statuses == {PAIRS[1].id: "dropped", PAIRS[2].id: "edited", PAIRS[3].id: "kept"}
    assert made.applied(PAIRS[2]).cot_answer == edited


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decision": "maybe"}, r"pairs\.csv:5: `decision` must be keep, drop or empty, not 'maybe'"),
        ({"decision": "keep", "new_answer": "No."}, r"pairs\.csv:5: new_answer: no answer tag"),
        ({"decision": "keep", "pair": "0"}, r"pairs\.csv:5: no pair '0'\n.*export again"),
    ],
)
def test_a_row_that_cannot_be_taken_is_named_and_none_is_taken(checkout, change, message):
    path = checkout / "pairs.csv"
    run("--export", str(path))
    filled(path, r0={"decision": "keep"}, r1=change)
    with pytest.raises(InputError, match=message):
        run("--import", str(path))
    assert not PATHS[1].exists()
    path.write_text("a,b\n")
    with pytest.raises(InputError, match="no column"):
        run("--import", str(path))


def test_a_pair_is_written_for_an_editor_and_read_back():
    asked = replace(PAIRS[0], cot_answer="##begin_quote##It\n\n# is cold.##end_quote##\nAnswer:\n<ANSWER>: x")
    assert parsed(written(asked)) == (asked.question, asked.cot_answer)
    with pytest.raises(ValueError, match="must stay"):
        parsed(written(asked).replace("Question:", ""))
    with pytest.raises(ValueError, match="must stay"):
        parsed("")


def test_the_stage_itself_is_still_the_command(checkout):
    done = subprocess.run(
        [sys.executable, "-m", "stillroom", "raft"], capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("error: params.yaml: no such file")
