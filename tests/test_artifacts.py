import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom import artifacts
from stillroom.errors import InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_atomic_write_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    def half() -> None:
        with artifacts.atomic_write(path) as file:
            file.write(b"half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_full_disk_names_the_file(tmp_path):
    def fill() -> None:
        with Path("/dev/full").open("wb") as full, artifacts.atomic_write(tmp_path / "a") as file:
            os.dup2(full.fileno(), file.fileno())
            file.write(b"x")

    with pytest.raises(OSError, match="No space") as raised:
        fill()
    assert raised.value.filename == str(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_killed_writer_leaves_nothing_under_the_final_name(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from stillroom.artifacts import *\n"
        f"here = Path({str(tmp_path)!r})\n"
        "with atomic_directory(here / 'folder') as d, atomic_write(here / 'file') as f:\n"
        "    (d / 'a').write_text('x'); f.write(b'x' * 100_000); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "folder").exists()
    assert not (tmp_path / "file").exists()
    with artifacts.atomic_directory(tmp_path / "folder") as folder:
        assert not any(folder.iterdir())


def test_two_runs_do_not_write_one_file(tmp_path):
    path = tmp_path / "out.jsonl"
    (tmp_path / ".out.jsonl.partial").write_text("what a run left that was killed")
    with artifacts.atomic_write(path, alone=True) as first:
        first.write(b"first")
        second = artifacts.atomic_write(path, alone=True)
        with pytest.raises(InputError, match=r"out\.jsonl: another run is writing it"):
            second.__enter__()
    assert path.read_bytes() == b"first"


def test_a_crowd_of_writers_leaves_one_of_their_files_whole(tmp_path):
    code = (
        "import sys; from pathlib import Path; from stillroom.artifacts import *\n"
        "from stillroom.errors import InputError\n"
        "written = 0\n"
        "while written < 50:\n"
        "    try:\n"
        f"        with atomic_write(Path({str(tmp_path / 'out')!r}), alone=True) as file:\n"
        "            [file.write(sys.argv[1].encode() * 9000) for _ in range(10)]\n"
        "        written += 1\n"
        "    except InputError: pass\n"
    )
    crowd = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "abc"]
    while any(process.poll() is None for process in crowd):
        if (tmp_path / "out").exists():
            content = (tmp_path / "out").read_bytes()
            assert content in (b"a" * 90_000, b"b" * 90_000, b"c" * 90_000)
    assert [process.returncode for process in crowd] == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_atomic_directory_replaces_a_whole_folder(tmp_path):
    target = tmp_path / "out"
    for name in ("first", "second"):
        with artifacts.atomic_directory(target) as folder:
            (folder / name).write_text(name)
    assert [p.name for p in target.iterdir()] == ["second"]


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=4))
def test_jsonl_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    assert artifacts.write_jsonl(path, rows) == len(rows)
    assert [row for _, row in artifacts.read_jsonl(path)] == rows


@pytest.mark.parametrize(("line", "message"), [("{oops", "not valid JSON"), ("[1]", "object")])
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n' + line + "\n")
    with pytest.raises(InputError, match=message) as raised:
        list(artifacts.read_jsonl(path))
    assert raised.value.where == f"{path}:3"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.jsonl"):
        list(artifacts.read_jsonl(tmp_path / "nowhere.jsonl"))


def test_canonical_json_has_one_spelling():
    assert artifacts.canonical_json({"b": 1, "a": [1, "ü"]}) == artifacts.canonical_json(
        {"a": [1, "ü"], "b": 1}
    )
    assert artifacts.canonical_json(["a b"]) != artifacts.canonical_json(["a", "b"])


def test_sha256_of_text_bytes_and_file_agree(tmp_path):
    (tmp_path / "f").write_text("still")
    assert artifacts.sha256("still") == artifacts.sha256(b"still") == artifacts.sha256(tmp_path / "f")
