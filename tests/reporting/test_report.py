"""The stage on a folder of reports: what the page and its tables hold, and what it does without them."""

import csv
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stillroom.artifacts import canonical_json, sha256, write_json, write_jsonl
from stillroom.errors import InputError, ParamsError
from stillroom.params import Endpoint, Price, Teacher
from stillroom.reporting import tables, twins
from stillroom.stages import report
from stillroom.teacher.cache import Cache, Row

EXAMINED = ("pg19", "booksum", "mqa", "raft")
README = Path(__file__).parents[2] / "README.md"


class Page(HTMLParser):
    """Tags, ids and addresses of a page; fails on a tag that is closed and was not open."""

    VOID = frozenset({"meta", "input", "br", "hr", "img", "link"})

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.loads = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag != "svg" and not set(self.open) & {"svg"}:
            self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if tag == "a" else []
        self.loads += [attrs[key] for key in ("src", "srcset", "data", "poster") if key in attrs]
        self.loads += [attrs["href"]] if tag == "link" else []

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def written(params=None):
    report.run(report.Paths(), params or report.Params())
    return report.Paths().page.read_text(), json.loads(report.Paths().results.read_text())


def test_page_is_whole_and_loads_nothing(reports):
    html, _ = written()
    page = Page(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.loads == []
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.search(r"url\(|@import|fetch\(|https?://(?!www\.w3\.org)", html)
    assert len(html) < 2_000_000


def test_figures_are_those_of_the_metrics(reports):
    html, results = written()
    for table in results["benchmarks"]:
        for row in table["rows"]:
            path = reports / f"metrics/evaluate/{row['model']}/{table['name']}.json"
            headline = json.loads(path.read_text())["headline"]
            assert {key: row[key] for key in headline} == headline
            assert f"{headline['value']:.3f}" in html
    assert results["models"] == ["base", "tuned"]


def test_comparisons_are_paired_and_adjusted(reports):
    _, results = written()
    rows = {row["benchmark"]: row for row in results["comparisons"]}
    assert list(rows) == list(EXAMINED)
    assert rows["pg19"]["verdict"] == rows["mqa"]["verdict"] == "better"
    assert rows["pg19"]["delta"] < 0 < rows["mqa"]["delta"]
    assert rows["booksum"]["verdict"] == "unresolved"
    assert rows["booksum"]["detectable"] is None
    assert rows["mqa"]["n"] == 72
    assert rows["raft"]["method"] == "McNemar exact"
    smallest = min(row["p"] for row in rows.values())
    assert min(row["p_holm"] for row in rows.values()) == pytest.approx(4 * smallest, abs=1e-5)


def test_parts_of_benchmarks_are_a_family_of_their_own():
    ps = {"mqa": 0.02, "raft": 0.03, "raft/plain_exact_match": 0.01, "pg19": None, "raft/retrieved": 0.04}
    rows = [{"benchmark": name, "p": p, "delta": 0.1, "better": "higher"} for name, p in ps.items()]
    found = {row["benchmark"]: row for row in tables.judged(rows)}
    assert {name: row.get("p_holm") for name, row in found.items()} == {
        "mqa": 0.04,
        "raft": 0.04,
        "raft/plain_exact_match": 0.02,
        "pg19": None,
        "raft/retrieved": 0.04,
    }
    assert [row["verdict"] for row in found.values()] == [*["better"] * 3, "unresolved", "better"]


def test_another_baseline_turns_the_sign(reports):
    _, results = written(report.Params(baseline="tuned"))
    rows = {row["benchmark"]: row for row in results["comparisons"]}
    assert rows["mqa"]["model"] == "base"
    assert rows["mqa"]["delta"] < 0
    assert rows["mqa"]["verdict"] == "worse"


def test_a_baseline_that_is_not_examined_is_refused(reports):
    with pytest.raises(ParamsError, match="'qwen'") as failure:
        written(report.Params(baseline="qwen"))
    assert "base, tuned" in failure.value.hint
    assert not report.Paths().page.exists()


def test_how_far_a_judge_agrees_with_itself_stands_beside_its_figure(reports):
    for model, found in (("base", {"judge_consistency": 0.514}), ("tuned", {"judge": {"consistency": None}})):
        path = reports / f"metrics/evaluate/{model}/raft.json"
        write_json(path, json.loads(path.read_text()) | found)
    html, _ = written()
    assert html.count("<small>judge consistent on 51 %</small>") == 1
    assert "| 20, judge consistent on 51 % |" in report.Paths().markdown.read_text()
    lines = csv.DictReader(report.Paths().table.open())
    assert [line["model"] for line in lines if line["judge_consistency"]] == ["base"]


def test_models_stand_in_the_recipes_order_behind_the_baseline(reports):
    recipe = Path("params.yaml")
    recipe.write_text(recipe.read_text().replace("[base, tuned]", "[tuned, base, qwen]"))
    assert written()[1]["models"] == ["base", "tuned", "qwen"]


def test_texts_are_escaped_and_cut(reports):
    html, _ = written(report.Params(characters=100))
    assert "&lt;b&gt;I &amp; you&lt;/b&gt; do not know." in html
    assert "<b>I & you" not in html
    assert re.search(r"⋯ [\d,]+ characters ⋯\n.*Summarize the chapter above", html, re.DOTALL)


def test_samples_are_few_and_the_same_for_every_model(reports):
    html, _ = written(report.Params(samples=5))
    assert html.count('<details class="sample"') == 5 * len(EXAMINED)
    assert "not asked" not in html
    assert "5 of 73" in html


def test_outcome_of_a_sample_is_by_the_headline(reports):
    html, _ = written(report.Params(samples=1000))
    right = {
        model: {
            row["id"]
            for row in map(json.loads, (reports / f"samples/{model}/mqa.jsonl").read_text().splitlines())
            if row["scores"].get("accuracy") == 1
        }
        for model in ("base", "tuned")
    }
    pattern = r'data-outcomes="tuned:(\w+) [^"]*">\s*<summary><code>(q[\d-]+)</code>'
    found = {id: outcome for outcome, id in re.findall(pattern, html)}
    assert len(found) == 73
    for id, outcome in found.items():
        gain = (id in right["tuned"]) - (id in right["base"])
        assert outcome == ("unscored" if id == "q99-50" else ("same", "better", "worse")[gain])


def test_what_one_model_did_not_score_is_found_and_said(reports):
    path = reports / "samples/tuned/raft.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    notes = {3: "no verdict: the judge said 'maybe' (stop)", 7: "no verdict: <i> (stop)", 9: "1,024 tokens"}
    for i, note in notes.items():
        rows[i] |= {"status": "failed", "note": note, "output": None, "scores": {}}
    write_jsonl(path, rows)
    html, results = written()
    assert [row for row in results["not_scored"] if row["benchmark"] == "raft"] == [
        {"benchmark": "raft", "model": "tuned", "status": "failed", "samples": n, "id": id, "note": notes[i]}
        for i, id, n in ((3, "raft-03", 2), (9, "raft-09", 1))
    ]
    assert "<b>2 failed</b>, such as <code>raft-03</code> <span>no verdict: the judge said" in html
    assert len(re.findall(r'data-outcomes="tuned:unscored unscored">\s*<summary><code>raft-', html)) == 3
    assert "on 17 of 20 samples</small>" in html
    assert html.count(" samples</small>") == 1
    assert ", on 17 of 20 |" in report.Paths().markdown.read_text()


def test_every_file_is_named_with_its_hash(reports):
    names = sorted(p for p in reports.rglob("*") if p.is_file())
    _, results = written()
    assert results["files"] == {f"reports/{p.relative_to(reports)}": sha256(p) for p in names}


def test_what_figures_were_made_of(reports):
    html, results = written()
    made = results["provenance"]
    assert set(made) == {f"{m}/{b}" for m in ("base", "tuned") for b in EXAMINED}
    label = json.loads((reports / "samples/tuned/mqa.label.json").read_text())
    assert {key: made["tuned/mqa"][key] for key in label} == label
    assert made["base/mqa"]["prompts"] == made["tuned/mqa"]["prompts"]
    assert made["base/mqa"]["params"] == sha256(canonical_json(label["settings"]))
    assert made["base/mqa"]["seed"] == 42
    assert "differs</small>" not in html
    assert "which adapts" not in html
    assert 'libraries</th><td colspan="2">torch 2.13.0, peft 0.21.2</td>' in html
    label["base_model"] = "a" * 64
    label["settings"]["max_tokens"] = 7
    (reports / "samples/tuned/mqa.label.json").write_text(json.dumps(label))
    html, _ = written()
    assert re.findall(r'scope="row">([\w’ ]+) <small class="warn">differs', html) == ["params"]
    assert re.search(r'which adapts</th><td>–</td><td><code title="a{64}">', html)
    samples = reports / "samples/tuned/mqa.jsonl"
    samples.write_text(samples.read_text().replace("When is market 3 held?", "When?"))
    html, _ = written()
    assert re.findall(r'scope="row">([\w’ ]+) <small class="warn">differs', html) == ["prompts", "params"]


def test_what_a_judge_said_and_what_it_cost(reports, monkeypatch, tmp_path):
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    asked = {"teacher": "gpt", "body": {"model": "gpt-4"}}
    rows = [
        Row(sha256(text), text, said, "stop", 1000, 1)
        for i, said in enumerate(("YES", "<b>NO</b>"))
        for text in [canonical_json({**asked, "n": i}).decode()]
    ]
    folder = reports / "samples/tuned/raft"
    write_jsonl(folder / "judge-requests.jsonl", [{"id": "raft-03", "keys": [row.key for row in rows]}])
    with Cache() as cache:
        for row in rows:
            cache.store(row)
        cache.export([row.key for row in rows], folder / "judge-answers.parquet")
    html, results = written(report.Params(samples=1000))
    assert html.count("<b>YES</b>") == 1
    assert "&lt;b&gt;NO" in html
    row = {"for": "tuned/raft", "who": "judge", "model": "gpt-4", "answers": 2, "prompt_tokens": 2000}
    assert results["spending"][1:] == [{**row, "completion_tokens": 2, "cost": None}]
    assert {
        f"reports/samples/tuned/raft/judge-{name}" for name in ("answers.parquet", "requests.jsonl")
    } <= set(results["files"])
    prices = {"gpt-4": Price(prompt=10.0, completion=30.0)}
    html, results = written(report.Params(endpoint=Endpoint(prices=prices)))
    assert results["spending"][1]["cost"] == pytest.approx(0.0201)
    assert "2 answers, 0.020" in html


def outs(reports):
    """Everything that the stage writes."""
    files = [p for name in ("index.html", "results.*", "curves/*") for p in sorted(reports.glob(name))]
    return {p.relative_to(reports): p.read_bytes() for p in files}


def test_the_same_bytes_again_in_another_process(reports):
    written()
    first = outs(reports)
    command = "from stillroom.stages import report as r; r.run(r.Paths(), r.Params())"
    subprocess.run(
        [sys.executable, "-c", command], check=True, env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    )
    assert outs(reports) == first


def test_what_a_former_recipe_left_is_not_shown(reports):
    recipe = Path("params.yaml").read_text()
    Path("params.yaml").write_text(recipe.replace("[base, tuned]", "[base]").replace(", raft", ""))
    html, results = written()
    assert results["models"] == ["base"]
    assert [table["name"] for table in results["benchmarks"]] == list(EXAMINED[:-1])
    assert not re.search(r"tuned/|/raft", " ".join(results["files"]))
    assert "tuned" not in html


def test_the_twins_hold_the_same_figures(reports):
    _, results = written()
    found = {(row["benchmark"], row["model"]): row for row in csv.DictReader(report.Paths().table.open())}
    assert len(found) == 2 * len(EXAMINED)
    text = report.Paths().markdown.read_text()
    for table in results["benchmarks"]:
        for row in table["rows"]:
            line = found[table["name"], row["model"]]
            assert float(line["value"]) == row["value"]
            assert int(line["n"]) == row["n"]
            assert f"| {row['model']} | {row['value']:.3f} |" in text
    for row in results["comparisons"]:
        line = found[row["benchmark"], row["model"]]
        assert (line["compared_verdict"], float(line["compared_p_holm"])) == (row["verdict"], row["p_holm"])
        assert f"{row['verdict']}, p " in text
    lines = text.splitlines()
    widths = {
        len(re.findall(r"(?<!\\)\|", line)) for line in lines[lines.index("<!-- results -->") + 2 :][:3]
    }
    assert widths == {8}


def test_what_the_answers_cost(reports):
    teacher = Teacher(model="teacher-7b")
    html, results = written(report.Params(teacher=teacher))
    assert results["spending"] == [
        {
            "for": "distill",
            "who": "teacher",
            "model": "teacher-7b",
            "answers": 183,
            "prompt_tokens": 24_000,
            "completion_tokens": 8_000,
            "cost": None,
            "cost_per_1000_answers": None,
            "cache_share": 0.25,
        }
    ]
    assert "no price in endpoint.prices" in html
    price = {"teacher-7b": Price(prompt=0.5, completion=2.0)}

    def spent(**settings):
        return written(report.Params(teacher=teacher, **settings))[1]["spending"][0]

    online = spent(endpoint=Endpoint(prices=price))
    assert online["cost"] == 0.028
    assert online["cost_per_1000_answers"] == round(28 / 244, 4)
    assert spent(endpoint=Endpoint(prices=price, backend="batch"))["cost"] == 0.014
    assert written()[1]["spending"][0]["cost"] == 0  # the embedded teacher's


def test_curves_stand_alone(reports):
    _, results = written()
    names = {f"{c['benchmark']}-{c['name']}" for c in results["curves"]}
    assert {p.stem for p in (reports / "curves").glob("*.svg")} == {*names, "training"}
    for path in (reports / "curves").glob("*.svg"):
        text = path.read_text()
        ElementTree.fromstring(text)
        assert "var(--" not in text
    points = list(csv.DictReader((reports / "curves/pg19-length.csv").open()))
    assert [(p["model"], p["x"]) for p in points[:3]] == [("base", "128"), ("base", "256"), ("base", "512")]


def test_results_are_put_between_a_pages_marks(reports, tmp_path):
    written()
    page = tmp_path / "README.md"
    page.write_text(f"# mine\n\n{twins.BEGIN}\nold\n{twins.END}\n\nrest\n")
    assert twins.put_into(page, report.Paths().markdown)
    assert page.read_text().startswith(f"# mine\n\n{twins.BEGIN}\n\n| benchmark |")
    assert page.read_text().endswith(f"{twins.END}\n\nrest\n")
    assert not twins.put_into(page, report.Paths().markdown)
    page.write_text("# mine\n")
    with pytest.raises(InputError, match=r"README\.md"):
        twins.put_into(page, report.Paths().markdown)


def test_the_readme_has_a_place_for_the_results(reports, tmp_path):
    text = README.read_text()
    page = tmp_path / "README.md"
    page.write_text(text)
    written()
    assert twins.put_into(page, report.Paths().markdown)
    once = page.read_text()
    assert not twins.put_into(page, report.Paths().markdown)
    assert page.read_text() == once

    def around(page):
        return page.split(twins.BEGIN)[0], page.split(twins.END)[1]

    assert around(once) == around(text)
    assert text.count(twins.BEGIN) == text.count(twins.END) == 1


def test_a_skipped_sample_says_why(reports):
    html, _ = written(report.Params(samples=1000))
    assert "skipped: over-length: 1,900 prompt tokens" in html
    assert "1 skipped" in html


@pytest.mark.parametrize(
    "absent",
    [
        "metrics/evaluate",
        "metrics/evaluate/tuned",
        "metrics/extract.json",
        "figures",
        "samples/extract-dropped.jsonl",
    ],
)
def test_optional_parts_may_be_absent(reports, absent):
    path = reports / absent
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert Page(written()[0]).open == []


def test_a_benchmark_without_data_says_so(reports):
    for model in ("base", "tuned"):
        (reports / f"samples/{model}/raft.jsonl").write_text("")
        empty = {"headline": {}, "n": 0, "failed": 0, "skipped": 0, "cut": 0, "curves": {}}
        (reports / f"metrics/evaluate/{model}/raft.json").write_text(json.dumps(empty))
    html, results = written()
    assert "no data" in html
    assert "(no data)" in report.Paths().markdown.read_text()
    assert "raft" not in [row["benchmark"] for row in results["comparisons"]]


def test_parts_of_a_benchmark_have_rows_of_their_own(reports, write_item):
    recipe = Path("params.yaml")
    recipe.write_text(recipe.read_text().replace("raft", "leaderboard"))
    for model, quality in (("base", 0.3), ("tuned", 0.9)):
        write_item(reports, model, "leaderboard", quality)
    html, results = written()
    assert [table["title"] for table in results["benchmarks"][3:]] == [
        "Open LLM Leaderboard v1",
        "ARC challenge",
        "GSM8K",
    ]
    verdicts = {row["benchmark"]: row["verdict"] for row in results["comparisons"]}
    assert verdicts["leaderboard/gsm8k"] == verdicts["leaderboard"] == "better"
    skipped = re.findall(r'<td data-label="samples">.*1 skipped', html)
    assert len(skipped) == 4  # of MQA and of the whole, for both models; not of a part
    assert "tuned is better than base on <strong>3</strong> of 4 benchmarks" in html
    assert "| GSM8K (exact_match, 5-shot, higher is better) | base |" in report.Paths().markdown.read_text()


def test_what_was_not_examined_says_so(reports):
    (reports / "metrics/evaluate/base/mqa.json").unlink()
    for model in ("base", "tuned"):
        (reports / f"metrics/evaluate/{model}/raft.json").unlink()
    html, results = written()
    assert [table["name"] for table in results["benchmarks"]] == list(EXAMINED)
    assert html.count("not examined") == 1
    assert [table["measure"] is None for table in results["benchmarks"]] == [False, False, False, True]
    text = report.Paths().markdown.read_text()
    assert "| Multi-document QA (accuracy, higher is better) | base | – |  | not examined |  |  |" in text


def test_samples_that_failed_were_skipped_or_cut_stand_in_their_cell(reports):
    path = reports / "metrics/evaluate/tuned/mqa.json"
    figures = json.loads(path.read_text())
    path.write_text(json.dumps(figures | {"failed": 5, "skipped": 2, "cut": 1}))
    html, _ = written()
    for words in ("5 failed", "2 skipped", "<small>1 cut"):
        assert words in html
    assert "5 failed, 2 skipped, 1 cut" in report.Paths().markdown.read_text()


@pytest.mark.parametrize(
    ("file", "content", "where"),
    [
        ("samples/tuned/mqa.jsonl", '{"id": "a"}\n', "mqa.jsonl:1"),
        ("metrics/mix.json", "[1]", "mix.json"),
        ("figures/train.csv", "step,loss\n1,high\n", "train.csv"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(reports, file, content, where):
    (reports / file).write_text(content)
    with pytest.raises(InputError) as failure:
        written()
    assert where in str(failure.value)
    assert not report.Paths().page.exists()
    assert not report.Paths().results.exists()
