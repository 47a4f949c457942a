import json
import re
from pathlib import Path

import pytest

from stillroom.errors import InputError
from stillroom.records import Conversation
from stillroom.sources import alpaca, conversations, oasst, oig, openai_messages, sharegpt, turn_lists
from stillroom.sources.adapter import Dropped, Unfit
from stillroom.sources.conversations import ADAPTERS, read_folder

MODULES = [alpaca, oasst, oig, openai_messages, sharegpt, turn_lists]
REAL = Path(__file__).parents[2] / "../shared/data"


def example(module):
    """The worked example of a module's docstring."""
    return json.loads(re.search(r"^\s*([\[{].*?)(?:\n\n|\Z)", module.__doc__, re.DOTALL | re.MULTILINE)[1])


def spoken(messages):
    return [(m.role, m.content) for m in messages]


@pytest.mark.parametrize("module", MODULES)
def test_the_worked_example_is_read_by_its_adapter_and_no_other(module):
    record = example(module)
    assert [a.name for a in ADAPTERS if a.fits(record)] == [module.ADAPTER.name]
    _, messages = module.ADAPTER.read(record)
    assert any(m.role == "user" and m.content for m in messages)
    assert module.ADAPTER in ADAPTERS


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    "record", [None, 3, "x", {}, [1], {"conversations": 1}, {"messages": None}, {"prompt": "x"}]
)
def test_what_does_not_fit_is_unfit_and_no_crash(module, record):
    assert not module.ADAPTER.fits(record)
    with pytest.raises(Unfit):
        module.ADAPTER.read(record)


def test_what_the_examples_say():
    assert spoken(sharegpt.read(example(sharegpt))[1])[0] == ("user", "Why is the sky blue?")
    assert spoken(turn_lists.read(example(turn_lists))[1]) == [
        ("user", "Why is the sky blue?"),
        ("user", "And at sunset?"),
    ]
    assert spoken(openai_messages.read(example(openai_messages))[1]) == [
        ("system", "You are brief."),
        ("user", "Why is the sky blue?"),
        ("assistant", "Scattering."),
    ]
    assert spoken(alpaca.read(example(alpaca))[1]) == [
        ("user", "Translate to German.\n\nGood night"),
        ("assistant", "Gute Nacht"),
    ]
    assert spoken(oasst.read(example(oasst))[1]) == [
        ("user", "How do I …?"),
        ("assistant", "First …"),
        ("user", "And then?"),
    ]
    assert spoken(oig.read(example(oig))[1]) == [
        ("user", "Why is the sky blue?"),
        ("assistant", "Because air scatters blue light."),
    ]


@pytest.mark.parametrize(
    "speaker", ["human", "user", "gpt", "chatgpt", "bing", "bard", "assistant", "system"]
)
def test_sharegpts_speakers(speaker):
    record = {"id": 7, "conversations": [{"from": speaker, "value": "x"}]}
    identifier, (message,) = sharegpt.read(record)
    want = {"human": "user", "user": "user", "system": "system"}.get(speaker, "assistant")
    assert (identifier, message.role) == (7, want)


@pytest.mark.parametrize(
    ("turn", "reason", "detail"),
    [
        ({"from": "tool", "value": "x"}, "tool_turns", "turn 1"),
        ({"from": "robot", "value": "x"}, "malformed", "unknown `from` 'robot'"),
        ({"value": "x"}, "malformed", "unknown `from` None"),
        ({"from": "human", "value": 3}, "malformed", "`value` is not a text"),
        ("x", "malformed", "not an object"),
    ],
)
def test_turns_that_cannot_be_read_say_why(turn, reason, detail):
    with pytest.raises(Unfit, match=re.escape(detail)) as caught:
        sharegpt.read({"conversations": [turn]})
    assert caught.value.reason == reason


def test_tools_and_pictures_in_messages_are_told_apart():
    call = {"role": "assistant", "content": None, "tool_calls": [{}]}
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}
    for message, reason in ((call, "tool_turns"), (picture, "not_text")):
        with pytest.raises(Unfit) as caught:
            openai_messages.read({"messages": [message]})
        assert caught.value.reason == reason


def test_the_best_ranked_replies_are_followed():
    def node(text, role="assistant", *replies, **more):
        return {"text": text, "role": role, "replies": list(replies), **more}

    tree = node(
        "q",
        "prompter",
        node("none"),
        node("second", rank=1),
        node("best", rank=0),
        node("gone", rank=-1, deleted=True),
    )
    assert spoken(oasst.read({"prompt": tree})[1]) == [("user", "q"), ("assistant", "best")]


def test_files_of_different_shapes_in_one_folder(tmp_path):
    for module in MODULES:
        (tmp_path / f"{module.ADAPTER.name}.jsonl").write_text(json.dumps(example(module)) + "\n")
    found = list(read_folder(tmp_path, "stop"))
    assert sorted(c.source for c in found) == sorted(a.name for a in ADAPTERS)
    assert {c.meta["file"] for c in found} == {f"{a.name}.jsonl" for a in ADAPTERS}


def test_ids_are_the_dumps_or_the_contents(tmp_path):
    rows = [["a"], ["a b"], ["a", "b"], ["a"]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    one, two, three, same = (c.id for c in read_folder(tmp_path, "stop"))
    assert one == same
    assert len({one, two, three}) == 3
    assert one.startswith("turns-")


def test_malformed_records_are_named_or_stop(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"conversations": []}\n{"id": "x", "conversation": []}\n{"conv\n')
    good, odd, broken = read_folder(tmp_path, "skip")
    assert isinstance(good, Conversation)
    assert (odd.id, odd.reason) == ("x", "malformed")
    assert "a.jsonl#2" in odd.detail
    assert isinstance(broken, Dropped)
    assert (broken.id, broken.reason) == ("a.jsonl#3", "malformed")
    with pytest.raises(InputError, match=r"a\.jsonl: record 2 at byte 22"):
        list(read_folder(tmp_path, "stop"))


def test_an_unknown_shape_names_the_known_ones(tmp_path):
    (tmp_path / "a.json").write_text('[{"what": "ever"}]')
    with pytest.raises(InputError, match=r"a\.json: conversations of an unknown shape\n.*sharegpt"):
        list(read_folder(tmp_path, "skip"))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "source", "count"),
    [("sharegpt", "sharegpt", 500), ("oasst", "oasst", 100), ("instruct", "alpaca", 1923)],
)
def test_real_dumps_are_read_to_the_last_record(folder, source, count):
    if not REAL.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    found = list(conversations.read_folder(REAL / folder, "stop"))
    assert len(found) == count
    assert {c.source for c in found} == {source}
    assert all(c.messages[0].role == "user" and c.messages[0].content for c in found)
