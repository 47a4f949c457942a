import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from stillroom.cli import app
from stillroom.stages import STAGES

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "datasets", "duckdb", "openai", "dvc", "snakemake", "pydantic", "pyarrow"}


def stillroom(*words, cwd=ROOT, **env):
    command = [sys.executable, "-m", "stillroom", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **env}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_help_names_every_stage_and_imports_nothing_heavy():
    code = "import sys, stillroom.cli as c\ntry: c.app(['--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f" {stage} " in done.stdout for stage in STAGES)
    assert not HEAVY & set(done.stdout.rpartition("\n")[2].split() or done.stdout.split())


def test_every_command_has_a_help_text():
    def walk(command):
        assert command.help, command.name
        for inner in getattr(command, "commands", {}).values():
            walk(inner)

    walk(typer.main.get_command(app))


def test_an_error_is_one_message_and_exit_code_1(tmp_path):
    done = stillroom("extract", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: no such file")
    assert "Traceback" not in done.stderr


def test_a_wrong_key_is_named_with_its_line(tmp_path):
    (tmp_path / "params.yaml").write_text("common:\n  chat_fromat: inst\n")
    done = stillroom("extract", cwd=tmp_path)
    assert done.returncode == 1
    assert "params.yaml:2: common.chat_fromat: unknown key" in done.stderr
    assert "did you mean `chat_format`?" in done.stderr


def test_a_terminal_without_unicode_shows_question_marks(tmp_path):
    raw = tmp_path / "data/raw/conversations"
    raw.mkdir(parents=True)
    dump = [{"id": "a", "conversations": [{"from": "human", "value": "Why?"}]}]
    (raw / "Ω.json").write_text(json.dumps(dump))
    (tmp_path / "params.yaml").write_text("extract: {steps: []}\n")
    done = stillroom("extract", "--explain", "a", cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "a  (?.json, record 1 at byte 1)")


def test_a_full_disk_is_one_message_and_leaves_no_partial_output(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        raw = disk / "data" / "raw" / "conversations"
        raw.mkdir(parents=True)
        turn = {"from": "human", "value": "Why is the sky blue in the morning and red at night? " * 20}
        dump = [
            {"id": f"c{i}", "conversations": [{**turn, "value": f"{i} {turn['value']}"}]} for i in range(40)
        ]
        (raw / "dump.json").write_text(json.dumps(dump))
        (disk / "params.yaml").write_text("common: {}\nextract: {}\n")
        done = stillroom("extract", cwd=disk)
        left = [p.name for p in disk.rglob("*") if p.is_file()]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 1
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(left) == ["dump.json", "params.yaml"]


def test_a_folder_in_the_place_of_an_output_is_one_message(tmp_path):
    (tmp_path / "data/raw/conversations").mkdir(parents=True)
    (tmp_path / "data/interim/conversations.jsonl").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("common: {}\nextract: {}\n")
    done = stillroom("extract", cwd=tmp_path)
    assert done.returncode == 1
    assert "conversations.jsonl: a folder stands where a file belongs\n  Move it away" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_one_line_and_exit_code_130(tmp_path):
    raw = tmp_path / "data" / "raw" / "conversations"
    raw.mkdir(parents=True)
    os.mkfifo(raw / "dump.json")  # a source that never ends: the stage waits for it
    (tmp_path / "params.yaml").write_text("common: {}\nextract: {}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "stillroom", "extract"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    with (raw / "dump.json").open("wb"):  # opens when the stage does
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
