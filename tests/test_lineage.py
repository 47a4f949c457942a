import fnmatch
import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stillroom import lineage
from stillroom.errors import InputError

IDS = st.text(st.sampled_from("ab~#-é😀"), min_size=1, max_size=5)


def written(path, ids):
    path.write_bytes(
        b"".join(orjson.dumps({"id": id, "pad": "x" * (7 * i % 23)}) + b"\n" for i, id in enumerate(ids))
    )
    return path


@given(st.lists(IDS, max_size=30), IDS | st.just(""))
def test_bisection_finds_what_reading_all_finds(tmp_path_factory, ids, beginning):
    path = written(tmp_path_factory.mktemp("lines") / "a.jsonl", sorted(set(ids)))
    found = [row["id"] for row in lineage.beginning_with(path, beginning)]
    assert found == [id for id in sorted(set(ids)) if id.startswith(beginning)]


def test_few_lines_are_read(tmp_path, monkeypatch):
    path = written(tmp_path / "a.jsonl", [f"{n:06}" for n in range(50_000)])
    reads = []
    monkeypatch.setattr(lineage, "_row", lambda line, path: reads.append(line) or orjson.loads(line))
    assert [row["id"] for row in lineage.beginning_with(path, "031415")] == ["031415"]
    assert len(reads) < 30


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"id": 3}', b"{}"])
def test_what_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(InputError, match=r"a\.jsonl: a line is no record"):
        list(lineage.beginning_with(path, "a"))


@pytest.mark.parametrize("id", ["q", "q/plain", "q/retrieved"])
def test_a_question_is_followed_into_every_context(tmp_path, id):
    folder = tmp_path / "reports/samples/tuned"
    folder.mkdir(parents=True)
    ids = ["q", "q-2", "q/else", "q/plain", "q/retrieved", "qq"]
    written(folder / "raft.jsonl", ids)
    found = lineage.trace(tmp_path, lineage.resolve(tmp_path, id)).found
    assert [record.row["id"] for record in found] == ["q", "q/plain", "q/retrieved"]


def test_files_are_those_that_the_stages_write():
    with open("dvc.yaml", encoding="utf-8") as file:  # noqa: PTH123
        stages = YAML(typ="safe").load(file)["stages"]
    for stage, patterns in lineage.FILES.items():
        outs = [re.sub(r"\$\{item\.\w+\}", "*", str(out)) for out in stages[stage]["outs"]]
        for pattern in patterns:
            owned = pattern.startswith("data/benchmarks") or any(pattern.startswith(out) for out in outs)
            assert owned, pattern
    outs = [re.sub(r"\$\{item\.\w+\}", "M", str(out)) for stage in stages.values() for out in stage["outs"]]
    taught, examined = lineage.SNAPSHOTS
    assert fnmatch.filter(outs, taught) == [
        f"data/interim/{name}-answers.parquet" for name in ("distill", "raft")
    ]
    assert fnmatch.fnmatch("reports/samples/M/M/judge-answers.parquet", examined)
    assert "reports/samples/M/M" in outs
    assert "data/processed/packed" in outs
