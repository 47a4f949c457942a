import pytest

from stillroom.errors import InputError
from stillroom.sources.documents import list_files, read_documents

HTML = """<html><head><title>Site</title><style>p {}</style></head><body>
<nav><a href="/">Home</a></nav><script>track()</script>
<h1>Ferry   rules</h1><p>The ferry leaves at <a href="/t">seven</a>.</p><ul><li>No dogs</li></ul>
<footer>Imprint</footer></body></html>"""


def pdf(text):
    """A PDF of one page, written by hand."""
    content = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(out)
    return out + b"xref\n0 5\n0000000000 65535 f \n" + table + end


def test_every_type_gives_title_and_text(tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.md").write_text("intro\n\n# The Lamp #\n\nIt burns.\n")
    (tmp_path / "b.rst").write_text(".. _ref:\n\n=====\nTitle\n=====\n\nText.\n")
    (tmp_path / "c.html").write_text(HTML)
    (tmp_path / "sub/d.txt").write_text("\ufeffplain", encoding="utf-8")
    (tmp_path / "e.pdf").write_bytes(pdf("Nobody may board."))
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.md").write_text("no")
    found = {d.id: d for d in read_documents(tmp_path)}
    assert list(found) == ["a.md", "b.rst", "c.html", "e.pdf", "sub/d.txt"]
    assert [found[name].title for name in found] == ["The Lamp", "Title", "Ferry rules", "e", "d"]
    assert found["sub/d.txt"].text == "plain"
    assert found["e.pdf"].text == "Nobody may board."
    html = found["c.html"].text
    assert "# Ferry rules" in html
    assert "The ferry leaves at seven." in html
    assert not any(word in html for word in ("Home", "Imprint", "track", "p {}", "Site"))
    assert "photo.png" in capsys.readouterr().err
    assert [path.name for path in list_files(tmp_path)[1]] == ["photo.png"]


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", b"caf\xe9"), ("b.pdf", b"%PDF-1.4 torn"), ("c.pdf", b"no pdf")]
)
def test_an_unreadable_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        list(read_documents(tmp_path))


def test_an_absent_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list(read_documents(tmp_path / "docs"))
