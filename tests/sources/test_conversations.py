import json
import multiprocessing
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from stillroom.errors import InputError
from stillroom.records import Conversation
from stillroom.sources import (
    airoboros,
    alpaca,
    conversations,
    dolphin,
    guanaco,
    oasst,
    oasst_messages,
    oig,
    openai_messages,
    platypus,
    sharegpt,
    turn_lists,
)
from stillroom.sources.adapter import Dropped, Unfit
from stillroom.sources.conversations import ADAPTERS, conversation_of, raw_conversations
from stillroom.sources.dumps import Raw, dump_files

WANTED = {
    airoboros: "s You are Ana, a painter. | u What would you do on a day off? | a I would paint the harbour.",
    alpaca: "u Translate to German.\n\nGood night | a Gute Nacht",
    dolphin: "s You are an AI assistant. Provide a detailed answer so user don't need to search outside. | "
    "u Why is the sky blue? | a Because air scatters blue light.",
    guanaco: "u Why is the sky blue? | a Air scatters blue light. | u And at sunset?",
    oasst: "u How do I …? | a First … | u And then?",
    oasst_messages: "u How do …? | a So.",
    oig: "u Why is the sky blue? | a Because air scatters blue light.",
    openai_messages: "s You are brief. | u Why is the sky blue? | a Scattering.",
    platypus: "u Sum the numbers from 1 to 100. | a The sum is 5050.",
    sharegpt: "u Why is the sky blue? | a <p>Because air scatters blue light.</p>",
    turn_lists: "u Why is the sky blue? | u And at sunset?",
}
"""what each module's worked example says"""
MODULES = list(WANTED)
REAL = Path(__file__).parents[2] / "../shared/data"


def read_folder(folder, on_malformed):
    """All conversations of a folder's dumps, one process, as `extract` reads them in several."""
    for path in dump_files(folder):
        name = path.relative_to(folder).as_posix()
        for raw in raw_conversations(path):
            yield conversation_of(raw, name, on_malformed)


def example(module):
    """The worked example of a module's docstring."""
    return json.loads(re.search(r"^\s*([\[{].*?)(?:\n\n|\Z)", module.__doc__, re.DOTALL | re.MULTILINE)[1])


def spoken(messages):
    return " | ".join(f"{m.role[0]} {m.content}" for m in messages)


def read(record):
    """The messages of a record, by the adapter that its shape asks for."""
    (adapter,) = (adapter for adapter in ADAPTERS if adapter.fits(record))
    return spoken(adapter.read(record)[1])


@pytest.mark.parametrize("module", MODULES)
def test_the_worked_example_is_read_by_its_adapter_and_no_other(module):
    record = example(module)
    assert [a.name for a in ADAPTERS if a.fits(record)] == [module.ADAPTER.name]
    assert spoken(module.ADAPTER.read(record)[1]) == WANTED[module]


def test_every_adapter_has_a_worked_example_a_source_and_a_licence():
    assert {module.ADAPTER for module in MODULES} == set(ADAPTERS)
    told = re.compile(r"^Source: .*licence:|^Sources and licences:", re.DOTALL | re.MULTILINE)
    assert all(told.search(module.__doc__) for module in MODULES)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    "record", [None, 3, "x", {}, [1], {"conversations": 1}, {"messages": None}, {"prompt": "x"}]
)
def test_what_does_not_fit_is_unfit_and_no_crash(module, record):
    assert not module.ADAPTER.fits(record)
    with pytest.raises(Unfit):
        module.ADAPTER.read(record)


def spoiled(value):
    """The value with each of its parts, one at a time, put in another type's place."""
    yield from (None, 7, True, 0.5, "", "x", [], {}, [7], [None], ["x"], [[]], {"x": 7})
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        for other in spoiled(part):
            yield (
                {**value, key: other} if isinstance(value, dict) else [*value[:key], other, *value[key + 1 :]]
            )


@pytest.mark.parametrize("module", MODULES)
def test_whatever_a_record_holds_it_is_a_conversation_or_dropped(module):
    for number, record in enumerate(spoiled(example(module)), 1):
        found = conversation_of(Raw(number, 0, json.dumps(record).encode()), "a.json", "skip")
        assert isinstance(found, Conversation) or f"a.json#{number}" in found.detail


PROMPT = "You are a helpful assistant, who always provide explanation."


@pytest.mark.parametrize(
    ("record", "want"),
    [
        ({"instruction": "Name a river.", "output": "Elbe"}, "u Name a river. | a Elbe"),
        ({"instruction": "Name a river."}, "u Name a river."),
        (
            {"instruction": "Sum up.", "context": "Text.", "response": "T.", "category": "qa"},
            "u Sum up.\n\nText. | a T.",
        ),
        ({"instruction": "q2", "output": "a2", "history": [["q", "a"]]}, "u q | a a | u q2 | a a2"),
        ({"instruction": "q", "input": "", "output": "a", "system": "Be brief."}, "s Be brief. | u q | a a"),
        ({"instruction": "q", "response": "a", "system": None, "category": "joke"}, "u q | a a"),
        ({"instruction": "", "input": "q", "output": "a"}, "u q | a a"),
        ({"instruction": PROMPT, "input": "q", "output": "a"}, f"s {PROMPT} | u q | a a"),
        (
            {"instruction": "Translate.", "input": "q", "output": "a", "data_source": "x"},
            "u Translate.\n\nq | a a",
        ),
        ({"items": [{"from": "human", "value": "q"}]}, "u q"),
        ({"conversations": [{"from": "human", "value": "q"}], "system": "Be brief."}, "s Be brief. | u q"),
        (
            {
                "messages": [{"role": "developer", "content": "d"}, {"role": "user", "content": "q"}],
                "system": "s",
            },
            "s d | u q",
        ),
        (
            {"text": "The book says 4.\n<human>: How many?\n<bot>: 4"},
            "s The book says 4. | u How many? | a 4",
        ),
        (
            {"text": "### Human: Who is <human>: in OIG?### Assistant: A mark."},
            "u Who is <human>: in OIG? | a A mark.",
        ),
    ],
)
def test_no_part_of_a_record_is_lost(record, want):
    assert read(record) == want


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "q", "input": 3},
        {"instruction": "q", "history": ["q", "a"]},
        {"instruction": "q", "output": "a", "system": ["x"]},
        {"instruction": "q", "response": 1, "category": "x"},
        [{"message_id": "b", "parent_id": "a", "message_tree_id": "a", "role": "prompter", "text": "x"}],
    ],
)
def test_fields_of_another_type_are_unfit(record):
    with pytest.raises(Unfit):
        read(record)


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
    assert spoken(oasst.read({"prompt": tree})[1]) == "u q | a best"


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_the_rows_of_a_tree_become_one_conversation(tmp_path, name):
    rows = [
        {
            "message_id": f"{tree}{n}",
            "parent_id": f"{tree}{n - 1}" if n else None,
            "message_tree_id": tree,
            "role": ("prompter", "assistant")[n % 2],
            "text": f"{tree} {n}",
            "rank": None,
        }
        for tree in "xyz"
        for n in range(3)
    ]
    if name == "a.parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"odd": 1}]))
    found = list(read_folder(tmp_path, "skip"))
    assert [(c.id, c.meta["record"]) for c in found[:3]] == [("x", 1), ("y", 4), ("z", 7)]
    assert spoken(found[1].messages) == "u y 0 | a y 1 | u y 2"
    assert [d.reason for d in found[3:]] == ["malformed"] * (name == "a.jsonl")


def test_a_file_of_several_shapes_is_read_record_by_record(tmp_path):
    rows = [example(module) for module in MODULES if module is not oasst_messages]
    (tmp_path / "a.json").write_text(json.dumps([*rows, {"what": "ever"}, *rows]))
    found = list(read_folder(tmp_path, "skip"))
    assert [d.detail for d in found if isinstance(d, Dropped)] == [
        f"a.json#{len(rows) + 1} at byte {found_at}: no conversation of a known shape"
        for found_at in [json.dumps([*rows, {}]).index(", {}") + 1]
    ]
    names = [m.ADAPTER.name for m in MODULES if m is not oasst_messages]
    assert [c.source for c in found if isinstance(c, Conversation)] == names * 2


def test_records_can_be_read_in_another_process(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps([f"turn {n}"]) + "\n" for n in range(5)) + "{\n")
    raws = list(conversations.raw_conversations(tmp_path / "a.jsonl"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.starmap(conversations.conversation_of, [(raw, "a.jsonl", "skip") for raw in raws])
        with pytest.raises(InputError, match=r"a\.jsonl: record 6 at byte 55: not valid JSON"):
            pool.starmap(conversations.conversation_of, [(raw, "a.jsonl", "stop") for raw in raws])
    assert found == list(read_folder(tmp_path, "skip"))


def test_files_of_different_shapes_in_one_folder(tmp_path):
    for module in MODULES:
        (tmp_path / f"{module.ADAPTER.name}.jsonl").write_text(json.dumps(example(module)) + "\n")
    found = list(read_folder(tmp_path, "stop"))
    assert sorted(c.source for c in found) == sorted(a.name for a in ADAPTERS)
    assert {c.meta["file"] for c in found} == {f"{a.name}.jsonl" for a in ADAPTERS}


def test_ids_are_the_dumps_or_the_contents(tmp_path):
    rows = [
        ["a"],
        ["a b"],
        ["a", "b"],
        ["a"],
        {**example(sharegpt), "id": True},
        {**example(sharegpt), "id": 7},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    one, two, three, same, truth, number = (c.id for c in read_folder(tmp_path, "stop"))
    assert one == same
    assert len({one, two, three}) == 3
    assert one.startswith("turns-")
    assert truth.startswith("sharegpt-")
    assert number == "7"


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


def test_an_object_over_several_lines_is_told_what_a_dump_is(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(example(sharegpt), indent=2))
    with pytest.raises(InputError, match=r"a\.json: record 1 at byte 0: not valid JSON .*\n.*one JSON array"):
        list(read_folder(tmp_path, "skip"))


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
    found = list(read_folder(REAL / folder, "stop"))
    assert len(found) == count
    assert {c.source for c in found} == {source}
    assert all(c.messages[0].role == "user" and c.messages[0].content for c in found)
