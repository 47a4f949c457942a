import pytest

from stillroom.params import Sampling
from stillroom.raft.answers import FAULTS, Policies, ask, fault, repaired
from stillroom.records import Message
from stillroom.teacher.prompts import ANSWER_TAG, QUOTE_BEGIN, QUOTE_END, cot_answer
from stillroom.teacher.requests import TOO_LONG, Answer, Request

PASSAGE = "The bell is rung\nthree times before the “ferry” leaves. A seat costs **12.50** coins."
GOOD = cot_answer("The bell is rung three times", "three")
REQUEST = Request((Message("user", "?"),), Sampling(max_tokens=10))


def fault_of(text, finish_reason="stop"):
    return fault(text, finish_reason, PASSAGE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, None),
        (cot_answer('"rung three  times"', "three"), None),
        (cot_answer("rung four times", "four"), "quote_not_in_chunk"),
        (cot_answer("three times", "three") + cot_answer("four", "x"), "quote_not_in_chunk"),
        (cot_answer(" ", "three"), "no_quote"),
        ("It is three.\n<ANSWER>: three", "no_quote"),
        (cot_answer("three times", "the"), "empty_answer"),
        (GOOD.replace(ANSWER_TAG, "Answer:"), "no_answer_tag"),
        (GOOD.replace(ANSWER_TAG, f"**{ANSWER_TAG}**"), "no_answer_tag"),
        ("", "no_answer_tag"),
    ],
)
def test_faults(text, expected):
    assert fault_of(text) == expected


@pytest.mark.parametrize("finish_reason", ["length", "content_filter", "refusal", TOO_LONG, "unknown"])
def test_an_answer_that_is_not_whole(finish_reason):
    assert fault_of(GOOD, finish_reason) == "unfinished"
    assert fault_of(GOOD, "eos_token") is None


QUOTE = f"{QUOTE_BEGIN}The bell is rung three times{QUOTE_END}"


@pytest.mark.parametrize(
    ("end", "short"),
    [
        ("**<ANSWER>:** three", "three"),
        ("**<ANSWER>: three**", "three"),
        ("<Answer>: three", "three"),
        ("<ANSWER> three", "three"),
        ("<answer>three</answer>", "three"),
        ("<final answer>: three", "three"),
        ("Answer: three", "three"),
        ("**Answer:** three times", "three times"),
        ("### Final Answer: `__init__`", "`__init__`"),
        ("**Final answer:**\nthree", "three"),
        ("The answer: **three**", "**three**"),
        ("Therefore, the final answer is: three.", "three"),
        ("It says so. So the answer is 12.50.", "12.50"),
    ],
)
def test_another_last_line_gets_the_tag(end, short):
    text = f"The passage says {QUOTE}.\n{end}"
    assert fault_of(text) == "no_answer_tag"
    mended = repaired("no_answer_tag", text, PASSAGE)
    assert mended.endswith(f"\n{ANSWER_TAG} {short}")
    assert mended.startswith(f"The passage says {QUOTE}.")
    assert fault_of(mended) is None


@pytest.mark.parametrize("end", ["three", "The answer is short.\nIt is three", "Answers: many", ""])
def test_a_last_line_that_names_no_answer_stays(end):
    assert repaired("no_answer_tag", f"The passage says {QUOTE}.\n{end}", PASSAGE) is None


@pytest.mark.parametrize(
    "quotation",
    [
        "##Begin_Quote##{}##End_Quote##",
        "##begin_quote## {} ##end_quote",
        "<begin_quote>{}<end_quote>",
        "[begin quote]{}[end quote]",
        "**begin_quote**{}**end_quote**",
        "<quote>{}</quote>",
        '"{}"',
        "“{}.”",
        "«{}»",
        "\n> {}\n",
    ],
)
def test_quotations_in_other_marks_get_ours(quotation):
    text = f"It says {quotation.format('The bell is rung three times')} so.\n{ANSWER_TAG} three"
    assert fault_of(text) == "no_quote"
    mended = repaired("no_quote", text, PASSAGE)
    assert mended.count(QUOTE_BEGIN) == mended.count(QUOTE_END) == 1
    assert fault_of(mended) is None
    assert mended.endswith(f"so.\n{ANSWER_TAG} three")


@pytest.mark.parametrize("quotation", ['"three times"', '"The bell is rung four times"', "none"])
def test_a_name_or_words_that_are_not_there_are_no_quotation(quotation):
    assert repaired("no_quote", f"It says {quotation}.\n{ANSWER_TAG} three", PASSAGE) is None


def test_a_quotation_gets_the_passages_own_words():
    text = cot_answer("before the 'Ferry' leaves… costs 12.50 coins", "it")
    assert repaired("quote_not_in_chunk", text, PASSAGE) == cot_answer(
        f"before the “ferry” leaves{QUOTE_END} … {QUOTE_BEGIN}costs **12.50** coins", "it"
    )
    both = cot_answer("The bell", "x") + cot_answer("BEFORE the ferry", "x")
    assert repaired("quote_not_in_chunk", cot_answer("costs 1250 coins", "it"), PASSAGE) is None
    assert repaired("quote_not_in_chunk", both, PASSAGE) is None  # one of two: “ferry” is quoted there


def said(text, finish_reason="stop", key="k"):
    return Answer(key, text, finish_reason, 1, 1, False)


def drive(answers, **policies):
    """What an interview's answer comes to, and the requests that it took."""
    dialogue, requests = ask(REQUEST, PASSAGE, Policies(**policies)), []
    try:
        requests.append(dialogue.send(None))
        for answer in answers:
            requests.append(dialogue.send(answer))
    except StopIteration as end:
        return end.value, requests
    raise AssertionError("more was asked")


NO_TAG = GOOD.replace(ANSWER_TAG, "Answer:")
WRONG = cot_answer("rung four times", "four")


def test_what_becomes_of_a_fault_is_a_policy():
    assert drive([said(GOOD)])[0].judged == (("good", "kept"),)
    assert drive([said(NO_TAG)], no_answer_tag="reject")[0].judged == (("no_answer_tag", "rejected"),)
    reply, requests = drive([said(NO_TAG)], no_answer_tag="repair")
    assert (reply.text, reply.repaired, len(requests)) == (GOOD, ("no_answer_tag",), 1)
    reply, requests = drive([said(NO_TAG), said(GOOD)], no_answer_tag="retry")
    assert (reply.text, [r.sample for r in requests]) == (GOOD, [0, 1])
    assert reply.judged == (("no_answer_tag", "retried"), ("good", "kept"))
    assert drive([said(WRONG)])[0].judged == (("quote_not_in_chunk", "rejected"),)
    reply, _ = drive([said(WRONG), said(GOOD)], quote_not_in_chunk="repair_or_retry")
    assert reply.judged == (("quote_not_in_chunk", "retried"), ("good", "kept"))
    reply, requests = drive([said(WRONG)] * 3, quote_not_in_chunk="retry", retries=2)
    assert [fate for _, fate in reply.judged] == ["retried", "retried", "rejected"]
    assert [r.sample for r in requests] == [0, 1, 2]


def test_several_faults_of_an_answer_are_put_right_each_by_its_policy():
    text = 'It says "THE BELL is rung".\n**Final answer:** three'
    reply, _ = drive([said(text)])
    assert reply.text == cot_answer("The bell is rung", "three").replace("The passage says:", "It says")
    assert reply.judged == (("no_answer_tag", "repaired"), ("no_quote", "repaired"))
    reply, _ = drive([said(text)], no_quote="reject")
    assert (reply.text, reply.judged) == (None, (("no_quote", "rejected"),))


def test_a_cut_answer_is_asked_for_with_more_room_and_a_prompt_that_does_not_fit_is_not():
    reply, requests = drive([said(GOOD, "length"), said(GOOD)], unfinished="retry")
    assert reply.text == GOOD
    assert [(r.sample, r.sampling.max_tokens) for r in requests] == [(0, 10), (0, 20)]
    reply, requests = drive([said("", TOO_LONG)], unfinished="retry")
    assert (reply.judged, len(requests)) == ((("unfinished", "rejected"),), 1)


def test_an_estimates_imagined_answer_is_taken_for_good():
    everything = dict.fromkeys(FAULTS, "retry")
    assert len(drive([said("x", key="")], **everything)[1]) == 1
