"""Tables ──▶ figures as SVG, drawn by Vega-Lite at build time: the page needs no script for them.

Colours are the page's CSS variables, so that figures follow its light and dark dress. Sizes are fixed rather
than measured, so that the fonts of the machine that builds the page leave no trace in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import escape

import vl_convert

WIDTH, HEIGHT = 340, 200
PADDING = {"left": 52, "right": 14, "top": 12, "bottom": 46}
POINTS = 400
"""most points of a training curve"""
COLOURS = 6
"""of models, --m0 … in the style sheet; further models take them again"""

LIGHT = {
    "paper": "#fbf9f5", "ink": "#26221d", "quiet": "#6d655b", "line": "#e3ddd2",
    "m0": "#80776a", "m1": "#7b2d56", "m2": "#2d6a6e", "m3": "#a86a12", "m4": "#3f5a96", "m5": "#5e7a34",
}  # fmt: skip
"""the style sheet's light colours, for figures outside the page"""

Spec = dict[str, Any]


def curve(found: dict[str, Any], models: Sequence[str]) -> str:
    """A benchmark's curve: a line per model, with 95 % intervals."""
    y = {"field": "value", "type": "quantitative", "title": found["y_title"], "scale": {"zero": False}}
    x = {
        "field": "x",
        "type": "ordinal",
        "title": found["x_title"],
        "axis": {"format": ",d", "labelAngle": 0},
        "scale": {"type": "point", "padding": 0.5},
    }
    colour = {
        "field": "model",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(models), "range": colours(len(models))},
    }
    bounds = [row for row in found["points"] if row["low"] is not None]
    layers: list[Spec] = [
        {
            "data": {"values": bounds},
            "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.55},
            "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}},
        },
        {"mark": {"type": "line", "strokeWidth": 1.75}, "encoding": {"y": y}},
        {"mark": {"type": "point", "filled": True, "size": 44, "opacity": 1}, "encoding": {"y": y}},
    ]
    offset = {"field": "model", "scale": {"domain": list(models), "range": offsets(len(models))}}
    shared = {"x": x, "xOffset": offset, "color": colour}
    return svg({"data": {"values": found["points"]}, "encoding": shared, "layer": layers})


def training(rows: Sequence[dict[str, float]]) -> str:
    """Training loss as a line, validation loss as points on a line, against the step."""
    step = {
        "field": "step",
        "type": "quantitative",
        "title": "step",
        "axis": {"format": ",d", "tickCount": 6},
    }
    loss = {"type": "quantitative", "title": "loss, nats per token", "scale": {"zero": False}}
    layers: list[Spec] = []
    for field, colour, point in (
        ("loss", "var(--m0)", None),
        ("validation_loss", "var(--m1)", {"filled": True, "size": 44, "color": "var(--m1)"}),
    ):
        values = thinned([{"step": r["step"], field: r[field]} for r in rows if field in r and "step" in r])
        mark = {"type": "line", "strokeWidth": 1.75, "color": colour, "point": point}
        encoding = {"x": step, "y": {**loss, "field": field}}
        layers.append({"data": {"values": values}, "mark": mark, "encoding": encoding})
    return svg({"layer": layers})


def alone(drawn: str, title: str, legend: Sequence[str]) -> str:
    """A figure that stands outside the page: light colours instead of its variables, a title and a legend."""
    for name, colour in LIGHT.items():
        drawn = drawn.replace(f"var(--{name})", colour)
    marks = []
    for i, name in enumerate(legend):
        at = PADDING["left"] + 110 * i
        colour = LIGHT[f"m{i % COLOURS}"]
        marks.append(f'<circle cx="{at + 4}" cy="-8" r="4" fill="{colour}"/>')
        marks.append(
            f'<text x="{at + 13}" y="-4" font-size="11" fill="{LIGHT["quiet"]}">{escape(name)}</text>'
        )
    width = WIDTH + PADDING["left"] + PADDING["right"]
    height = HEIGHT + PADDING["top"] + PADDING["bottom"]
    head = f'<text x="{PADDING["left"]}" y="-24" font-size="14" fill="{LIGHT["ink"]}">{escape(title)}</text>'
    box = f'viewBox="0 0 {width} {height}"'
    assert box in drawn
    top = 48
    drawn = drawn.replace(box, f'viewBox="0 -{top} {width} {height + top}" font-family="sans-serif"', 1)
    paper = f'<rect y="-{top}" width="{width}" height="{height + top}" fill="{LIGHT["paper"]}"/>'
    start = drawn.index(">") + 1
    return f"{drawn[:start]}{paper}{head}{''.join(marks)}{drawn[start:]}\n"


def colours(count: int) -> list[str]:
    """A colour variable per model."""
    return [f"var(--m{i % COLOURS})" for i in range(count)]


def offsets(count: int) -> list[int]:
    """Pixels by which models stand apart at one x, so that their intervals do not cover each other."""
    return [5 * i - round(2.5 * (count - 1)) for i in range(count)]


def thinned(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """At most POINTS of the rows, evenly, the last one among them."""
    stride = max(1, -(-len(rows) // POINTS))
    return list(rows[::-1][::stride][::-1])


def svg(spec: Spec) -> str:
    """Draw a specification; the element scales with its column."""
    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": WIDTH,
        "height": HEIGHT,
        "padding": PADDING,
        "autosize": {"type": "none"},
        "config": CONFIG,
        **spec,
    }
    return _drawn(json.dumps(whole))


@lru_cache
def _drawn(spec: str) -> str:
    """The page and its twins show the same figures: each is drawn once."""
    drawn: str = vl_convert.vegalite_to_svg(spec)
    return re.sub(r' width="\d+" height="\d+"', "", drawn, count=1)


_AXIS = {
    "domain": False,
    "ticks": False,
    "grid": False,
    "labelColor": "var(--quiet)",
    "labelFontSize": 11,
    "labelPadding": 7,
    "labelOverlap": False,
    "titleColor": "var(--quiet)",
    "titleFontSize": 11,
    "titleFontWeight": "normal",
    "minExtent": 30,
    "maxExtent": 30,
}
CONFIG: Spec = {
    "background": "transparent",
    "view": {"stroke": None},
    "axis": _AXIS,
    "axisY": {"grid": True, "gridColor": "var(--line)", "tickCount": 5, "minExtent": 36, "maxExtent": 36},
    "axisX": {"domain": True, "domainColor": "var(--line)", "minExtent": 20, "maxExtent": 20},
}
