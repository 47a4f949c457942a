"""The page in a real browser, from disk: it is clicked through by a script that is added to a copy of it."""

import html
import json
import re
import shutil
import subprocess

import pytest

from stillroom.stages import report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=3000",
    "--dump-dom",
)

CLICKS = """
const seen = {errors: []};
const visible = () => [...document.querySelectorAll(".sample")].filter((s) => s.checkVisibility()).length;
const choose = (name, value) => {
  form.elements[name].value = value;
  form.dispatchEvent(new Event("input", {bubbles: true}));
  return visible();
};
const colour = () => getComputedStyle(document.body).backgroundColor;
seen.first = visible();
seen.all = choose("benchmark", "");
seen.mqa = choose("benchmark", "mqa");
seen.worse = choose("outcome", "tuned:worse");
seen.better = choose("outcome", "tuned:better");
seen.unscored = choose("outcome", "unscored");
choose("outcome", "");
seen.found = choose("find", "MARKET 3 held");
seen.count = document.getElementById("count").textContent;
choose("find", "");
const sample = document.querySelector('.set[data-benchmark="mqa"] .sample');
sample.querySelector("summary").click();
seen.opened = sample.open && sample.querySelector(".answers").checkVisibility();
seen.colours = [colour()];
dress.click();
seen.colours.push(colour());
dress.click();
seen.colours.push(colour());
seen.chart = document.querySelector("figure svg").getBoundingClientRect().width;
seen.overflow = document.documentElement.scrollWidth - innerWidth;
const focusable = [...document.querySelectorAll("a, button, select, input, summary, [tabindex]")];
seen.unreachable = focusable.filter((e) => e.tabIndex < 0).length;
const [left, right] = [...sample.querySelectorAll(".answers > div")].map((e) => e.getBoundingClientRect());
seen.beside = left.top === right.top && left.right <= right.left;
const summary = sample.querySelector("summary");
summary.focus();
seen.focus = document.activeElement === summary;
top.document.title = "seen " + JSON.stringify(seen);
"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"no browser is installed ({', '.join(BROWSERS)})")
    return found


def clicked(browser, folder, width):
    """What the script saw in a window of that width; in a frame where Chromium gives none so narrow."""
    page = report.Paths().page
    text = page.read_text().replace("</body>", f"<script>{CLICKS}</script></body>")
    copy = folder / "clicked.html"
    if width < 500:
        frame = f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{html.escape(text)}">'
        text = f"<!doctype html><title></title>{frame}</iframe>"
    copy.write_text(text)
    command = [
        browser,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={max(width, 500)},900",
        copy.as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    return json.loads(html.unescape(re.search(r"<title>seen (.*?)</title>", dom)[1]))


@pytest.mark.parametrize("width", [380, 800, 1400])
def test_page_can_be_clicked_through(reports, browser, tmp_path, width):
    report.run(report.Paths(), report.Params(samples=100))
    seen = clicked(browser, tmp_path, width)
    assert seen["first"] == 9
    assert seen["all"] == 9 + 12 + 73 + 20
    assert seen["mqa"] == 73
    assert 0 < seen["better"] < 73
    assert seen["worse"] < seen["better"]
    assert seen["unscored"] == 1
    assert (seen["found"], seen["count"]) == (3, "3 samples")
    assert seen["opened"]
    assert seen["colours"][0] == seen["colours"][2] != seen["colours"][1]
    assert seen["beside"] is (width >= 800)
    assert seen["focus"]
    assert seen["chart"] > 300
    assert seen["overflow"] <= 0
    assert seen["unreachable"] == 0
