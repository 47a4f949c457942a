"""A tiny base model, packed rows of uneven make, and groups of forked processes that train on them."""

import json
import multiprocessing
import os
import socket
import traceback
from pathlib import Path

import numpy as np
import peft  # noqa: F401  (once, before processes are forked)
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

from stillroom.training import loop
from stillroom.training.recipe import Recipe

VOCABULARY = 300
CONTEXT = 96
torch.set_num_threads(1)

FAMILIES = {
    "llama": {"num_key_value_heads": 2},
    "llama-tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 16},
    "qwen2": {"num_key_value_heads": 2},
    "phi": {},
    "gpt_neox": {},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
}


def family_config(family: str) -> PretrainedConfig:
    return AutoConfig.for_model(
        family.partition("-")[0],
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **FAMILIES[family],
    )


def build_base(folder: Path, family: str = "llama") -> Path:
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(family_config(family)).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and three control tokens."""
    controls = {"<pad>": 0, "<s>": 1, "</s>": 2}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = controls | {letter: number for number, letter in enumerate(alphabet, 3)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def random_rows(count: int, seed: int) -> list[dict]:
    """Rows of one to six documents; loss on none to nearly all of each, and one row without any."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        ids, labels, bounds = [], [], [0]
        for _ in range(draw.integers(1, 7)):
            length = int(min(draw.integers(2, 40), CONTEXT - len(ids)))
            if length < 2:
                break
            tokens = draw.integers(3, VOCABULARY, length).tolist()
            prompt = length if number == 3 else int(draw.integers(1, length + 1))
            ids += tokens
            labels += [-100] * (prompt - 1) + tokens[prompt:] + [-100]
            bounds.append(len(ids))
        rows.append({"input_ids": ids, "labels": labels, "cu_seqlens": bounds, "documents": ["d"]})
    return rows


def write_packed(folder: Path, train: list[dict], validation: list[dict], context: int = CONTEXT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    ints = pa.list_(pa.int32())
    fields = [
        ("input_ids", ints),
        ("labels", ints),
        ("cu_seqlens", ints),
        ("documents", pa.list_(pa.string())),
    ]
    for name, rows in (("train", train), ("validation", validation)):
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), folder / f"{name}.parquet")
    info = {"context_length": context, "pad_token_id": 0, "vocab_size": VOCABULARY, "rows": len(train)}
    (folder / "info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packed(tmp_path_factory.mktemp("packed"), random_rows(11, 0), random_rows(3, 1))


class Group:
    """Runs a function in N forked processes that form a process group; torch is imported once, here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._context = multiprocessing.get_context("fork")

    def __call__(self, world: int, function, *args) -> list[int]:
        """Exit codes by rank; 1 with the exception's text in `folder/RANK.txt`."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [
            self._context.Process(target=self._child, args=(rank, world, port, function, args))
            for rank in range(world)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
            if child.is_alive():
                child.kill()
                child.join()
        return [child.exitcode for child in children]

    def _child(self, rank: int, world: int, port: int, function, args) -> None:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ.update({name: str(value) for name, value in place.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
        try:
            dist.init_process_group("gloo")
            function(*args)
            dist.destroy_process_group()
        except BaseException as error:
            traceback.print_exc()
            (self.folder / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
            os._exit(1)
        os._exit(0)


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return Group(tmp_path)


@pytest.fixture
def trained(tmp_path: Path, base: Path, packed: Path, group: Group):
    """Train in a work folder of its own and give that folder; settings are the recipe's."""

    def run(
        name: str, world: int = 1, stop=lambda: False, base: Path = base, packed: Path = packed, **settings
    ):
        work = tmp_path / name
        work.mkdir(exist_ok=True)
        recipe = Recipe(**{"batch_size": 4, "lr": 1e-3, "steps": 4, "warmup": 0.0, **settings})
        job = loop.Job(packed, base, work, recipe)
        run.codes = group(world, loop.train, job, torch.device("cpu"), stop)
        return work

    return run
