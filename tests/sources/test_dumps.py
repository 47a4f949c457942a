import gzip
import io
import json
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.errors import InputError
from stillroom.sources import dumps
from stillroom.sources.dumps import Broken, Record, dump_files, read_dump

VALUES = [{"id": "a", "t": 'q"\\"]},{ [\n'}, [1, [2]], "text, ] }", {"deep": [{"x": [[]]}]}, 3.5, None, {}]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8"))
    | st.text('"\\[]{}, a'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)


def values(path):
    return [r.value for r in read_dump(path)]


@pytest.fixture(params=[16, 17, 64, 1 << 20])
def chunk(request, monkeypatch):
    monkeypatch.setattr(dumps, "CHUNK", request.param)


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_streamed_whatever_the_chunks(tmp_path, chunk, indent):
    path = tmp_path / "a.json"
    path.write_text("\ufeff \n" + json.dumps(VALUES, indent=indent) + "\n\n")
    assert values(path) == VALUES


@settings(max_examples=60)
@given(rows=st.lists(json_values), size=st.integers(1, 40), spaced=st.booleans())
def test_any_array_comes_back(tmp_path_factory, rows, size, spaced):
    path = tmp_path_factory.mktemp("dump") / "a.json"
    path.write_text(json.dumps(rows, indent=1 if spaced else None, ensure_ascii=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dumps, "CHUNK", size)
        assert values(path) == rows


def test_offsets_point_at_the_records(tmp_path):
    path = tmp_path / "a.json"
    text = json.dumps(VALUES).encode()
    path.write_bytes(text)
    for record in read_dump(path):
        found, _ = json.JSONDecoder().raw_decode(text[record.offset :].decode().lstrip())
        assert found == record.value


def test_every_spelling_of_a_file_reads_the_same(tmp_path):
    lines = b"".join(json.dumps(v).encode() + b"\n\n" for v in VALUES)
    whole = json.dumps(VALUES).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.json").write_bytes(whole)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines))
    with pa.output_stream(str(tmp_path / "d.json.zst"), compression="zstd") as file:
        file.write(whole)
    (tmp_path / "e.json").write_bytes(b'{"lines": 1}\n{"in": ".json"}\n')
    *same, last = dump_files(tmp_path)
    assert all(values(path) == VALUES for path in same)
    assert values(last) == [{"lines": 1}, {"in": ".json"}]


def test_parquet_rows_are_records(tmp_path):
    rows = [{"id": "1", "messages": [{"role": "user", "content": "hi"}]}, {"id": "2", "messages": []}]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == rows


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_broken_record_is_numbered_and_the_others_are_read(tmp_path, name, chunk):
    good, bad = '{"a": 1}', '{"a": }'
    text = f"{good}\n{bad}\n{good}\n" if name == "a.jsonl" else f"[{good},\n{bad},\n{good}]"
    (tmp_path / name).write_text(text)
    one, two, three = read_dump(tmp_path / name)
    assert (one.value, three.value) == ({"a": 1}, {"a": 1})
    assert isinstance(two, Broken)
    assert two.number == 2
    assert "not valid JSON" in two.error
    assert text.encode()[two.offset :].lstrip().startswith(bad.encode())


@pytest.mark.parametrize("cut", range(1, 39))
def test_a_file_cut_off_anywhere_ends_in_a_broken_record(tmp_path, cut):
    text = '[{"a": "x\\"y"}, {"b": [1, {"c": "d"}]}]'
    (tmp_path / "a.json").write_text(text[:cut])
    *rest, last = read_dump(tmp_path / "a.json")
    assert isinstance(last, Broken)
    assert [r.value for r in rest] == [{"a": 'x"y'}, {"b": [1, {"c": "d"}]}][: len(rest)]


def test_text_after_the_array_is_not_silent(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1}] [{"b": 2}]')
    one, rest = read_dump(tmp_path / "a.json")
    assert one.value == {"a": 1}
    assert isinstance(rest, Record | Broken)
    assert rest.number == 2


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_record_without_end_does_not_fill_the_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr(dumps, "CHUNK", 1000)
    monkeypatch.setattr(dumps, "LARGEST_RECORD", 10_000)
    (tmp_path / name).write_text('["' + "x" * 1_000_000)
    tracemalloc.start()
    found = [type(record) for record in read_dump(tmp_path / name)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(found) == {Broken}
    assert peak < 400_000


def test_a_long_record_is_not_searched_again_with_every_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(dumps, "CHUNK", 16)
    reads = []
    (tmp_path / "a.json").write_text(json.dumps([["x" * 10_000], [1]]))
    with (tmp_path / "a.json").open("rb") as file:

        class Counted(io.BufferedReader):
            def read(self, size=-1):
                reads.append(size)
                return super().read(size)

        texts = [text for _, text in dumps._elements(Counted(file.raw))]
    assert [json.loads(text) for text in texts] == [["x" * 10_000], [1]]
    assert len(reads) < 20


COMPRESS = {"gz": gzip.compress, "zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True)}
ROWS = b"".join(json.dumps([random.Random(n).random()]).encode() + b"\n" for n in range(3000))


@pytest.mark.parametrize("kind", COMPRESS)
def test_compressed_parts_one_after_another_are_one_file(tmp_path, kind):
    path = tmp_path / f"a.jsonl.{kind}"
    path.write_bytes(COMPRESS[kind](ROWS[:30_000]) + COMPRESS[kind](ROWS[30_000:]))
    assert values(path) == [json.loads(line) for line in ROWS.splitlines()]


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize(
    "damage", [lambda d: d[:-4], lambda d: d[:900], lambda d: d[:900] + b"x" * 999, lambda d: ROWS]
)
def test_damaged_compression_names_the_file(tmp_path, kind, damage):
    path = tmp_path / f"a.jsonl.{kind}"
    path.write_bytes(damage(COMPRESS[kind](ROWS)))
    with pytest.raises(InputError, match=rf"a\.jsonl\.{kind}: cannot be read"):
        values(path)


def test_other_files_are_refused_and_hidden_ones_ignored(tmp_path):
    (tmp_path / ".gitignore").write_text("*")
    (tmp_path / "a.jsonl").write_text("")
    assert dump_files(tmp_path) == [tmp_path / "a.jsonl"]
    (tmp_path / "README.md").write_text("hi")
    with pytest.raises(InputError, match=r"README\.md: not a dump"):
        dump_files(tmp_path)
    (tmp_path / "README.md").unlink()
    (tmp_path / "b.jsonl").symlink_to("/nowhere.jsonl")
    with pytest.raises(InputError, match=r"b\.jsonl: a link to /nowhere\.jsonl"):
        dump_files(tmp_path)
