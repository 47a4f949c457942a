from pathlib import Path

import pytest

from stillroom import chat_format
from stillroom.inference.generate import Generator
from stillroom.training.tiny import build_model, build_tokenizer
from stillroom.training.tiny_recipe import TinyModel

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Wie schön: größer und älter.",
    "[INST] why not? [/INST]",
]
SIZES = TinyModel(vocabulary=320, hidden_size=32, intermediate_size=48, layers=2, positions=96)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A random Llama, float32, whose answers wander: its weights are larger than a fresh model's."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(TEXTS * 3, SIZES.vocabulary, chat_format.get("inst"))
    model = build_model(SIZES, tokenizer, seed=1)
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.data *= 8
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def generator(folder) -> Generator:
    return Generator(folder, dtype="float64", device="cpu")
