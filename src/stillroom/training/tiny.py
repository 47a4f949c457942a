"""Small models made here: a byte-level tokenizer from texts, a Llama from a seed, a teacher from its lessons.

texts ──▶ build_tokenizer     sizes, seed ──▶ build_model     model, encoded conversations ──▶ teach

A teacher of a million parameters learns a few hundred answers by heart in some ten passes: Muon on the
matrices (Jordan 2024) gets there in half a minute, where AdamW alone has not begun to. On one machine the
same inputs give the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stillroom.chat_format import ChatFormat, Encoded
from stillroom.progress import track
from stillroom.training.tiny_recipe import TinyModel, TinyTeacher

BEGIN, END, PAD = "<s>", "</s>", "<pad>"
THREADS = 1
"""of torch while a teacher learns: the order of sums depends on it, so it is not the machine's number; such
small matrices gain little from a second one, and lose a lot where its core is busy"""
WARMUP = 30
"""steps in which the rate rises; then it falls linearly to 0"""
BUCKET = 16
"""conversations whose lengths differ by less may share a batch"""
EMBEDDING_RATE, HEAD_RATE, NORM_RATE = 5.0, 0.5, 0.5
"""AdamW's rates as multiples of Muon's; a row of the embedding is seen seldom, so it takes large steps"""


def build_tokenizer(texts: Iterable[str], vocabulary: int, chat: ChatFormat) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with `<s>`, `</s>`, `<pad>`, the format's own controls and its template."""
    controls = dict.fromkeys([BEGIN, END, PAD, *(c for c in chat.controls if not c.startswith("{"))])
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(controls),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, bpe.token_to_id(BEGIN))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat.jinja()
    return tokenizer


def build_model(sizes: TinyModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama in float32 with random weights; embeddings are padded up to `sizes.vocabulary`."""
    config = LlamaConfig(
        vocab_size=max(sizes.vocabulary, len(tokenizer)),
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=sizes.positions,
        initializer_range=sizes.matrix_scale,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        torch.nn.init.normal_(model.model.embed_tokens.weight, std=sizes.embedding_scale)
        return model


def teach(model: LlamaForCausalLM, rows: Sequence[Encoded], recipe: TinyTeacher, seed: int) -> None:
    """Train the model in place on the answers (the learned tokens) of the conversations, on the CPU."""
    optimizers = _optimizers(model, recipe.learning_rate)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, recipe.steps))
        for optimizer in optimizers
    ]
    batches = _endless(rows, recipe.batch_tokens, seed)
    with _threads(THREADS), track("teach", recipe.steps, "steps") as tracker:
        model.train()
        for _ in range(recipe.steps):
            loss = _loss(model, [rows[i] for i in next(batches)])
            loss.backward()  # type: ignore[no-untyped-call]
            clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            tracker.advance(note=f"loss {loss.item():.3f}")
        model.eval()


def _loss(model: LlamaForCausalLM, rows: Sequence[Encoded]) -> torch.Tensor:
    """Mean cross-entropy of the learned tokens."""
    # Padding stands on the right and needs no mask: nothing learned sees it.
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), model.config.pad_token_id)
    learned = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        learned[i, : len(row.ids)] = torch.tensor(row.learn)
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    learned = learned[:, 1:]
    return cross_entropy(model.lm_head(hidden[learned]), ids[:, 1:][learned])


def _optimizers(model: LlamaForCausalLM, rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the blocks, AdamW for embedding, head and norms; no weight decay."""
    inner = list(model.model.layers.parameters())
    embedding = list(model.model.embed_tokens.parameters())
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": embedding, "lr": rate * EMBEDDING_RATE},
        {"params": list(model.lm_head.parameters()), "lr": rate * HEAD_RATE},
        {"params": norms, "lr": rate * NORM_RATE},
    ]
    muon = torch.optim.Muon([p for p in inner if p.ndim == 2], lr=rate, weight_decay=0.0)
    return muon, torch.optim.AdamW(groups, betas=(0.8, 0.95), weight_decay=0.0)


def _share(step: int, steps: int) -> float:
    """The learning rate of a step (from 0) as a share of its peak."""
    warmup = min(WARMUP, steps // 2)
    return (step + 1) / (warmup + 1) if step < warmup else (steps - step) / (steps - warmup)


def _endless(rows: Sequence[Encoded], batch_tokens: int, seed: int) -> Iterator[list[int]]:
    """Batches of row numbers, pass after pass, each pass in an order of its own."""
    epoch = 0
    while True:
        yield from _batches(rows, batch_tokens, random.Random(f"{seed}/{epoch}"))
        epoch += 1


def _batches(rows: Sequence[Encoded], batch_tokens: int, draw: random.Random) -> list[list[int]]:
    """Row numbers in batches of at most `batch_tokens` padded tokens, rows of like lengths together."""
    order = draw.sample(range(len(rows)), len(rows))
    order.sort(key=lambda i: len(rows[i].ids) // BUCKET)
    batches: list[list[int]] = [[]]
    width = 0
    for i in order:
        width = max(width, len(rows[i].ids))
        if batches[-1] and width * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            width = len(rows[i].ids)
        batches[-1].append(i)
    draw.shuffle(batches)
    return batches


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Give torch that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
