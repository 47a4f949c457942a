"""Documents about rooms and the codes that open them, and a teacher that knows how to read them.

Its questions wear the dress that models put on; the answers about rooms in `SPOILED` have a fault each, the
first time that they are asked for.
"""

import json
import os
import re

from stillroom.raft.pairs import Chunk, Pair, pair_id
from stillroom.teacher.prompts import QUOTE_BEGIN, QUOTE_END, cot_answer

ROOM = re.compile(r"Room (\w+) opens with the code (\d+)\.")
SPOILED = {
    "d0p0": ("no_answer_tag", lambda good: (good.replace("<ANSWER>:", "So the answer, then:"), "stop")),
    "d0p1": ("quote_not_in_chunk", lambda good: (re.sub(r"\d+\.##", "999.##", good), "stop")),
    "d0p2": ("unfinished", lambda good: (good[:40], "length")),
    "d0p3": ("no_quote", lambda good: (good.rpartition("\n")[2], "stop")),
    "d0p4": ("empty_answer", lambda good: (good.rpartition(":")[0] + ": the", "stop")),
    "d1p0": ("repaired no_answer_tag", lambda good: (good.replace("<ANSWER>:", "**Final answer:**"), "stop")),
    "d1p1": ("repaired quote_not_in_chunk", lambda good: (good.replace("Room", "ROOM"), "stop")),
    "d1p2": ("repaired no_quote", lambda good: (unmarked(good), "stop")),
}


def unmarked(good):
    return good.replace(QUOTE_BEGIN, "“").replace(QUOTE_END, "”")


def code_of(name):
    return f"{sum(map(ord, name))}7"


def chunk(name, document="house.md"):
    text = f"Room {name} opens with the code {code_of(name)}. It is cold."
    return Chunk(f"{document}#{name}", document, "House", text)


def pair(name, side="train", document="house.md", answer=None):
    where, question = chunk(name, document), f"What is the code of room {name}?"
    said = cot_answer(f"Room {name} opens with the code {code_of(name)}.", answer or code_of(name))
    return Pair(pair_id(where, question), side, where, question, said, "qk", "ak")


def put(folder, documents=5, paragraphs=8):
    """Write documents of one passage of about 140 characters for each room."""
    folder.mkdir(parents=True, exist_ok=True)
    for d in range(documents):
        names = [f"d{d}p{p}" for p in range(paragraphs)]
        rooms = [
            f"Room {n} opens with the code {code_of(n)}. {'It is in a very long hall. ' * 3}" for n in names
        ]
        (folder / f"house-{d}.md").write_text(f"# House {d}\n\n" + "\n\n".join(rooms))


def completion(body):
    """What a server says to a request: mock_server.completion for rooms."""
    text, finish = reply(body)
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {
        "id": "r",
        "model": "rules",
        "choices": [choice],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3},
    }


def reply(body):
    prompt = body["messages"][-1]["content"]
    rooms = dict(ROOM.findall(prompt))
    asked = re.search(r"^Question: .*room (\w+)", prompt, re.MULTILINE)
    if not asked:
        lines = [f"{i}. **What is the code of room {room}?**" for i, room in enumerate(rooms, 1)]
        return "\n".join(["Here are questions:", *lines, *lines[:1]]), "stop"
    room = asked[1]
    good = cot_answer(f"Room {room} opens\nwith the code {rooms[room]}.", rooms[room])
    again = body["seed"] > 42 or body["max_tokens"] > 1024
    return (good, "stop") if again or room not in SPOILED else SPOILED[room][1](good)


def shown(instruction):
    return re.findall(r"<DOCUMENT>(.*?)</DOCUMENT>", instruction, re.DOTALL)


def jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(cache, folder, *arguments):
    """The stage in a process of its own."""
    from stillroom.stages import raft

    os.environ["STILLROOM_CACHE"] = cache
    os.chdir(folder)
    raft.run(*arguments)
