import csv
import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet
import pytest

from stillroom.errors import InputError
from stillroom.sources import booksum, booksum_cleaned, booksum_table, chapter_records, long_data
from stillroom.sources.adapter import Dropped
from stillroom.sources.chapter import Chapter, split_in_name
from stillroom.sources.chapters import ADAPTERS, read_chapters

CHAPTER, SUMMARY = "Mr. Woodhouse was fond of society …", "Emma meets …"
WANTED = {
    chapter_records: [Chapter(CHAPTER, SUMMARY, "Emma", 3)],
    booksum: [
        Chapter(
            "Emma Woodhouse, handsome …",
            "Emma …\n\nMr. Elton …",
            "Emma",
            section="chapters 1-3",
            gutenberg="158",
            source="gradesaver",
            url="https://…",
        )
    ],
    booksum_table: [
        Chapter(
            "Emma Woodhouse, handsome, clever …",
            "Emma …",
            "Emma",
            section="chapters 1-3",
            gutenberg="158",
            source="gradesaver",
            url="https://…",
        )
    ],
    booksum_cleaned: [
        Chapter(CHAPTER, summary, "Emma", section="Chapter 3", gutenberg="158", source=source)
        for source, summary in (("gradesaver", SUMMARY), ("shmoop", "A new friend …"))
    ],
    long_data: [Chapter(f"{CHAPTER}\n\nSummarise the text above.", SUMMARY, asked=True)],
}
"""what each module's worked example says"""
FILE = {"name": "Chapters 1-3", "url": "https://…", "summary": ["Emma …", " ", "Mr. Elton …"], "analysis": []}


def example(module):
    """The worked example of a module's docstring."""
    return json.loads(re.search(r"^\s*(\{.*?\})\n\n", module.__doc__, re.DOTALL | re.MULTILINE)[1])


def put(folder, files):
    """Lists are JSON Lines, dicts are JSON, texts and bytes are themselves."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "\n".join(map(json.dumps, content))
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(folder, **settings):
    """What is read, without the names of the files."""
    found = list(read_chapters(folder, **settings))
    for chapter in found:
        if isinstance(chapter, Chapter):
            object.__setattr__(chapter, "file", "")
    return found


def aligned(chapter="all_chapterized_books/158-chapters/01.txt", **fields):
    summary = "finished_summaries/gradesaver/Emma/section_0_part_0.txt"
    row = {"bid": "158", "source": "gradesaver", "chapter_path": chapter, "summary_path": summary}
    return row | {"book_id": "Emma.chapter 1", "summary_id": "chapter 1"} | fields


@pytest.mark.parametrize("module", WANTED)
def test_the_worked_example_is_read_by_its_adapter_and_no_other(module, tmp_path):
    row = example(module)
    assert [adapter.name for adapter in ADAPTERS if adapter.fits(row)] == [module.ADAPTER.name]
    texts = (
        {"chapter_path": "Emma Woodhouse, handsome …\n", "summary_path": FILE} if module is booksum else {}
    )
    put(tmp_path, {"a.jsonl": [row], **{row[key]: text for key, text in texts.items()}})
    assert read(tmp_path) == WANTED[module]


def test_every_adapter_has_a_worked_example_a_source_and_a_licence():
    assert {module.ADAPTER for module in WANTED} == set(ADAPTERS)
    assert all(re.search(r"^Source: .*licence:", m.__doc__, re.DOTALL | re.MULTILINE) for m in WANTED)


@pytest.mark.parametrize(
    ("chapters", "summaries", "root"),
    [
        ("all_chapterized_books/", "finished_summaries/", ""),
        ("all_chapterized_books/", "scripts/finished_summaries/", ""),
        ("", "", ""),
        ("texts/", "texts/all/", "/export/longsum/booksumm/"),
        ("alignments/all_chapterized_books/", "alignments/chapters/finished_summaries/", "./"),
    ],
)
def test_texts_are_found_wherever_they_were_put(chapters, summaries, root, tmp_path):
    paths = {name: root + aligned()[name] for name in ("chapter_path", "summary_path")}
    if chapters == "texts/":
        summaries, chapters = "finished_summaries/", "alignments/chapters/"
    put(
        tmp_path,
        {
            "alignments/chapters/chapter_summary_aligned_val_split.jsonl": [aligned(**paths)],
            f"{chapters}158-chapters/01.txt": "\ufeffEmma Woodhouse …\n",
            f"{summaries}gradesaver/Emma/section_0_part_0.txt": FILE,
            f"{summaries}gradesaver/Emma/overview.json": FILE | {"summary": ["All."]},
        },
    )
    (chapter,) = read_chapters(tmp_path)
    assert (chapter.text, chapter.split) == ("Emma Woodhouse …", "validation")
    assert chapter.file == "alignments/chapters/chapter_summary_aligned_val_split.jsonl"


def test_summaries_before_the_last_cleaning_and_whole_books_are_read(tmp_path):
    row = aligned(title="Emma", book_path="all_chapterized_books/158-chapters/book_clean.txt")
    for name in ("chapter_path", "book_id", "summary_id"):
        del row[name]
    files = {
        row["book_path"]: "All of it.",
        row["summary_path"]: {"summary": "One.<PARAGRAPH> Two.<PARAGRAPH>"},
    }
    put(tmp_path, {"book_summaries_aligned_test.jsonl": [row], **files})
    (chapter,) = read_chapters(tmp_path)
    assert (chapter.book, chapter.section, chapter.split) == ("Emma", "", "test")
    assert (chapter.text, chapter.summary) == ("All of it.", "One.\n\nTwo.")


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"chapter_path": "all_chapterized_books/158-chapters/02.txt"}, r"158-chapters/02.txt' is not there"),
        ({"chapter_path": "../158-chapters/01.txt"}, "is not there"),
        ({"chapter_path": ""}, "is not there"),
        ({"chapter_path": "all_chapterized_books/158-chapters/latin.txt"}, "latin.txt' is not UTF-8 .*"),
        ({"summary_path": "all_chapterized_books/158-chapters/01.txt"}, "is not a JSON object"),
        ({"summary_path": "all_chapterized_books/158-chapters/list.txt"}, "is not a JSON object"),
    ],
)
def test_a_missing_text_stops_or_is_left_out(fields, detail, tmp_path):
    rows = [aligned(), aligned(**fields)]
    folder = "in/all_chapterized_books/158-chapters"
    put(tmp_path, {"in/a.jsonl": rows, f"{folder}/01.txt": "Emma …"})
    put(tmp_path / "in", {aligned()["summary_path"]: FILE})
    put(
        tmp_path,
        {f"{folder}/latin.txt": b"caf\xe9", f"{folder}/list.txt": "[]", "158-chapters/01.txt": "Out."},
    )
    with pytest.raises(InputError, match=rf"a.jsonl: record 2: .*{detail}\n.*on_missing_text to skip"):
        list(read_chapters(tmp_path / "in"))
    chapter, dropped = read(tmp_path / "in", on_missing_text="skip")
    assert isinstance(chapter, Chapter)
    assert (dropped.id, dropped.reason) == (f"{tmp_path}/in/a.jsonl: record 2", "missing_text")
    assert re.search(detail, dropped.detail)


@pytest.mark.parametrize(
    ("fields", "title", "section"),
    [
        ({"book_id": "The Prince.chapters 4-7"}, "The Prince", "chapters 4-7"),
        ({"book_id": "Dr. Jekyll and Mr. Hyde.chapter 2"}, "Dr. Jekyll and Mr. Hyde", "chapter 2"),
        ({"book_id": "Hamlet.act 1.scene 2"}, "Hamlet", "act 1.scene 2"),
        (
            {"book_id": "Far From It.chapter 1", "summary_path": "a/shmoop/Far from It/s.txt"},
            "Far from It",
            "chapter 1",
        ),
        ({"book_id": "Emma.chapter 1", "summary_path": None}, "Emma", "chapter 1"),
    ],
)
def test_titles_and_sections_with_full_stops(fields, title, section, tmp_path):
    row = {"summary_path": f"a/shmoop/{title}/section_1.txt", "chapter": "It was.", "summary_text": "Was."}
    put(tmp_path, {"a.jsonl": [row | {"summary_id": "chapter 9"} | fields]})
    (chapter,) = read_chapters(tmp_path)
    assert (chapter.book, chapter.section) == (title, section)


@pytest.mark.parametrize(
    ("told", "summary", "url"),
    [
        (
            {"summary_text": "Text.", "summary": '{"summary": "Json."}', "summary_url": "https://a"},
            "Text.",
            "https://a",
        ),
        ({"summary_text": None, "summary": '{"summary": "Json.", "url": "https://b"}'}, "Json.", "https://b"),
        ({"summary": {"summary": ["Of", "a list."]}}, "Of\n\na list.", ""),
        ({"summary": "Plain."}, "Plain.", ""),
        ({"summary": "3"}, "3", ""),
    ],
)
def test_where_a_table_has_its_summary(told, summary, url, tmp_path):
    put(tmp_path, {"a.jsonl": [{"bid": 158, "book_id": "Emma.chapter 1", "chapter": "It was."} | told]})
    (chapter,) = read_chapters(tmp_path)
    assert (chapter.summary, chapter.url, chapter.gutenberg) == (summary, url, "158")


def test_prompts_keep_their_request_and_a_text_is_cut_before_the_completion(tmp_path):
    rows = [
        {"prompt": "Sum up:\n\nIt was.\n", "completion": " Was.\n", "text": "x"},
        {"text": "It was.\nSum up. Was.", "completion": "Was."},
        {"prompt": None, "text": "It was.", "completion": "Was.", "book": "Emma", "split": "dev"},
    ]
    put(tmp_path, {"train.jsonl": rows})
    found = read(tmp_path)
    assert [c.text for c in found] == ["Sum up:\n\nIt was.", "It was.\nSum up.", "It was."]
    assert {c.summary for c in found} == {"Was."}
    assert [(c.asked, c.book, c.split) for c in found][1:] == [(True, "", None), (True, "Emma", "validation")]


def test_tables_of_every_kind_say_the_same(tmp_path):
    row = example(booksum_table) | {"chapter": '“It was,”\r\nshe said, "so".', "content": ""}
    rows = [row, row | {"summary_text": "Another …"}]
    kinds = ("csv", "csv.gz", "parquet", "json", "jsonl", "jsonl.zst")
    for kind in kinds:
        folder = tmp_path / kind
        folder.mkdir()
        path = folder / f"train.{kind}"
        if kind == "parquet":
            pa.parquet.write_table(pa.Table.from_pylist(rows), path)
        elif kind == "json":
            path.write_text(json.dumps(rows))
        elif kind.startswith("csv"):
            with (
                gzip.open(path, "wt", newline="")
                if kind.endswith("gz")
                else path.open("w", newline="") as file
            ):
                writer = csv.DictWriter(file, row)
                writer.writeheader()
                writer.writerows(rows)
        else:
            put(folder, {path.name: rows})
            if kind.endswith("zst"):
                with pa.output_stream(str(path), compression="zstd") as out:
                    out.write("\n".join(map(json.dumps, rows)).encode())
    first, *others = (read(tmp_path / kind) for kind in kinds)
    assert [chapter.split for chapter in first] == ["train", "train"]
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("chapter_summary_aligned_train_split.jsonl", "train"),
        ("dev.csv", "validation"),
        ("data/test-00000-of-00002.parquet", "test"),
        ("test/train.jsonl", "train"),
        ("chapters/VAL.jsonl", "validation"),
        ("latest.jsonl", None),
        ("training.jsonl", None),
    ],
)
def test_names_of_files_tell_the_split(name, split):
    assert split_in_name(name) == split


@pytest.mark.parametrize(
    "row", [{"chapter": " "}, {"chapter": None}, {"summary_text": None, "summary": "{}"}]
)
def test_a_published_row_without_text_is_left_out(row, tmp_path):
    put(tmp_path, {"a.jsonl": [example(booksum_table) | row]})
    (dropped,) = read_chapters(tmp_path)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "empty"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jsonl": [{"book": "B", "i": "one", "chapter": "c", "summary": "s"}]}, r"record 1: `i` must be"),
        ({"a.jsonl": [{"book": "B", "i": 1, "chapter": "c"}]}, "record 1: `summary` must be a text"),
        (
            {"a.jsonl": [example(chapter_records), {"book": "B"}]},
            r"record 2: .*unknown shape \(fields: book\)",
        ),
        ({"a.jsonl": [{"prompt": "… Document [1](Title: T) …", "completion": "c"}]}, "unknown shape"),
        ({"a.jsonl": [example(chapter_records) | {"split": "half"}]}, "`split` must be one of"),
        ({"a.jsonl": "[1]"}, "object was expected"),
        ({"a.jsonl": "{"}, "not valid JSON"),
        ({"a.csv": "book,i,chapter,summary\nB,1,c\n"}, "a.csv:2: not valid CSV"),
        ({"a.csv": "book,i,chapter,summary\nB,1,c,s,t\n"}, "a.csv:2: not valid CSV"),
        ({"a.csv": b"book,i\nB,\xff\n"}, "not valid CSV"),
        ({"a.csv.gz": b"\x1f\x8b\x08torn"}, "not valid CSV"),
        ({"a.md": "c"}, "a.md: not a table of chapters"),
        ({"emma.txt": "c"}, "texts that no row names"),
    ],
)
def test_what_is_no_chapter_is_named(files, message, tmp_path):
    put(tmp_path, files)
    with pytest.raises(InputError, match=message):
        list(read_chapters(tmp_path))
    with pytest.raises(InputError, match="no such folder"):
        list(read_chapters(tmp_path / "none"))
