"""bespokelabs-curator, which keeps its answers in a cache of its own. Single-turn.

python -m venv VENV && VENV/bin/pip install bespokelabs-curator
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

litellm = importlib.util.find_spec("litellm")
assert litellm is not None
assert litellm.origin is not None
os.environ |= {
    # the tokenizer that curator counts with comes along with litellm: nothing is downloaded
    "TIKTOKEN_CACHE_DIR": str(Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"),
    "CURATOR_CACHE_DIR": "curator",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "TELEMETRY_ENABLED": "false",
    "OPENAI_API_KEY": "none",
}

from bespokelabs import curator  # noqa: E402
from conversations import MODEL, SAMPLING, arguments, single  # noqa: E402

UNLIMITED = 100_000_000


class Teacher(curator.LLM):
    def prompt(self, row: dict[str, str]) -> str:
        return row["prompt"]

    def parse(self, row: dict[str, str], response: str) -> dict[str, str]:
        return {"prompt": row["prompt"], "answer": response}


if __name__ == "__main__":
    base_url, conversations, in_flight = arguments()
    teacher = Teacher(
        model_name=MODEL,
        backend="openai",
        generation_params=SAMPLING,
        backend_params={
            "base_url": base_url,
            "max_concurrent_requests": in_flight,
            "max_requests_per_minute": UNLIMITED,
            "max_tokens_per_minute": UNLIMITED,
        },
    )
    answered = teacher([{"prompt": prompt} for prompt in single(conversations)])
    print(len(answered.dataset))
