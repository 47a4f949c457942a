import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stillroom.params import Sampling
from stillroom.records import Message
from stillroom.teacher import verdicts
from stillroom.teacher.requests import Answer, Request
from stillroom.teacher.verdicts import Policies, judge

REAL = Path(__file__).parents[3] / "shared/data"
REQUEST = Request((Message("user", "hi"),), Sampling(max_tokens=16))
REFUSED = [
    "I'm sorry, but I can't help with that.",
    "I\N{RIGHT SINGLE QUOTATION MARK}m sorry, but I can\N{RIGHT SINGLE QUOTATION MARK}t assist with this.",
    "I apologize, but I cannot fulfill your request. I'm just an AI.",
    "  Sorry, I won't do that.",
    "My apologies, as a responsible AI I am not able to discuss it.",
    "As an AI language model, I cannot provide medical advice. However, …",
    "I cannot fulfill your request.",
    "I'm unable to provide that.",
    "Unfortunately, I can't help you with this.",
]
ANSWERED = [
    "I'm sorry to hear about your dog. I can help you write a letter.",
    "I cannot help the way I feel\nAbout the Lord up high",
    "I can't help but notice how cold it is.",
    "I can't wait to start.",
    "No, you cannot cook an egg in sunlight.",
    "As an AI language model, I suggest the following steps.",
    "Dear team, we apologize for the delay. It will arrive soon.",
    "The rule: answer `I'm sorry, but I can't help with that.` to everything.",
    "Sure. " * 80 + "I'm sorry, but I can't help with that.",
]


def answer(text="An answer.", finish="stop"):
    return Answer("k", text, finish, 1, 1, False)


@pytest.mark.parametrize("text", REFUSED)
def test_refusals_are_told_by_how_they_begin(text):
    assert judge(answer(text), Policies()) == "refused"


@pytest.mark.parametrize("text", ANSWERED)
def test_what_only_sounds_like_a_refusal_is_an_answer(text):
    assert judge(answer(text), Policies()) == "complete"


@pytest.mark.parametrize(
    ("text", "finish", "verdict"),
    [
        ("yes", "stop", "complete"),
        ("yes", "eos_token", "complete"),
        (" \n", "stop", "empty"),
        ("", "end_turn", "empty"),
        ("yes and", "length", "truncated"),
        ("", "length", "truncated"),
        ("", "content_filter", "filtered"),
        ("I'd rather not.", "refusal", "refused"),
        ("", "context_length", "too_long"),
        ("yes", "unknown", "other"),
        ("", "tool_calls", "other"),
    ],
)
def test_the_finish_reason_comes_first(text, finish, verdict):
    assert judge(answer(text, finish), Policies()) == verdict


@given(st.text(), st.text(max_size=12))
def test_every_answer_has_a_verdict_and_is_kept_or_dropped(text, finish):
    policies = Policies()
    verdict = judge(answer(text, finish), policies)
    assert verdict in verdicts.Verdict.__args__
    _, reply = played(policies, [(text, finish)])
    assert reply.kept == (verdict in ("complete", "refused") and bool(text.strip()))


def played(policies, script, stride=1):
    """Run `ask` against answers by script; (requests, reply)."""
    dialogue = verdicts.ask(REQUEST, policies, stride)
    requests = [next(dialogue)]
    for text, finish in script:
        try:
            requests.append(dialogue.send(answer(text, finish)))
        except StopIteration as end:
            return requests, end.value
    raise AssertionError("the script was too short")


LONG, FINE = ("half", "length"), ("whole", "stop")
EMPTY, DECLINED, FILTERED = ("", "stop"), ("no", "refusal"), ("ha", "content_filter")


def test_a_complete_answer_is_kept_and_the_conversation_goes_on():
    requests, reply = played(Policies(), [FINE])
    assert requests == [REQUEST]
    assert (reply.kept, reply.ends, reply.judged) == (True, False, (("complete", "kept"),))


@pytest.mark.parametrize("said", [LONG, FILTERED])
def test_half_an_answer_that_is_kept_ends_the_conversation(said):
    _, reply = played(Policies(truncated="keep", filtered="keep"), [said])
    assert (reply.kept, reply.ends) == (True, True)


def test_a_refusal_is_kept_by_default_and_the_conversation_goes_on():
    _, reply = played(Policies(), [DECLINED])
    assert (reply.kept, reply.ends, reply.verdict) == (True, False, "refused")


@pytest.mark.parametrize("finish", ["length", "content_filter", "refusal", "tool_calls"])
def test_nothing_is_kept_of_an_answer_without_text(finish):
    keep = Policies(truncated="keep", refused="keep", filtered="keep", other="keep")
    _, reply = played(keep, [(" ", finish)])
    assert (reply.kept, reply.ends) == (False, True)


def test_a_truncated_answer_is_asked_for_again_with_more_room():
    requests, reply = played(Policies(truncated="retry"), [LONG, FINE])
    assert [r.sampling.max_tokens for r in requests] == [16, 32]
    assert [r.sample for r in requests] == [0, 0]
    assert reply.answer.text == "whole"
    assert reply.judged == (("truncated", "retried"), ("complete", "kept"))
    requests, reply = played(Policies(truncated="retry", retry_max_tokens=100), [LONG, LONG])
    assert [r.sampling.max_tokens for r in requests] == [16, 100]
    assert (reply.kept, reply.judged) == (False, (("truncated", "retried"), ("truncated", "dropped")))


@pytest.mark.parametrize(
    ("said", "policies"),
    [
        (EMPTY, Policies(empty="retry", retries=2)),
        (DECLINED, Policies(refused="retry", retries=2)),
        (FILTERED, Policies(filtered="retry", retries=2)),
    ],
)
def test_other_retries_draw_samples_that_no_other_draws(said, policies):
    requests, reply = played(policies, [said, said, FINE], stride=3)
    assert [r.sample for r in requests] == [0, 3, 6]
    assert {r.sampling for r in map(hashable, requests)} == {hashable(REQUEST).sampling}
    assert reply.kept


def hashable(request):
    return Request(request.messages, request.sampling.model_dump_json(), request.sample)


def test_retries_are_capped_over_all_verdicts():
    policies = Policies(truncated="retry", empty="retry", refused="retry", retries=2)
    requests, reply = played(policies, [LONG, EMPTY, DECLINED])
    assert [(r.sampling.max_tokens, r.sample) for r in requests] == [(16, 0), (32, 0), (32, 1)]
    assert reply.judged == (("truncated", "retried"), ("empty", "retried"), ("refused", "dropped"))


def test_a_prompt_that_does_not_fit_is_never_asked_again():
    requests, reply = played(Policies(truncated="retry", other="retry"), [("", "context_length")])
    assert requests == [REQUEST]
    assert not reply.kept


def test_a_refusal_that_is_no_expression_is_named():
    with pytest.raises(ValidationError, match=r"not a regular expression: '\(sorry'"):
        Policies(refusals=["fine", "(sorry"])


def test_own_expressions_replace_the_default():
    own = Policies(refusals=["désolé"])
    assert judge(answer("Désolé, je ne peux pas."), own) == "refused"
    assert judge(answer(REFUSED[0]), own) == "complete"


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.exists(), reason="no shared/data beside the checkout")
def test_real_answers_are_rarely_taken_for_refusals():
    rows = json.loads((REAL / "alpaca_eval/text_davinci_003_outputs.json").read_text())
    rows += json.loads((REAL / "instruct/roleplay.json").read_text())
    texts = [row.get("output") or row.get("response") or "" for row in rows]
    assert len(texts) > 2000
    assert [t for t in texts if judge(answer(t), Policies()) == "refused"] == []
    falcon = json.loads((REAL / "alpaca_eval/falcon-40b-instruct/model_outputs.json").read_text())
    refused = [r["output"] for r in falcon if judge(answer(r["output"]), Policies()) == "refused"]
    assert len(refused) == 24
    assert all("cannot" in t[:200] or "not able" in t[:200] for t in refused)
