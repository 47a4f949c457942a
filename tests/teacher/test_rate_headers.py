import datetime
import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.teacher.rate_headers import Allowance, allowance, asked_wait, resets_in, retry_after, seconds


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 86400 "}, 86_400),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7),
        ({"retry-after": "6m0s"}, 360),
        ({}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        (
            {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:26:30 GMT"},
            90,
        ),
    ],
)
def test_retry_after_in_all_its_spellings(headers, wait):
    assert retry_after(headers) == wait


def test_retry_after_as_a_date():
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after({"retry-after": date}) == pytest.approx(30, abs=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6m0s", 360),
        ("120ms", 0.12),
        ("1s", 1),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723),
        ("59", 59),
        ("1d", 86_400),
    ],
)
def test_resets_in_all_their_spellings(text, expected):
    assert resets_in({"x-ratelimit-reset-tokens": text}, "tokens") == pytest.approx(expected)


def test_what_is_used_up_is_waited_for_where_no_retry_after_says_how_long():
    used_up = {"x-ratelimit-limit-tokens": "60", "x-ratelimit-remaining-tokens": "0"}
    reset = {"x-ratelimit-reset-tokens": "6m0s"}
    others = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "9"}
    assert asked_wait({**others, "x-ratelimit-reset-requests": "9m", **used_up, **reset}) == 360
    assert asked_wait({**used_up, **reset, "retry-after": "2"}) == 2
    assert asked_wait(used_up) is None
    assert asked_wait({**used_up, **reset, "x-ratelimit-remaining-tokens": "9"}) is None
    assert asked_wait({}) is None
    unsaid = {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0"}
    assert asked_wait({**unsaid, "x-ratelimit-reset": "42"}) == 42
    assert asked_wait({**unsaid, "x-ratelimit-remaining": "3", "x-ratelimit-reset": "42"}) is None


def test_a_reset_may_be_a_moment():
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
    moment = soon.timestamp()
    for text in (soon.isoformat(), soon.strftime("%Y-%m-%dT%H:%M:%SZ"), str(moment), f"{1000 * moment:.0f}"):
        wait = resets_in({"anthropic-ratelimit-requests-reset": text}, "requests")
        assert wait == pytest.approx(60, abs=3)


@pytest.mark.parametrize(
    ("limit", "remaining", "expected"),
    [
        ("6000", "5999", Allowance(6000, 5999)),
        ("6000", "0", Allowance(6000, 0)),
        (None, "79", Allowance(None, 79)),
        (None, "0", None),
        ("-1", "-1", None),
        ("0", "0", None),
        ("", "", None),
        ("6000", "-1", None),
        ("6000", None, None),
        ("100, 100;window=60", "98", None),
    ],
)
def test_minus_one_nought_and_empty_mean_unknown(limit, remaining, expected):
    values = {"limit": limit, "remaining": remaining}
    given = {part: value for part, value in values.items() if value is not None}
    openai = {f"x-ratelimit-{part}-requests": value for part, value in given.items()}
    anthropic = {f"anthropic-ratelimit-requests-{part}": value for part, value in given.items()}
    assert allowance(openai, "requests") == allowance(anthropic, "requests") == expected
    assert allowance(openai, "tokens") is None


@given(st.text(max_size=12))
def test_no_text_is_an_error(text):
    wait = seconds(text)
    assert wait is None or wait >= 0
    assert retry_after({"retry-after": text, "date": text}) is None or wait is not None
    allowance({"x-ratelimit-limit-requests": text, "x-ratelimit-remaining-requests": text}, "requests")
