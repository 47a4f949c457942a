import json
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from stillroom.cleaning.markup import copy_code, html_to_markdown, page_residue

REAL = Path(__file__).parents[2] / "../shared/data"
RENDERER = MarkdownIt("commonmark").enable("table")

SHAREGPT_BLOCK = (
    '<div class="markdown prose"><p>Use this:</p><pre><div class="bg-black"><div><span>python</span>'
    '<button><svg viewBox="0 0 24 24"><path d="M1"></path></svg>Copy code</button></div><div>'
    '<code class="!whitespace-pre hljs language-python">def f(x):\n    return x &lt; 2 and "<b>"\n</code>'
    "</div></div></pre></div>"
)


def test_a_code_block_of_the_web_page_becomes_a_fence_with_its_language():
    want = 'Use this:\n\n```python\ndef f(x):\n    return x < 2 and ""\n```'
    found = html_to_markdown(SHAREGPT_BLOCK.replace('"<b>"', '""'))
    assert found == want


def structure(page):
    """Tags and words of a page, without the paragraphs; of code also the white space inside."""
    parts = []
    for element in BeautifulSoup(page, "html.parser").descendants:
        if element.name:
            language = (element.get("class") or [""])[0]
            parts += [f"<{element.name} {language}>"] * (element.name not in ("p", "thead", "tbody"))
        elif element.find_parent("pre"):
            parts.append(element.strip("\n"))
        else:
            parts += element.split()
    return parts


word = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
words = st.lists(word, min_size=1, max_size=5).map(" ".join)
link = word.map("[{0}](https://{0}.org)".format)
inline = st.one_of(words, word.map("**{}**".format), word.map("`{} < 1`".format), link)
line = st.lists(inline, min_size=1, max_size=4).map(" ".join)
lines = st.lists(line, min_size=1, max_size=4)
CODE = ["x = 1", "", "    y < 2 && z", "# no heading", "| a | b |", "<b>&amp;"]
code = st.lists(st.sampled_from(CODE), min_size=1).map("\n".join)
block = st.one_of(
    line,
    line.map("## {}".format),
    line.map("> {}".format),
    st.tuples(st.sampled_from(["", "python", "c++"]), code).map("```{0[0]}\n{0[1]}\n```".format),
    lines.map(lambda items: "\n".join(f"- {item}" for item in items)),
    lines.map(lambda items: "\n\n".join(f"1. {item}" for item in items)),
    st.tuples(line, line).map("- {0[0]}\n  - {0[1]}\n- end".format),
    st.tuples(words, words).map("| a | b |\n| --- | --- |\n| {0[0]} | {0[1]} |\n| `x` |  |".format),
)


@settings(max_examples=60)
@given(st.lists(block, min_size=1, max_size=5))
def test_rendering_the_markdown_gives_the_page_back(blocks):
    page = "<p>then</p>".join(map(RENDERER.render, blocks))
    assert structure(RENDERER.render(html_to_markdown(page))) == structure(page)


@pytest.mark.real_data
def test_real_answers_survive_the_way_to_html_and_back():
    if not REAL.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    trees = (REAL / "oasst/en_100_tree.jsonl").read_text().splitlines()
    answers = [reply["text"] for tree in trees for reply in json.loads(tree)["prompt"]["replies"]]
    plain = [text for text in answers if not re.search(r"<\w|^\s*#|[\\_*]", text, re.MULTILINE)]
    pages = list(map(RENDERER.render, plain))
    lost = [p for p in pages if structure(RENDERER.render(html_to_markdown(p))) != structure(p)]
    assert len(pages) > 100
    assert lost == []


@pytest.mark.parametrize(
    ("page", "want"),
    [
        (
            "<pre>a <b>plain</b></pre><p>x</p><pre><code>y</code></pre>",
            "```\na plain\n```\n\nx\n\n```\ny\n```",
        ),
        ('<pre class="language-js"><code>y</code></pre>', "```js\ny\n```"),
        ('<pre><code class="lang-c">y</code></pre><p>x</p>', "```c\ny\n```\n\nx"),
        ("<p>a</p><script>no()</script><style>p{}</style><p>b</p>", "a\n\nb"),
        ("<pre><code>a</code>", "```\na\n```"),
        ("<pre>" * 20_000 + "</p>", ""),
    ],
)
def test_blocks_beside_each_other_are_not_mixed_up(page, want):
    assert html_to_markdown(page + "<br>") == want


def test_blank_lines_of_a_code_block_survive():
    assert html_to_markdown("<pre><code>a\n\n\n\nb\n</code></pre>") == "```\na\n\n\n\nb\n```"


def test_items_of_one_paragraph_stand_without_blank_lines():
    page = "<ol><li><p>one</p></li><li><p>two</p><ul><li><p>x</p></li></ul></li></ol>"
    assert html_to_markdown(page) == "1. one\n2. two\n   - x"


def test_a_table_survives():
    table = "<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>x_y*z</td></tr></table>"
    rows = [
        [cell.strip() for cell in row.strip("| ").split("|")] for row in html_to_markdown(table).splitlines()
    ]
    assert rows == [["A", "B"], ["---", "---"], ["1", "x_y*z"]]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("<p>Why is <b>this</b> so?</p>", "Why is **this** so?"),
        ("<ul><li>a</li><li>b</li></ul>", "- a\n- b"),
        ("<p>one</p><p>two<br>three</p>", "one\n\ntwo  \nthree"),
        ("In C++, is `0 &lt; x &amp;&amp; x` fine?", "In C++, is `0 < x && x` fine?"),
    ],
)
def test_html_becomes_markdown(text, want):
    assert html_to_markdown(text) == want


@pytest.mark.parametrize(
    "text",
    [
        "How do I center a <div>?",
        "Why does <b>x</b> not show in bold, and <i>y</i> does?",
        "Fix this:\n```html\n<p>Hello</p>\n```",
        "<!DOCTYPE html><html><body><p>Fix my page</p></body></html>",
        "Is a < b and b > c here?",
        "How do I write &amp; in HTML? And &lt;?",
        "AT&amp;T is a company",
        "x <- c(1, 2); y -> z",
        "std::vector<int> v; std::map<int, std::string> m;",
        "",
    ],
)
def test_what_is_not_html_as_a_whole_stays(text):
    assert html_to_markdown(text) == text


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("```\npythonCopy codex = 1\n```", "```python\nx = 1\n```"),
        ("```bash\nCopy code\nls\n```", "```bash\nls\n```"),
        ("```python Copy code\nx = 1\n```", "```python\nx = 1\n```"),
        ("```pythonCopy code\nx = 1\n```", "```python\nx = 1\n```"),
        ("See:\nsqlCopy code\nSELECT 1;", "See:\nSELECT 1;"),
        ("Copy code from one file to another", "Copy code from one file to another"),
        ("```\nCopy code from a.txt\n```", "```\nCopy code from a.txt\n```"),
        ("How does the button Copy code work?", "How does the button Copy code work?"),
    ],
)
def test_copy_code_goes_only_where_it_is_the_button(text, want):
    assert copy_code(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("2 / 3Explain nouns", "Explain nouns"),
        ("3 / 3\nWhat now?", "What now?"),
        ("What now?\n\n1 / 2", "What now?"),
        ("2 / 2\nA\n1 / 2\nB", "A\n1 / 2\nB"),
        ("2 / 2", ""),
    ],
)
def test_page_numbers_at_a_border_go(text, want):
    assert page_residue(text, whole=True) == want


@pytest.mark.parametrize(
    "text",
    [
        "1 / 12 cup of sugar",
        "1 / 12 cup\nof sugar",
        "I ate 3 / 8 and you 1 / 4",
        "Which is larger, 2 / 3 or 3 / 4",
        "1 / 2kg of flour",
        "5 / 3\nis improper",
        "1 / 1\nis one",
        "0 / 5\nare left",
        "On 3 / 12 / 2024\nwe met",
        "a\n2/3",
    ],
)
def test_fractions_stay(text):
    assert page_residue(text, whole=True) == text


def test_an_answer_that_is_a_fraction_stays():
    assert page_residue("2 / 3", whole=False) == "2 / 3"


prose = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="&"), max_size=60)


@given(prose, prose)
def test_prose_around_a_users_own_html_is_unchanged(before, after):
    for text in (f"Why {before}", f"Why {before} <b>x</b> {after}?", f"Is {before} a <div> or {after}"):
        assert html_to_markdown(text) == text


@given(prose, prose)
def test_text_without_the_button_or_a_page_number_is_unchanged(before, after):
    recipe, question = f"Add {before} 1 / 2 cup {after}.", f"Use the button Copy code {before}"
    assert page_residue(recipe, whole=True) == recipe
    assert copy_code(question) == question


@given(st.text(st.sampled_from('<>/pb divul&;= "x\n'), max_size=80))
def test_no_tag_soup_breaks_the_conversion(soup):
    assert isinstance(html_to_markdown(f"<div>{soup}</div>"), str)
