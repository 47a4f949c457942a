"""From a folder of documents to passages, under `raft`'s settings."""

import pytest

from stillroom.errors import InputError, ModelError
from stillroom.stages import raft

PROSE = "The ferry leaves at seven in the morning. It does not sail in fog. " * 30


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.md").write_text(f"# Rules\n\n{PROSE}")
    (tmp_path / "b.pdf").write_bytes(b"torn")
    return tmp_path


def test_passages_are_measured_in_the_students_tokens(folder, base):
    (folder / "b.pdf").unlink()
    (folder / "a.md").write_text(PROSE.replace("e", "é"))  # two tokens each, of this tokenizer
    settings = raft.Params(chunk_size=200, chunk_overlap=0, chunk_unit="tokens", near_threshold=None)
    chunks = raft.passages(folder, settings, base).chunks
    assert all(120 < len(chunk.text.encode()) <= 200 for chunk in chunks)
    with pytest.raises(ModelError, match="no tokenizer"):
        raft.passages(folder, settings, folder / "none")


def test_a_document_that_cannot_be_read_stops_the_stage_or_is_counted(folder, base):
    with pytest.raises(InputError, match=r"b\.pdf(.|\n)*raft\.on_unreadable: skip"):
        raft.passages(folder, raft.Params(), base)
    found = raft.passages(folder, raft.Params(on_unreadable="skip"), base)
    assert found.counts["unreadable"] == 1
    assert {chunk.document for chunk in found.chunks} == {"a.md"}
