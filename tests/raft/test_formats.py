import json

import pyarrow.parquet as pq
import pytest
import yaml
from rooms import chunk, pair

from stillroom.raft.formats import Export, record
from stillroom.raft.plans import Plan

FORMATS = ["hf", "completion", "chat", "eval"]


def rows(count):
    plans = [
        Plan(pair(f"r{n}"), (chunk(f"d{n}"),), oracle=True, refusal=False, place=0.7) for n in range(count)
    ]
    return [record(n, plan, 2) for n, plan in enumerate(plans)]


def exported(folder, file_type, train, held_out, system=None, formats=FORMATS):
    folder.mkdir()
    with Export(folder, formats, file_type, system) as export:
        for row in train:
            export.add(row, held_out=False)
        for row in held_out:
            export.add(row, held_out=True)
    found = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix != ".md"):
        is_json = path.suffix == ".jsonl"
        lines = path.read_text().splitlines() if is_json else []
        found[path.stem] = (
            [json.loads(line) for line in lines] if is_json else pq.read_table(path).to_pylist()
        )
    return found


@pytest.mark.parametrize("system", [None, "Answer from the documents."])
def test_jsonl_and_parquet_hold_the_same_rows_with_the_documents(tmp_path, system):
    train, held_out = rows(1003), rows(2)
    found = exported(tmp_path / "jsonl", "jsonl", train, held_out, system)
    assert found == exported(tmp_path / "parquet", "parquet", train, held_out, system)
    assert found["hf"] == train
    asked = f"<DOCUMENT>{chunk('d0').text}</DOCUMENT>\n"
    asked += f"<DOCUMENT>{chunk('r0').text}</DOCUMENT>\n"
    asked += "What is the code of room r0?"
    answer = train[0]["cot_answer"]
    assert found["completion"][0] == {"prompt": asked, "completion": answer}
    talk = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    opening = [{"role": "system", "content": system}] if system else []
    assert found["chat"][0] == {"messages": opening + talk}
    assert found["eval"][0] == {
        "question": "What is the code of room r0?",
        "answer": answer,
        "context": f"{chunk('d0').text}\n{chunk('r0').text}",
    }
    assert [len(found[name]) for name in FORMATS] == [1003, 1003, 1003, 2]


def test_datasets_finds_each_format_by_its_name(tmp_path):
    exported(tmp_path / "raft", "parquet", rows(3), rows(2))
    with (tmp_path / "raft/README.md").open() as card:
        configs = next(yaml.safe_load_all(card))["configs"]
    assert {c["config_name"]: c["data_files"] for c in configs} == {
        name: f"{name}.parquet" for name in FORMATS
    }


def test_only_what_is_wanted_is_written_and_without_rows_there_are_columns(tmp_path):
    assert exported(tmp_path / "none", "jsonl", rows(1), [], formats=[]) == {}
    exported(tmp_path / "empty", "parquet", [], [], formats=["hf", "eval"])
    assert pq.read_schema(tmp_path / "empty" / "eval.parquet").names == ["question", "answer", "context"]
    assert pq.read_table(tmp_path / "empty" / "hf.parquet").num_rows == 0


@pytest.mark.parametrize("file_type", ["jsonl", "parquet"])
def test_the_same_records_give_the_same_bytes(tmp_path, file_type):
    for folder in ("a", "b"):
        exported(tmp_path / folder, file_type, rows(5), rows(2))
    files = [sorted(p.read_bytes() for p in (tmp_path / folder).iterdir()) for folder in ("a", "b")]
    assert files[0] == files[1]
