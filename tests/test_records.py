import pytest

from stillroom.errors import InputError
from stillroom.records import Conversation, Message, read_conversations, write_conversations

A = Conversation("a", "chat", (Message("user", "Hi"), Message("assistant", "Hello.")), {"n": 1})
B = Conversation("b", "chat", (Message("system", "Be brief."), Message("user", "Hi")))


def test_round_trip_sorted_by_id_and_same_bytes(tmp_path):
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    assert write_conversations(first, [B, A]) == 2
    write_conversations(second, iter([A, B]))
    assert list(read_conversations(first)) == [A, B]
    assert first.read_bytes() == second.read_bytes()


def test_keys_stand_in_the_order_of_the_contract(tmp_path):
    write_conversations(tmp_path / "c.jsonl", [A])
    text = (tmp_path / "c.jsonl").read_text()
    assert text.startswith('{"id":"a","source":"chat","messages":[{"role":"user","content":"Hi"}')


def test_two_records_with_one_id_are_refused(tmp_path):
    with pytest.raises(InputError, match="'a'"):
        write_conversations(tmp_path / "c.jsonl", [A, A])
    assert not (tmp_path / "c.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "x"}', "`messages` is missing"),
        ('{"id": "x", "messages": []}', "`source` is missing"),
        ('{"id": "", "source": "s", "messages": []}', "`id` must be"),
        ('{"id": "x", "source": "s", "messages": [{"role": "bot", "content": "hi"}]}', "bad message"),
        ('{"id": "x", "source": "s", "messages": [{"role": "user", "content": null}]}', "bad message"),
        ('{"id": "x", "source": "s", "messages": [1]}', "a list of {role, content}"),
    ],
)
def test_a_malformed_record_is_named(tmp_path, line, message):
    path = tmp_path / "c.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=message) as raised:
        list(read_conversations(path))
    assert raised.value.where == f"{path}:1"
