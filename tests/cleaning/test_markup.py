import pytest

from stillroom.cleaning.markup import copy_code, html_to_markdown, page_residue

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
