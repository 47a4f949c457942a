"""distilabel: one step that asks the teacher, batch by batch; it caches whole pipelines. Single-turn.

python -m venv VENV && VENV/bin/pip install 'distilabel[openai]'
"""

from __future__ import annotations

import os

os.environ |= {"DISTILABEL_CACHE_DIR": "distilabel", "HF_HUB_OFFLINE": "1", "DISTILABEL_LOG_LEVEL": "ERROR"}

from conversations import MODEL, SAMPLING, arguments, single
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

SUPPORTED = ("temperature", "top_p")

if __name__ == "__main__":
    base_url, conversations, in_flight = arguments()
    generation = {"max_new_tokens": SAMPLING["max_tokens"], **{name: SAMPLING[name] for name in SUPPORTED}}
    with Pipeline(name="teacher") as pipeline:
        prompts = [{"instruction": prompt} for prompt in single(conversations)]
        load = LoadDataFromDicts(data=prompts, batch_size=in_flight)
        llm = OpenAILLM(model=MODEL, base_url=base_url, api_key="none", generation_kwargs=generation)
        load >> TextGeneration(llm=llm, input_batch_size=in_flight)
    rows = pipeline.run(use_cache=False)["default"]["train"]
    print(sum(row["generation"] is not None for row in rows))
