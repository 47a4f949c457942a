"""What the teacher is asked about a passage, and the form of a quoted answer.

chunk ──▶ question_messages ──▶ one question a line
chunk, question ──▶ answer_messages ──▶ reasoning with a verbatim quotation, then `<ANSWER>: …`

The embedded teacher is trained on these very messages, so an edit here retrains it. They are short on
purpose: a passage of 400 characters and its prompt stay under 300 tokens of the tiny tokenizer.
"""

from __future__ import annotations

from stillroom.records import Message

QUOTE_BEGIN, QUOTE_END = "##begin_quote##", "##end_quote##"
ANSWER_TAG = "<ANSWER>:"


def question_messages(chunk: str, count: int) -> tuple[Message, ...]:
    """Ask for `count` questions that the passage answers, one a line."""
    ask = f"Write {count} questions that this passage answers, one per line."
    return (Message("user", f"{chunk}\n\n{ask}"),)


def answer_messages(chunk: str, question: str) -> tuple[Message, ...]:
    """Ask for a reasoned answer that quotes the passage and ends with the tagged answer."""
    ask = (
        f"Answer from the passage. Explain in a sentence, quote the passage between {QUOTE_BEGIN} and "
        f"{QUOTE_END}, and end with a line `{ANSWER_TAG} ` and the short answer."
    )
    return (Message("user", f"{chunk}\n\nQuestion: {question}\n{ask}"),)


def cot_answer(quote: str, answer: str) -> str:
    """The form of an answer: a sentence of reasoning with the quotation, then the tagged answer."""
    return f"The passage says: {QUOTE_BEGIN}{quote}{QUOTE_END}.\n{ANSWER_TAG} {answer}"
