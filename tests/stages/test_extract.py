import gzip
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import astuple, replace
from pathlib import Path

import psutil
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from stillroom import params as settings
from stillroom.commands.explain import explain
from stillroom.errors import InputError, ParamsError
from stillroom.records import read_conversations
from stillroom.stages import extract
from stillroom.stages.extract import Params, Paths, run

PATIENCE = 300
"""seconds after which something hangs"""
ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "data/fixtures/sharegpt.json"


@pytest.fixture
def paths(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    outs = (tmp_path / name for name in ("kept.jsonl", "dropped.jsonl", "metrics.json"))
    return Paths(raw, tmp_path / "tokenizer", *outs)


def write(paths, rows, name="a.json"):
    (paths.raw / name).write_text(json.dumps(rows))


def row(identifier, *values, first="human"):
    speakers = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return {
        "id": identifier,
        "conversations": [{"from": speakers[i % 2], "value": v} for i, v in enumerate(values)],
    }


def extracted(paths, **settings):
    run(paths, Params(**settings))
    kept = {c.id: [m.content for m in c.messages] for c in read_conversations(paths.conversations)}
    dropped = [json.loads(line) for line in paths.dropped.read_text().splitlines()]
    return kept, dropped, json.loads(paths.metrics.read_text())


def test_human_turns_are_kept_also_the_last_one_without_an_answer(paths):
    write(paths, [row("a", "Why is the sky blue?", "Because.", "And at night?")])
    kept, _, metrics = extracted(paths)
    assert kept == {"a": ["Why is the sky blue?", "And at night?"]}
    assert (metrics["human_turns"], metrics["characters"]) == (2, 33)


def test_answers_are_kept_where_wanted_and_the_last_question_is_not(paths):
    write(paths, [row("a", "Why is the sky blue?", "<p>It <b>scatters</b>.</p>", "And at night?")])
    kept, _, _ = extracted(paths, keep="all")
    assert kept == {"a": ["Why is the sky blue?", "It **scatters**."]}


def test_steps_can_be_left_out(paths):
    write(paths, [row("a", "2 / 3Why is the sky blue?", "x"), row("b", "Warum ist der Himmel blau?", "x")])
    assert extracted(paths)[0] == {"a": ["Why is the sky blue?"]}
    kept, dropped, metrics = extracted(paths, steps=["empty_turns"])
    assert kept == {"a": ["2 / 3Why is the sky blue?"], "b": ["Warum ist der Himmel blau?"]}
    assert dropped == []
    assert metrics["changed"] == {}


def test_steps_run_in_their_order(paths):
    write(paths, [row("a", "abc\n1 / 2", "x")])
    first = extracted(paths, steps=["page_residue", "length"], max_characters=5)
    second = extracted(paths, steps=["length", "page_residue"], max_characters=5)
    assert first[0] == {"a": ["abc"]}
    assert second[1] == [{"id": "a", "reason": "length", "detail": "9 characters, over 5"}]


def test_everything_that_comes_in_is_kept_or_dropped_with_a_reason(paths):
    (paths.raw / "sharegpt.json").write_bytes(FIXTURE.read_bytes())
    kept, dropped, metrics = extracted(paths, min_characters=3, max_characters=1500)
    assert metrics["records"] == len(json.loads(FIXTURE.read_text())) == len(kept) + len(dropped)
    assert sum(metrics["dropped"].values()) == len(dropped)
    assert all(d["reason"] and d["detail"] for d in dropped)
    clean = [r["id"] for r in json.loads(FIXTURE.read_text()) if r.get("id", "").startswith("fx-")]
    assert set(clean) <= set(kept), "no clean conversation is lost"
    reasons = {d["id"]: d["reason"] for d in dropped}
    for start, reason in {
        "dirty-vendor": "boilerplate",
        "dirty-noturns": "no_human_turn",
        "dirty-nokey-1": "malformed",
        "dirty-nokey-2": "no_human_turn",
        "dirty-sameid": "duplicate_ids",
        "dirty-dup": "duplicate_turns",
        "dirty-long": "length",
        "dirty-short": "length",
        "dirty-twohuman": "alternation",
        "dirty-lang": "language",
        "dirty-emptyturn-1": "empty_turns",
        "dirty-from-5": "tool_turns",
    }.items():
        assert {r for i, r in reasons.items() if i.startswith(start)} == {reason}
    assert kept["dirty-page-1"] == ["Explain what a noun is to a child"]
    assert kept["dirty-page-4"] == ["How long is a marathon?"]
    assert kept["dirty-fraction-1"][0].startswith("1 / 12 cup of sugar")
    assert kept["dirty-copycode-3"] == ["Fix this please:\n```sql\nSELECT * FORM users;\n```"]
    assert kept["dirty-html-5"] == ["Why do leaves change their colour in **autumn**?"]


def test_the_same_input_gives_the_same_bytes_whatever_its_order(paths):
    rows = [row(f"r{i}", f"What is {i} plus {i}?", "x") for i in range(50)]
    outs = []
    for order in (rows, rows[::-1]):
        write(paths, order)
        extracted(paths, sample=20, steps=["alternation"])
        kept = [json.loads(line) | {"meta": None} for line in paths.conversations.read_text().splitlines()]
        outs.append((kept, paths.dropped.read_bytes(), paths.metrics.read_bytes()))
    assert outs[0] == outs[1]


def test_a_sample_has_its_size_is_seeded_and_names_the_others(paths):
    write(paths, [row(f"r{i}", f"Question number {i}?", "x") for i in range(60)])
    kept, dropped, metrics = extracted(paths, sample=25)
    assert (len(kept), metrics["dropped"]) == (25, {"sample": 35})
    assert {d["id"] for d in dropped}.isdisjoint(kept)
    assert set(extracted(paths, sample=25, seed=7)[0]) != set(kept)
    assert set(extracted(paths, sample=26)[0]) > set(kept)
    assert set(extracted(paths, sample=0)[0]) == set()
    assert len(extracted(paths, sample=1000)[0]) == 60


def test_a_malformed_record_is_skipped_or_stops_and_leaves_nothing(paths, capsys):
    (paths.raw / "a.jsonl").write_text(json.dumps(row("a", "Hello there", "x")) + "\n{broken\n")
    kept, dropped, _ = extracted(paths)
    assert set(kept) == {"a"}
    assert dropped[0]["reason"] == "malformed"
    said = f"extract: 2 records, 1 conversations kept; dropped: 1 malformed: {paths.dropped}\n"
    assert capsys.readouterr().err.endswith(said)
    for path in (paths.conversations, paths.dropped, paths.metrics):
        path.unlink()
    with pytest.raises(InputError, match=r"a\.jsonl: record 2"):
        extracted(paths, on_malformed="stop")
    assert [p.name for p in paths.raw.parent.iterdir()] == ["raw"]


def test_two_records_with_one_id_need_the_step_that_finds_them(paths):
    write(paths, [row("a", "One question?", "x"), row("a", "Another question?", "x")])
    assert extracted(paths)[1] == [
        {"id": "a", "reason": "duplicate_ids", "detail": "an earlier record has the id a"}
    ]
    with pytest.raises(InputError, match=r"two records have the id 'a'(.|\n)*duplicate_ids"):
        extracted(paths, steps=["length"])


def test_a_conversation_without_any_answer_is_dropped_where_answers_are_kept(paths):
    write(paths, [row("a", "Why is the sky blue?"), row("b", "Why is the sky blue?", "Because.")])
    kept, dropped, _ = extracted(paths, keep="all")
    assert set(kept) == {"b"}
    assert dropped == [{"id": "a", "reason": "no_answer", "detail": "no turn has an answer to keep"}]


QUESTION = "Please tell me in a few words why the sky is blue at noon and red in the evening{}"


def test_addresses_and_secrets_are_redacted_only_where_the_step_is_listed(paths):
    said = "Mail ann@firm.org the key AKIAIOSFODNN7EXAMPLE"
    write(paths, [row("a", said, said)])
    assert extracted(paths, keep="all")[0] == {"a": [said, said]}
    kept, _, metrics = extracted(paths, keep="all", steps=["redact"])
    assert kept == {"a": ["Mail [email] the key [secret]"] * 2}
    assert metrics["changed"] == {"redact": 1}
    assert extracted(paths, steps=["redact"], redact_emails=False)[0]["a"][0].startswith(
        "Mail ann@firm.org the key ["
    )


def test_near_duplicates_go_and_the_settings_say_what_they_are(paths):
    write(paths, [row("a", QUESTION.format("?"), "x"), row("b", QUESTION.format(", Sir?"), "x")])
    kept, dropped, metrics = extracted(paths)
    assert (set(kept), metrics["dropped"]) == ({"a"}, {"near_duplicates": 1})
    assert dropped[0]["detail"] == "shares 0.94 of the runs of 5 words with a"
    assert len(extracted(paths, near_threshold=0.95)[0]) == 2
    assert len(extracted(paths, near_ngram=17)[0]) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps: [duplicate_ids, length]", "must come after all other steps"),
        ("steps: [length, length]", "length is listed twice"),
        ("steps: [lengths]", "input should be 'html_to_markdown'"),
        ("near_threshold: 0", "above 0 and at most 1"),
        ("near_ngram: 0", "at least 1"),
        ("sample: -3", "greater than or equal to 0"),
    ],
)
def test_impossible_settings_name_file_and_line(tmp_path, line, message):
    path = tmp_path / "params.yaml"
    path.write_text(f"extract:\n  {line}\n")
    with pytest.raises(ParamsError, match=rf"params\.yaml:2: extract\.(.|\n)*{message}"):
        settings.load("extract", Params, path)


def test_tokens_are_counted_by_the_tokenizer_and_need_one(paths):
    write(
        paths, [row(n, q, "x") for n, q in [("a", "Why is it?"), ("b", "Why?"), ("c", "Why is it so blue?")]]
    )
    with pytest.raises(ParamsError, match=r"nothing counts them\n.*fetch\.sources\.tokenizer"):
        extracted(paths, max_tokens=4)
    paths.tokenizer.mkdir()
    file = paths.tokenizer / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(ParamsError, match=r"tokenizer\.json: no tokenizer"):
        extracted(paths, max_tokens=4)
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(file))
    kept, dropped, _ = extracted(paths, min_tokens=2, max_tokens=4)
    assert set(kept) == {"a"}
    assert [d["reason"] for d in dropped] == ["length", "length"]


FAST = ["copy_code", "alternation", "length", "duplicate_ids", "duplicate_turns", "near_duplicates"]


def test_the_number_of_processes_does_not_change_a_byte(paths, monkeypatch):
    monkeypatch.setattr(extract, "BATCH", 2000)
    rows = [
        row(f"r{i % 90}", f"What is {i % 80} plus {i}?", f"```\npythonCopy code{i}\n```") for i in range(100)
    ]
    write(paths, rows)
    lines = b"".join(json.dumps(r | {"id": f"z{r['id']}"}).encode() + b"\n" for r in rows) + b"{broken\n"
    (paths.raw / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    outs = []
    for workers in (1, 2):
        run(paths, Params(steps=FAST, sample=40), workers)
        outs.append([p.read_bytes() for p in (paths.conversations, paths.dropped, paths.metrics)])
    assert outs[0] == outs[1]
    assert json.loads(outs[0][2])["records"] == 201


def test_an_error_in_a_worker_is_the_one_that_one_process_meets(paths, monkeypatch):
    monkeypatch.setattr(extract, "BATCH", 10)
    (paths.raw / "a.jsonl").write_text(json.dumps(row("a", "Hello there", "x")) + "\n{broken\n" * 3)
    with pytest.raises(InputError, match=r"a\.jsonl: record 2 at byte"):
        run(paths, Params(steps=FAST, on_malformed="stop"), 2)
    assert [p.name for p in paths.raw.parent.iterdir()] == ["raw"]


def fed(folder):
    """An extraction by two processes of a pipe: it works on what was written and waits for more."""
    raw = folder / "data/raw/conversations"
    raw.mkdir(parents=True)
    (folder / "params.yaml").write_text(json.dumps({"extract": {"steps": FAST}}))
    os.mkfifo(raw / "a.jsonl")
    command = [sys.executable, "-m", "stillroom", "extract", "--processes", "2"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True)
    pipe = (raw / "a.jsonl").open("wb", buffering=0)
    for number in range(60):  # more than the shape is told from, and a batch for each worker
        pipe.write(json.dumps(row(f"r{number}", "word " * 4000, "x")).encode() + b"\n")
    return process, pipe


def workers_of(process):
    """The worker processes, once they are there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        if len(found) == 2:
            return found
        time.sleep(0.01)
    raise AssertionError("no workers")


@pytest.mark.parametrize("whom", ["parent", "worker", "group"])
def test_whoever_is_killed_nobody_stays_and_nothing_half_written(tmp_path, whom):
    process, pipe = fed(tmp_path)
    with process, pipe:
        workers = workers_of(process)
        if whom == "parent":
            process.kill()
        elif whom == "worker":
            workers[0].kill()
            psutil.wait_procs(workers, PATIENCE)
            pipe.close()
        else:
            os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
        assert psutil.wait_procs(workers, PATIENCE)[1] == []
    want = {"parent": -signal.SIGKILL, "worker": 1, "group": 130}
    assert process.returncode == want[whom]
    assert "Traceback" not in said
    if whom == "worker":
        assert "error: a worker process was killed\n" in said
    assert not (tmp_path / "reports").exists()
    left = [p.name for p in (tmp_path / "data/interim").glob("*")]
    assert left == ([".extract.partial"] if whom == "parent" else [])


def peak(paths, count):
    """Bytes of memory of an extraction of `count` conversations of 40 KB."""
    with (paths.raw / "a.jsonl").open("w") as file:
        for number in range(count):
            file.write(json.dumps(row(f"r{number}", f"{number} word" * 10, "answer " * 5000)) + "\n")
    code = (
        "import sys; from pathlib import Path; from stillroom.stages.extract import Params, Paths, run;"
        f"run(Paths(*map(Path, sys.argv[1:])), Params(steps={FAST}), 1)"
    )
    places = map(str, astuple(paths))
    process = subprocess.Popen([sys.executable, "-c", code, *places], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    assert status == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_memory_does_not_grow_with_the_file(paths):
    small, large = peak(paths, 100), peak(paths, 2000)
    assert large - small < 20 << 20, "76 MB more of input"


def told(paths, identifier, **params):
    return "\n".join(explain(identifier, paths.raw, Params(**params)))


def test_explain_says_what_each_step_does_and_how_it_ends(paths):
    rows = [
        row("a", "2 / 3Why is the sky blue?", "Because."),
        row("b", "Why is the sky blue?", "x"),
        row("c", "Why so?", "As an AI language model, I cannot say."),
        {"id": "d", "conversations": "none"},
    ]
    write(paths, rows)
    first = told(paths, "a")
    assert first.startswith("a  (a.json, record 1 at byte 1)\n  html_to_markdown   -\n")
    assert "turn 1 (user) - '2 / 3Why is the sky blue?'\n    turn 1 (user) + 'Why is the sky blue?'" in first
    assert "turn 2 (assistant) - 'Because.'" in first
    assert first.endswith("  near_duplicates    -\nkept: 20 characters in human turns: 1")
    second = told(paths, "b")
    assert "duplicate_turns    dropped: the human turns of a\n    there: 'Why is the sky blue?'" in second
    assert "near_duplicates" not in second
    assert "boilerplate        dropped: an answer says 'As an AI language model'" in told(paths, "c")
    assert told(paths, "a.json#4").splitlines()[-1].startswith("dropped: malformed: ")
    assert told(paths, "a", sample=0).endswith("dropped: sample: not among those drawn")
    with pytest.raises(InputError, match="no record has the id 'e'"):
        told(paths, "e")
    assert [p.name for p in paths.raw.parent.iterdir()] == ["raw"]


def test_no_dumps_are_no_conversations_and_no_folder_is_an_error(paths):
    assert extracted(paths)[0] == {}
    paths.raw.rmdir()
    with pytest.raises(InputError, match=r"no such folder(.|\n)*stillroom fetch"):
        extracted(paths)


@pytest.mark.real_data
def test_real_conversations_lose_only_duplicates(paths, tmp_path):
    real = ROOT / "../shared/data/sharegpt"
    if not real.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    kept, _, metrics = extracted(replace(paths, raw=real))
    rows = json.loads((real / "dummy_conversation.json").read_text())
    distinct = {tuple(t["value"] for t in r["conversations"][::2]) for r in rows}
    assert sorted(map(tuple, kept.values())) == sorted(distinct)
    assert metrics["dropped"] == {"duplicate_turns": len(rows) - len(distinct)}
