"""DOCX as Markdown: headings, lists, tables and notes, by mammoth."""

from __future__ import annotations

from pathlib import Path

from stillroom.errors import InputError
from stillroom.sources.documents.document import Found
from stillroom.sources.documents.to_markdown import to_markdown

STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"
OLD = b"\xd0\xcf\x11\xe0"
"""how Word's old format begins, and any file of Office with a password"""


def read(path: Path) -> list[Found]:
    """The file. Raises InputError where it needs a password; mammoth raises anything at a torn one."""
    import mammoth
    from bs4 import BeautifulSoup

    with path.open("rb") as file:
        if file.read(4) == OLD:
            hint = "save it as DOCX without a password"
            raise InputError("the file needs a password, or is no DOCX", where=str(path), hint=hint)
        file.seek(0)
        pictures = mammoth.images.img_element(lambda _: {})
        page = mammoth.convert_to_html(file, style_map=STYLES, convert_image=pictures)
    tree = BeautifulSoup(page.value, "html.parser")
    for arrow in tree.select("a[href^='#footnote-ref'], a[href^='#endnote-ref']"):
        arrow.decompose()
    title = tree.find("h1")
    return [Found(to_markdown(tree), " ".join(title.get_text().split()) if title else "")]
