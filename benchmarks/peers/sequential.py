"""How distillation scripts are published: one `requests.post` after another, each answer into SQLite."""

from __future__ import annotations

import json
import sqlite3

import requests
from conversations import arguments, body


def main() -> None:
    base_url, conversations, _ = arguments()
    database = sqlite3.connect("answers.sqlite")
    database.execute("CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, response TEXT)")
    session = requests.Session()
    answers = 0
    for turns in conversations:
        messages: list[dict[str, str]] = []
        for turn in turns:
            messages.append({"role": "user", "content": turn})
            sent = body(messages)
            response = session.post(f"{base_url}/chat/completions", json=sent, timeout=60)
            response.raise_for_status()
            with database:
                database.execute("INSERT INTO answers VALUES (?, ?)", (json.dumps(sent), response.text))
            content = response.json()["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": content})
            answers += 1
    print(answers)


if __name__ == "__main__":
    main()
