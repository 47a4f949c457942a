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
