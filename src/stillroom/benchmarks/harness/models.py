"""The models that lm-evaluation-harness asks; what they answer is on disk before it is used.

Generator ──▶ Local; endpoint.json ──▶ Remote; requests ──▶ either ──▶ log-probabilities and answers

lm-eval's own cache of answers names the question and not the model that answered it, so that a second model
gets the first one's log-probabilities. It is not used: `Findings` are of one model, on one data set, with
one block of settings, and the response cache's keys name the model.
"""

from __future__ import annotations

import copy
import inspect
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI
from torch import Tensor
from transformers import AutoConfig

from stillroom.artifacts import canonical_json, sha256
from stillroom.benchmarks.findings import Findings
from stillroom.benchmarks.harness.definitions import sample_id
from stillroom.chat_format import load_tokenizer
from stillroom.errors import BudgetError, EndpointError, ModelError
from stillroom.inference.generate import Generator, batches
from stillroom.params import Endpoint, Sampling
from stillroom.teacher.keys import api_key
from stillroom.teacher.requests import Answer, Request, body, scored_tokens

if TYPE_CHECKING:
    from stillroom.benchmarks.at_endpoint import Ask, AtEndpoint
    from stillroom.benchmarks.subject import Reply

ANSWER_TOKENS = 256
"""most tokens of an answer that is generated: lm-eval's own default"""
LENGTH = 2048
"""positions of a model at an endpoint whose tokenizer does not tell: lm-eval's own default"""
GREEDY = Sampling(max_tokens=1, temperature=0, top_p=1.0, top_k=None, repetition_penalty=None)
"""one token, the fewest that an endpoint gives: of a prompt that is scored, nobody reads it"""
PROBE = ("The ferry leaves", " at nine.")
"""context and continuation, by which an endpoint shows whether it scores any"""
HOPELESS = (401, 402, 403, 404, 429)
"""statuses that say nothing about the kind of request"""

Scored = tuple[float, bool]
"""log-probability of a continuation, and whether it is the greedy one"""
Encoded = tuple[tuple[str, str] | None, list[int], list[int]]
"""(context, continuation) as text, None of a window; the tokens of either"""
Row = tuple[int, ...]
"""tokens that the model is given"""


class Local(HFLM):  # type: ignore[misc]
    """A model with weights: what lm-eval's `hf` model finds, in batches bounded by tokens.

    Only the logits of continuations are computed, and a finished answer leaves its batch.
    """

    def __init__(
        self, generator: Generator, batch_tokens: int, findings: Findings, on_done: Callable[[int], None]
    ) -> None:
        """Take a loaded model. Raises ModelError where it has no room for an answer."""
        if generator.positions <= ANSWER_TOKENS:
            what = (
                f"the model has {generator.positions:,} positions, and an answer takes up to {ANSWER_TOKENS}"
            )
            raise ModelError(what, where=generator.model.config.name_or_path)
        super().__init__(
            pretrained=generator.model,
            backend="causal",
            tokenizer=copy.deepcopy(generator.tokenizer),  # it gets a padding token
            max_length=generator.positions if generator.positions < sys.maxsize else None,
        )
        self._generator, self._batch_tokens = generator, batch_tokens
        self._findings, self._on_done = findings, on_done
        self._selects = "logits_to_keep" in inspect.signature(generator.model.forward).parameters

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[Scored]:
        """How likely each continuation is."""
        found: list[Scored] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[Scored]:
        """As `loglikelihood`, of tokens. Continuations that differ in their last token share a row."""
        sharing: dict[Row, list[int]] = {}
        for i, (_, context, continuation) in enumerate(requests):
            sharing.setdefault(tuple((context + continuation)[-self.max_length - 1 : -1]), []).append(i)
        found: dict[int, Scored] = {}
        for batch in by_length(list(sharing), self._batch_tokens):
            asked = {row: [requests[i][2] for i in sharing[row]] for row in batch}
            key = f"loglikelihood/{sha256(canonical_json(list(asked.items())))}"
            if key not in self._findings:
                self._findings.add({key: self._scored(asked)})
            for row, scores in zip(batch, self._findings[key], strict=True):
                found |= {
                    i: (score, bool(same)) for i, (score, same) in zip(sharing[row], scores, strict=True)
                }
            self._on_done(sum(len(sharing[row]) for row in batch))
        return [found[i] for i in range(len(requests))]

    def _scored(self, asked: dict[Row, list[list[int]]]) -> list[list[Scored]]:
        """The continuations of each row; what the GPU's memory does not hold at once, in halves."""
        try:
            known = self._logprobs(list(asked), [max(map(len, each)) for each in asked.values()])
        except torch.OutOfMemoryError:
            known = None  # tried again below, where the exception no longer holds the tensors
        if known is not None:
            return [
                [likelihood(row, each) for each in some]
                for row, some in zip(known, asked.values(), strict=True)
            ]
        torch.cuda.empty_cache()
        if len(asked) == 1:
            what = f"out of memory: a prompt of {len(next(iter(asked))):,} tokens does not fit"
            raise ModelError(what, where=self._generator.model.config.name_or_path)
        parts, half = list(asked.items()), len(asked) // 2
        return [*self._scored(dict(parts[:half])), *self._scored(dict(parts[half:]))]

    @torch.inference_mode()
    def _logprobs(self, batch: Sequence[Row], counts: Sequence[int]) -> list[Tensor]:
        """The log-probabilities at the last `counts` positions of each row, [count, vocabulary] each."""
        ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.int64)
        for i, row in enumerate(batch):
            ids[i, : len(row)] = torch.tensor(row)  # padded on the right, where no token looks
        ends = list(zip(map(len, batch), counts, strict=True))
        needed = sorted({at for end, count in ends for at in range(end - count, end)})
        logits = self._logits(ids.to(self.device), torch.tensor(needed, device=self.device))
        place = {at: i for i, at in enumerate(needed)}
        return [
            logits[i, place[end - count] : place[end - 1] + 1].log_softmax(-1)
            for i, (end, count) in enumerate(ends)
        ]

    def _logits(self, ids: Tensor, needed: Tensor) -> Tensor:
        """[rows, needed, vocabulary]."""
        if self._selects:
            chosen: Tensor = self.model(input_ids=ids, logits_to_keep=needed, use_cache=False).logits
            return chosen
        everything: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return everything[:, needed]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The greedy answer to each prompt, cut before the first of its stop texts."""
        rows = []
        for request in requests:
            prompt, settings = request.args
            sampling = Sampling(max_tokens=ANSWER_TOKENS, temperature=0, stop=settings["until"])
            ids = self.tok_encode(prompt, left_truncate_len=self.max_length - ANSWER_TOKENS)
            rows.append(self._generator.row(ids, sampling, self._generator.ends(None), 0))
        found: dict[int, str] = {}
        for batch in batches(rows, self._batch_tokens):
            key = (
                f"generate/{sha256(canonical_json([[list(row.prompt), row.sampling.stop] for row in batch]))}"
            )
            if key not in self._findings:
                self._generator.finish(batch)
                if failed := next((row for row in batch if row.finish_reason == "error"), None):
                    raise ModelError(failed.note, where=self._generator.model.config.name_or_path)
                self._findings.add({key: [self._generator.completion(row).text for row in batch]})
            found |= {id(row): text for row, text in zip(batch, self._findings[key], strict=True)}
            self._on_done(len(batch))
        return [found[id(row)] for row in rows]


class Remote(LocalCompletionsAPI):  # type: ignore[misc]
    """A model at an endpoint, asked what lm-eval's `local-completions` asks, as a teacher is.

    Prompts are token ids; continuations are scored by `echo` and `logprobs`. Every answer is in the response
    cache before it is used.
    """

    def __init__(self, subject: AtEndpoint, tokenizer: Path, ask: Ask) -> None:
        """tokenizer: folder of the model's own; prompts are sent as its tokens.  ask: of the run."""
        known = load_tokenizer(tokenizer)
        super().__init__(
            base_url=f"{subject.model.base_url.rstrip('/')}/completions",
            model=subject.model.model,
            tokenizer=str(tokenizer),
            tokenizer_backend="huggingface",
            add_bos_token=known("a").input_ids[0] == known.bos_token_id,
            max_length=positions(tokenizer, known),
        )
        self._subject, self._ask = subject, ask
        self.unanswered: dict[str, Reply] = {}
        """samples of which the endpoint turned a prompt away: what lm-eval makes of them is no score"""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[Scored]:
        """How likely each continuation is. Raises EndpointError, BudgetError."""
        encoded = super().loglikelihood(requests, disable_tqdm=True)
        found = self._asked(requests, [self.scoring(context, then) for _, context, then in encoded])
        return [likelihood_of(answer) for answer in found]

    def _loglikelihood_tokens(self, requests: list[Encoded], **_: Any) -> list[Encoded]:
        """lm-eval's tokens, for `loglikelihood` to ask about."""
        return requests

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The greedy answer to each prompt. Raises EndpointError, BudgetError."""
        posed = []
        for request in requests:
            prompt, settings = request.args
            ids = self.tok_encode(prompt, add_special_tokens=self.add_bos_token)
            sampling = GREEDY.model_copy(update={"max_tokens": ANSWER_TOKENS, "stop": settings["until"]})
            posed.append(Request((), sampling, tokens=array("i", ids[-(self.max_length - ANSWER_TOKENS) :])))
        return [answer.text for answer in self._asked(requests, posed)]

    def scoring(self, context: list[int], continuation: list[int]) -> Request:
        """The request that scores a continuation; the beginning of what is too long is left out."""
        ids = array("i", (context + continuation)[-self.max_length :])
        return Request((), GREEDY, tokens=ids, scored=len(continuation))

    def _asked(self, requests: Sequence[Instance], posed: Sequence[Request]) -> list[Answer]:
        """The answers; their keys are noted, and what the endpoint turned away."""
        found = self._ask(posed)
        for request, answer in zip(requests, found, strict=True):
            id, reply = sample_id(request.task_name, request.doc_id), self._subject.reply_of(answer)
            self._subject.keys.setdefault(id, []).append(answer.key)
            if reply.text is None:
                self.unanswered[id] = reply
        return found


def refusal(subject: AtEndpoint, lm: Remote, ask: Ask) -> str:
    """Why an endpoint cannot be asked for log-probabilities of a prompt; empty where it can.

    Raises EndpointError where it does not answer, BudgetError. After a refusal `ask` asks no more.
    """
    probe = lm.scoring(*map(lm.tok_encode, PROBE))
    try:
        [answer] = ask([probe])
    except BudgetError:
        raise
    except EndpointError:
        sent = body(probe, subject.model.teacher, subject.chat, subject.seed)
        status = answers_with(lm.base_url, sent, subject.model.reached(subject.endpoint))
        if status is None or status in HOPELESS or status >= 500:
            raise
        return f"the endpoint gives no log-probabilities of prompts (it answers {status})"
    subject.keys["probe"] = [answer.key]
    return ""


def answers_with(url: str, sent: dict[str, Any], endpoint: Endpoint) -> int | None:
    """The status of the answer to a request; None where there is no answer."""
    secret = api_key(endpoint)
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        response = requests.post(url, json=sent, headers=headers, timeout=endpoint.timeout)
    except requests.RequestException:
        return None
    return int(response.status_code)


def by_length(rows: list[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """The longest first, in batches of at most `batch_tokens` padded tokens; a longer row goes alone."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: (-len(row), row)):
        if batch and len(batch[0]) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def positions(folder: Path, tokenizer: Any) -> int:
    """The longest sequence that a model takes, by the folder of its tokenizer."""
    if (folder / "config.json").is_file():
        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config(decoder=True)
        if known := getattr(config, "max_position_embeddings", None):
            return int(known)
    length: int = tokenizer.model_max_length
    return length if length < 10**9 else LENGTH


def likelihood_of(answer: Answer) -> Scored:
    """What an endpoint says of a continuation."""
    found = scored_tokens(answer.text)
    return float(sum(found.own)), found.own == found.best


def likelihood(known: Tensor, continuation: list[int]) -> Scored:
    """A continuation's tokens at the end of [count, vocabulary] log-probabilities."""
    tail = known[-len(continuation) :]
    target = torch.tensor(continuation, device=known.device)
    return float(tail.gather(1, target[:, None]).sum()), bool((tail.argmax(-1) == target).all())
