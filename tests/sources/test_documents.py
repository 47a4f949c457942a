"""Readers of documents: each type's title, text and source, what is left out, and what is refused by name."""

import gzip
import io
import json
import re
import zipfile
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter

from stillroom.errors import InputError
from stillroom.sources.documents import MANY, LeftOut, list_files, read_documents
from stillroom.sources.documents.pdf import joined
from stillroom.sources.documents.restructured import rendered
from stillroom.sources.documents.to_markdown import to_markdown
from stillroom.sources.manifest import MANIFEST

PAGE = """<html><head><title>Site</title><link rel="canonical" href="https://isles.example/ferry"></head><body>
<header><nav><a href="/">Home</a></nav></header><script>track()</script>
<main><div class="sidebar" role="navigation">Contents</div><article>
<h1>Ferry   rules<a class="headerlink">¶</a></h1><p>The ferry
leaves at <a href="/t">seven</a>.</p><ul><li><p>No dogs</p></li><li>No goats</li></ul>
<table><tr><th>Who</th><th>Fare</th></tr><tr><td>Adult</td><td>10<sup>2</sup></td></tr></table>
<dl><dt>Fog</dt><dd>The horn is sounded.</dd></dl>
<div class="highlight-python"><pre><span></span><span>if</span> fog:\n    sound()\n</pre></div>
<aside class="admonition note"><p>Tickets are kept.</p></aside><aside>See also</aside><form>Search</form>
</article></main><footer>Imprint</footer></body></html>"""
AS_MARKDOWN = """# Ferry rules

The ferry leaves at seven.

- No dogs
- No goats

| Who | Fare |
| --- | --- |
| Adult | 10^2 |

**Fog**

The horn is sounded.

```python
if fog:
    sound()
```

Tickets are kept."""

PRE = "<pre>x</pre>"
RST = """
:orphan:

.. _ferry:

Ferry :ref:`rules <x>`
======================

See :doc:`/fees`, :ref:`oil_label`, :class:`~isles.Boat`, |version| and `the map <https://x.example>`_ [1]_.
It costs :math:`a_b` and ``2 * 3``.

.. toctree::
   :hidden:

   fees

.. grid:: 2

   .. grid-item-card:: :octicon:`list;1em;` Prerequisites
      :class-card: wide
      :card_description: For sailors.

      * a rope

.. note::
   Tickets are *kept*.

.. code-block:: python
   :emphasize-lines: 1

   if fog:
       sound()

.. class:: centered

   In the middle.

.. class:: Boat(name)
   :no-index:

   .. py:method:: sail(to)
      :type: int

      Goes there.

.. versionadded:: 2.0 By request.

.. list-table::
   :header-rows: 1

   * - Who
     - Fare
   * - Adult
     - 4

.. bad-table:

.. csv-table::
   :file: /etc/passwd

.. [1] In the office.
"""
RST_AS_MARKDOWN = """# Ferry rules

See Harbour fees, Oil and wicks, `Boat`, version and the map [1]. It costs $a_b$ and `2 * 3`.

**Prerequisites**

For sailors.

- a rope

**Note**

Tickets are *kept*.

```python
if fog:
    sound()
```

In the middle.

`Boat(name)`

`sail(to)`

Type: int

Goes there.

Added in version 2.0: By request.

| Who | Fare |
| --- | --- |
| Adult | 4 |

[1] In the office."""


def pdf(*pages, title=""):
    """A PDF, written by hand; lines of a page stand below each other."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    font = b"<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    for page in pages:
        shown = " ".join(f"({line}) Tj 0 -14 Td" for line in page.split("\n"))
        content = f"BT /F1 12 Tf 20 180 Td {shown} ET".encode()
        number = len(objects) + 1
        parts = (b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 200]", b"/Contents %d 0 R" % (number + 1))
        objects.append(b" ".join((*parts, b"/Resources", font, b">>")))
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    kids = b" ".join(b"%d 0 R" % n for n in range(3, len(objects) + 1, 2))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages))
    objects.append(f"<< /Title ({title}) >>".encode())
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    trailer = b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\n" % (size, size - 1)
    return b"%sxref\n0 %d\n0000000000 65535 f \n%s%sstartxref\n%d\n%%%%EOF" % (
        out,
        size,
        table,
        trailer,
        len(out),
    )


DOCX = {
    "_rels/.rels": ("officeDocument", "word/document.xml"),
    "word/_rels/document.xml.rels": (
        "styles",
        "styles.xml",
        "numbering",
        "numbering.xml",
        "footnotes",
        "footnotes.xml",
    ),
    "word/styles.xml": """<w:styles>
        <w:style w:type="paragraph" w:styleId="T"><w:name w:val="Title"/></w:style>
        <w:style w:type="paragraph" w:styleId="H2"><w:name w:val="heading 2"/></w:style></w:styles>""",
    "word/numbering.xml": """<w:numbering><w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0">
        <w:numFmt w:val="bullet"/></w:lvl></w:abstractNum>
        <w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num></w:numbering>""",
    "word/footnotes.xml": """<w:footnotes><w:footnote w:id="1"><w:p><w:r><w:t>By the mate.</w:t></w:r></w:p>
        </w:footnote></w:footnotes>""",
    "word/document.xml": """<w:document><w:body>
        <w:p><w:pPr><w:pStyle w:val="T"/></w:pPr><w:r><w:t>The bell</w:t></w:r></w:p>
        <w:p><w:pPr><w:pStyle w:val="H2"/></w:pPr><w:r><w:t>When</w:t></w:r></w:p>
        <w:p><w:r><w:t xml:space="preserve">It is rung </w:t></w:r>
          <w:r><w:rPr><w:b/></w:rPr><w:t>three</w:t></w:r>
          <w:r><w:t xml:space="preserve"> times. </w:t></w:r><w:r><w:footnoteReference w:id="1"/></w:r></w:p>
        <w:p><w:pPr><w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr></w:pPr>
          <w:r><w:t>once</w:t></w:r></w:p>
        <w:p><w:pPr><w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr></w:pPr>
          <w:r><w:t>twice</w:t></w:r></w:p>
        <w:tbl>
          <w:tr><w:tc><w:p><w:r><w:t>Bell</w:t></w:r></w:p></w:tc>
            <w:tc><w:p><w:r><w:t>Meaning</w:t></w:r></w:p></w:tc></w:tr>
          <w:tr><w:tc><w:p><w:r><w:t>third</w:t></w:r></w:p></w:tc>
            <w:tc><w:p><w:r><w:t>nobody may board</w:t></w:r></w:p></w:tc></w:tr>
        </w:tbl></w:body></w:document>""",
}
"""the parts of a DOCX: XML, or the relations that lead to the other parts"""


def docx():
    """A DOCX with a title, a heading, a note, a list and a table."""
    office, out = "http://schemas.openxmlformats.org", io.BytesIO()
    word = f'xmlns:w="{office}/wordprocessingml/2006/main"'
    with zipfile.ZipFile(out, "w") as file:
        for name, part in DOCX.items():
            if isinstance(part, tuple):
                kinds = f"{office}/officeDocument/2006/relationships"
                pairs = zip(part[::2], part[1::2], strict=True)
                links = (
                    f'<Relationship Id="{kind}" Type="{kinds}/{kind}" Target="{at}"/>' for kind, at in pairs
                )
                inside = f'xmlns="{office}/package/2006/relationships">{"".join(links)}'
                part = f"<Relationships {inside}</Relationships>"
            file.writestr(name, part.replace(">", f" {word}>", 1) if part.startswith("<w:") else part)
        types = "<Types xmlns='http://schemas.openxmlformats.org/package/2006/content-types'></Types>"
        file.writestr("[Content_Types].xml", types)
    return out.getvalue()


def locked(content):
    """A PDF that asks for a password."""
    writer, out = PdfWriter(clone_from=PdfReader(io.BytesIO(content))), io.BytesIO()
    writer.encrypt("secret", algorithm="AES-256")
    writer.write(out)
    return out.getvalue()


def put(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def found(folder, **settings):
    return {document.id: document for document in read_documents(folder, **settings)}


def test_every_type_gives_title_text_and_source(tmp_path):
    put(
        tmp_path,
        {
            "a.md": "intro\n\n# The *Lamp* #\n\nIt burns.\n",
            "b.rst": "Title\n=====\n\nText.\n",
            "c.html": PAGE,
            "d.docx": docx(),
            "sub/e.TXT": "\ufeffplain\r\ntext",
            "f.pdf": pdf("Nobody may board.", title="Boarding"),
            "g.jsonl.gz": gzip.compress(b'{"body": "One.", "name": "First", "url": "u"}\n{"text": "Two."}\n'),
            "h.json": '{"page_content": "Three.", "metadata": {"source": "s"}}',
            "i.md": "\xff\xfe".encode("latin-1") + "wide".encode("utf-16-le"),
        },
    )
    documents = found(tmp_path)
    titles = {name: (document.title, document.source) for name, document in documents.items()}
    assert titles == {
        "a.md": ("The Lamp", "a.md"),
        "b.rst": ("Title", "b.rst"),
        "c.html": ("Ferry rules", "https://isles.example/ferry"),
        "d.docx": ("The bell", "d.docx"),
        "f.pdf": ("Boarding", "f.pdf"),
        "g.jsonl.gz:1": ("First", "u"),
        "g.jsonl.gz:2": ("g.jsonl", "g.jsonl.gz:2"),
        "h.json:1": ("h", "s"),
        "i.md": ("i", "i.md"),
        "sub/e.TXT": ("e", "sub/e.TXT"),
    }
    texts = {name: document.text for name, document in documents.items()}
    assert texts["b.rst"] == "# Title\n\nText."
    assert texts["c.html"] == AS_MARKDOWN
    assert texts["f.pdf"] == "Nobody may board."
    assert (texts["g.jsonl.gz:2"], texts["h.json:1"]) == ("Two.", "Three.")
    assert (texts["i.md"], texts["sub/e.TXT"]) == ("wide", "plain\ntext")


def test_docx_keeps_headings_lists_tables_and_notes(tmp_path):
    (tmp_path / "a.docx").write_bytes(docx())
    text = found(tmp_path)["a.docx"].text
    assert text == (
        "# The bell\n\n## When\n\nIt is rung **three** times. [1]\n\n- once\n- twice\n\n"
        "| Bell | Meaning |\n| --- | --- |\n| third | nobody may board |\n\n1. By the mate."
    )


def test_restructured_text_reads_as_sphinx_shows_it(tmp_path):
    put(
        tmp_path,
        {
            "manual/ferry.rst": RST,
            "fees.rst": "Harbour fees\n------------\n\nOne penny.",
            "z.rst": ".. _oil_label:\n\n.. a comment\n\nOil and wicks\n^^^^^^^^^^^^^\n\nText.",
        },
    )
    documents = found(tmp_path)
    assert documents["manual/ferry.rst"].text == RST_AS_MARKDOWN
    assert documents["manual/ferry.rst"].title == "Ferry rules"


def test_what_docutils_cannot_read_stays_as_text():
    broken = "Para\n\n+--+\n|a\n+--+\n\n.. figure::\n   :nope: 1\n\n   left over\n\nend `x"
    text = rendered(broken, lambda _: None).text
    assert text == "Para\n\n+--+ a +--+\n\n```\nleft over\n```\n\nend x"


def test_markdown_loses_front_matter_comments_and_pictures(tmp_path):
    front = "---\ntitle: 'The lamp'\nurl: https://isles.example/lamp\ntags: [a]\n---\n"
    pictures = "<!-- no -->\n[![Build](b.svg)](b) ![x](y.png)\n\n"
    body = f"{pictures}<p align='center'><b>It</b> burns.</p>\n\n```\n# code\n```\n"
    put(
        tmp_path,
        {
            "a.md": front + body + "\nSee ![this](a.png) and [that](b.md).",
            "b.md": "+++\ntitle = 'Fog'\n+++\ntext",
            "c.md": "---\nnot: [yaml\n---\ntext",
            "d.md": "```\n# code\n```\n\nReal *title*\n===\n\ntext",
        },
    )
    a, b, c, d = found(tmp_path).values()
    assert (a.title, a.source) == ("The lamp", "https://isles.example/lamp")
    assert a.text == "**It** burns.\n\n```\n# code\n```\n\nSee ![this](a.png) and [that](b.md)."
    assert (b.title, b.text) == ("Fog", "text")
    assert c.text == "---\nnot: [yaml\n---\ntext"
    assert d.title == "Real title"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<body><header>Shop</header><header><h1>T</h1></header><p>x</p></body>", "# T\n\nx"),
        ("<form><h1>T</h1><p>All of the page.</p><input><label>l</label></form>", "# T\n\nAll of the page."),
        ("<main></main><div class='sidebar'>s</div><p>x</p>", "x"),
        ("<main><article>one</article><article>two</article></main>", "one\n\ntwo"),
        (
            "<main><h1>T</h1><p>in short</p><article>All of the page.</article></main>",
            "# T\n\nin short\n\nAll of the page.",
        ),
        ("<div role=tabpanel>pip</div><div role=tabpanel hidden>conda</div><p hidden>no</p>", "pip\n\nconda"),
        (f"<table><tr><td class='linenos'>{PRE}</td><td class='code'>{PRE}</td></tr></table>", "```\nx\n```"),
    ],
)
def test_pages_of_other_shapes(tmp_path, html, text):
    (tmp_path / "a.html").write_text(html)
    assert found(tmp_path)["a.html"].text == text


def test_a_page_in_another_encoding_is_read_as_it_declares(tmp_path):
    (tmp_path / "a.html").write_bytes("<meta charset=windows-1252><p>caf\xe9 – x</p>".encode("cp1252"))
    assert found(tmp_path)["a.html"].text == "café – x"


def test_nested_lists_and_code_survive():
    assert to_markdown("<ul><li>a\n<ul><li>b</li></ul></li></ul>") == "- a\n  - b"
    assert to_markdown('<pre><code class="language-js">a  \n\n  b</code></pre>') == "```js\na\n\n  b\n```"


def test_pdf_pages_lose_page_numbers_running_lines_and_divided_words():
    bodies = ["The oars are num-", "bered by hand.", "Each has a\nnum-", "ber, and is", "again. Total 7"]
    pages = [f"Handbook of boats\n12 | Oars\n{text}\nPage {n + 3} of 9" for n, text in enumerate(bodies)]
    assert joined(pages) == (
        "Handbook of boats\n12 | Oars\nThe oars are num-\nbered by hand.\n\n"
        "Each has a\nnum-\nber, and is\nagain. Total 7"
    )
    assert joined(["The oars are num-\nbered.", "All oars\nare numbered. A co-\nox, a well-\nknown one"]) == (
        "The oars are numbered.\n\nAll oars\nare numbered. A co-\nox, a well-\nknown one"
    )
    assert joined(["He went", "home.", "Then"]) == "He went\nhome.\n\nThen"
    assert joined(["one", "one"]) == "one\none"


def test_an_api_is_described_field_by_field(tmp_path):
    api = {
        "user_name": "u",
        "api_name": "Ferry",
        "api_call": "sail()",
        "api_arguments": {"to": "x"},
        "functionality": "f",
    }
    (tmp_path / "a.json").write_text(json.dumps([api, {"text": "", "title": "empty"}]))
    (document,) = read_documents(tmp_path)
    assert (document.id, document.title) == ("a.json:1", "Ferry")
    assert document.text.endswith('- api_call: sail()\n- api_arguments: {"to":"x"}\n- functionality: f')


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"caf\xe9", "not UTF-8 at byte 3"),
        ("a.md", b"\0\0", "zero bytes"),
        ("a.pdf", b"%PDF-1.4 torn", "cannot be read"),
        ("b.pdf", b"no pdf", "cannot be read"),
        ("c.pdf", locked(pdf("secret")), "needs a password"),
        ("a.docx", b"\xd0\xcf\x11\xe0 old", "password, or is no DOCX"),
        ("b.docx", b"no zip", "cannot be read"),
        ("a.json", b'[{"titel": "x"}]', "json:1: no field holds a text"),
        ("b.json", b"[1]", "json:1: a record is an object"),
        ("a.jsonl", b'{"text": "a"}\n{"text"', "jsonl:2: not valid JSON"),
    ],
)
def test_what_cannot_be_read_is_an_error_or_left_out(tmp_path, capsys, name, content, words):
    put(tmp_path, {name: content, "z.txt": "fine"})
    with pytest.raises(InputError, match=words) as caught:
        list(read_documents(tmp_path))
    assert name in str(caught.value)
    left_out = LeftOut()
    assert "z.txt" in found(tmp_path, unreadable="skip", left_out=left_out)
    assert left_out.counts == {"unreadable": 1}
    assert f"1 left out (unreadable): {name}" in capsys.readouterr().err


def test_files_without_text_and_of_unknown_type_are_left_out_and_named(tmp_path, capsys):
    put(
        tmp_path,
        {"empty.md": " \n", "scan.pdf": pdf(""), "photo.png": b"\x89PNG", ".hidden.md": "no", MANIFEST: ""},
    )
    left_out = LeftOut()
    assert found(tmp_path, left_out=left_out) == {}
    assert left_out.counts == {"no_text": 2, "unknown_type": 1}
    said = capsys.readouterr().err
    assert "(no text): empty.md, scan.pdf" in said
    assert "(unknown type): photo.png" in said
    assert [path.name for path in list_files(tmp_path)[1]] == ["photo.png"]


def test_the_manifest_of_a_crawl_names_the_sources(tmp_path):
    put(
        tmp_path,
        {"a.md": "text", MANIFEST: '{"url": "https://isles.example/a", "file": "a.md"}\n{"url": "b"}\n'},
    )
    assert found(tmp_path)["a.md"].source == "https://isles.example/a"


def test_many_files_are_read_by_processes_in_the_same_order(tmp_path, monkeypatch):
    put(tmp_path, {f"{n:03}.rst": f".. _l{n}:\n\nTitle {n}\n========\n\n:ref:`l{n}`" for n in range(MANY)})
    monkeypatch.setattr("stillroom.sources.documents.available", lambda: 1)
    alone = list(read_documents(tmp_path))
    monkeypatch.setattr("stillroom.sources.documents.available", lambda: 2)
    assert list(read_documents(tmp_path)) == alone
    assert alone[7].text == "# Title 7\n\nTitle 7"


def test_an_absent_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list(read_documents(tmp_path / "docs"))


DATA = Path(__file__).resolve().parents[3] / "shared/data/docs/torchtune"


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")
def test_real_pages_lose_their_markup_and_none_of_their_words():
    for document in read_documents(DATA):
        prose = re.sub(r"(?ms)^ *(`{3,}).*?^ *\1$|`[^`]*`", "", document.text)
        assert not re.search(r"^\s*\.\. |:\w+:`|^\s*:[\w-]+: |System Message|\|\w+\|", prose, re.MULTILINE)
        source = (DATA / document.id).read_text()
        sentences = re.findall(r"^(?:[A-Z][a-z]+)(?: [A-Za-z,']+){4,}[.]$", source, re.MULTILINE)
        assert all(sentence in document.text for sentence in sentences)
        blocks = re.findall(r"^( *)\.\. code-block:: \w+\n\n((?:\1 +\S.*\n|\n)+)", source, re.MULTILINE)
        lines = [line.strip() for _, block in blocks for line in block.splitlines()]
        assert [line for line in lines if line not in document.text] == []
