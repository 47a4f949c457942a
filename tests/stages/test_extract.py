import json
from pathlib import Path

import pytest

from stillroom.errors import InputError
from stillroom.records import read_conversations
from stillroom.stages.extract import Params, Paths, run

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "data/fixtures/sharegpt.json"


@pytest.fixture
def paths(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    return Paths(raw, tmp_path / "kept.jsonl", tmp_path / "dropped.jsonl", tmp_path / "metrics.json")


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


def test_a_malformed_record_is_skipped_or_stops_and_leaves_nothing(paths):
    (paths.raw / "a.jsonl").write_text(json.dumps(row("a", "Hello there", "x")) + "\n{broken\n")
    kept, dropped, _ = extracted(paths)
    assert set(kept) == {"a"}
    assert dropped[0]["reason"] == "malformed"
    for path in (paths.conversations, paths.dropped, paths.metrics):
        path.unlink()
    with pytest.raises(InputError, match=r"a\.jsonl: record 2"):
        extracted(paths, on_malformed="stop")
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
    elsewhere = Paths(real, paths.conversations, paths.dropped, paths.metrics)
    kept, _, metrics = extracted(elsewhere)
    rows = json.loads((real / "dummy_conversation.json").read_text())
    distinct = {tuple(t["value"] for t in r["conversations"][::2]) for r in rows}
    assert sorted(map(tuple, kept.values())) == sorted(distinct)
    assert metrics["dropped"] == {"duplicate_turns": len(rows) - len(distinct)}
