import orjson
import pytest

from stillroom.teacher.requests import Query, answered

QUERY = Query("0" * 64, "{}", {"messages": []})
USAGE = b'"usage": {"prompt_tokens": 3, "completion_tokens": 2}'


def row(message, usage=USAGE):
    choice = b'{"index": 0, "finish_reason": "stop", "message": %b}' % message
    return answered(QUERY, b'{"choices": [%b], %b}' % (choice, usage), {}, endpoint="http://localhost/v1")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b'{"content": "fine"}', "fine"),
        (b'{"content": null}', ""),
        (b'{"content": null, "refusal": "no"}', "no"),
        (b'{"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "fine"}]}', "fine"),
        (b'{"content": "half a \\ud83d"}', "half a \ufffd"),
        (b'{"content": "\\ud83d\\ude00 \\\\ud83d \\ud83d"}', "\U0001f600 \\ud83d \ufffd"),
        (b'{"content": "caf\xe9, \\ud83d\\ude00"}', "caf\ufffd, \U0001f600"),
    ],
)
def test_whatever_was_paid_for_is_kept(message, text):
    found = row(message)
    assert (found.text, found.prompt_tokens, found.completion_tokens) == (text, 3, 2)
    assert "content" not in orjson.loads(found.response)["choices"][0]["message"]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (b'"usage": null', (0, 0)),
        (b'"usage": {}', (0, 0)),
        (b'"usage": {"prompt_tokens": "3", "completion_tokens": null}', (3, 0)),
    ],
)
def test_tokens_that_nobody_counted_are_none(usage, tokens):
    found = row(b'{"content": "fine"}', usage)
    assert (found.prompt_tokens, found.completion_tokens) == tokens


@pytest.mark.parametrize(
    "message", [b"{}", b'{"content": 7}', b'{"content": [7]}', b'"fine"', b'{"content": "']
)
def test_what_is_no_completion_is_refused(message):
    with pytest.raises(ValueError, match="not an OpenAI-style answer"):
        row(message)
