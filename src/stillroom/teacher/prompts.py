"""What the teacher is asked about a passage, and the form of a quoted answer.

chunk ──▶ question_messages ──▶ one question a line
chunk, question ──▶ answer_messages ──▶ reasoning with a verbatim quotation, then `<ANSWER>: …`

The embedded teacher is trained on these very messages, so an edit here retrains it. They are short on
purpose: a passage of 400 characters and its prompt stay under 300 tokens of the tiny tokenizer. Words for
other teachers stand in files: see `stillroom.raft.prompts`.
"""

from __future__ import annotations

import re

from stillroom.records import Message

QUOTE_BEGIN, QUOTE_END = "##begin_quote##", "##end_quote##"
ANSWER_TAG = "<ANSWER>:"
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
"""`{name}`, a brace that is meant (`{{`, `}}`), or one that is none of these"""

QUESTIONS = "{passage}\n\nWrite {count} questions that this passage answers, one per line."
ANSWERS = (
    "{passage}\n\nQuestion: {question}\nAnswer from the passage. Explain in a sentence, quote the passage "
    f"between {QUOTE_BEGIN} and {QUOTE_END}, and end with a line `{ANSWER_TAG} ` and the short answer."
)


def filled(template: str, **values: object) -> str:
    """The template with its placeholders replaced, in one pass: braces in a value stay as they are."""
    return PLACEHOLDER.sub(lambda found: str(values[found[1]]) if found[1] else found[0][0], template)


def question_messages(chunk: str, count: int) -> tuple[Message, ...]:
    """Ask for `count` questions that the passage answers, one a line."""
    return (Message("user", filled(QUESTIONS, passage=chunk, count=count)),)


def answer_messages(chunk: str, question: str) -> tuple[Message, ...]:
    """Ask for a reasoned answer that quotes the passage and ends with the tagged answer."""
    return (Message("user", filled(ANSWERS, passage=chunk, question=question)),)


def cot_answer(quote: str, answer: str) -> str:
    """The form of an answer: a sentence of reasoning with the quotation, then the tagged answer."""
    return f"The passage says: {QUOTE_BEGIN}{quote}{QUOTE_END}.\n{ANSWER_TAG} {answer}"
