"""Sizes of the models that are built here, and how the embedded teacher learns."""

from __future__ import annotations

from pydantic import Field, model_validator

from stillroom.params import Settings


class TinyModel(Settings):
    """A Llama built from these sizes with random weights, and the size of its tokenizer."""

    vocabulary: int = Field(default=2048, ge=259)
    """tokens of the byte-level tokenizer; 256 bytes and 3 control tokens at least"""
    texts: list[str] = []
    """files and folders of models.root that the tokenizer is built from; []: all"""
    hidden_size: int = Field(default=128, ge=8)
    """width of a position"""
    intermediate_size: int = Field(default=384, ge=8)
    """width inside the feed-forward blocks"""
    layers: int = Field(default=4, ge=1)
    """transformer blocks"""
    heads: int = Field(default=4, ge=1)
    """attention heads; hidden_size divided by them must be even"""
    kv_heads: int = Field(default=2, ge=1)
    """heads of keys and values; they divide the heads"""
    positions: int = Field(default=2048, ge=16)
    """most tokens of a sequence"""
    matrix_scale: float = Field(default=0.02, gt=0)
    """standard deviation of the random weights"""
    embedding_scale: float = Field(default=0.02, gt=0)
    """that of the token embeddings; larger ones are told apart sooner, as a few hundred steps need"""

    @model_validator(mode="after")
    def _heads_fit(self) -> TinyModel:
        if self.hidden_size % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError("hidden_size must be a multiple of 2 * heads, and heads one of kv_heads")
        return self


class TinyTeacher(TinyModel):
    """A small Llama that learns the answers of the fixtures by heart; files are relative to `models.root`."""

    layers: int = Field(default=2, ge=1)
    """transformer blocks"""
    conversations: str = "sharegpt.json"
    """dump whose answers it learns, cleaned as `extract` does"""
    lessons: str | None = "lessons.jsonl"
    """questions about the documents with quoted answers, as `raft` asks them; null: none"""
    documents: str = "documents"
    """folder that the lessons are about"""
    chunk_size: int = Field(default=400, ge=50)
    """as raft.chunk_size: it learns the passages that `raft` will show"""
    chunk_overlap: int = Field(default=0, ge=0)
    """as raft.chunk_overlap"""
    questions_per_chunk: int = Field(default=3, ge=1)
    """as raft.questions_per_chunk"""
    longest: int = Field(default=512, ge=2)
    """tokens; a longer conversation is not learned"""
    steps: int = Field(default=440, ge=1)
    """optimizer steps"""
    batch_tokens: int = Field(default=1024, ge=16)
    """padded tokens of a step; a longer conversation makes a step of its own"""
    learning_rate: float = Field(default=0.02, gt=0)
    """of the matrices, at its peak; embeddings, head and norms have rates of their own in proportion"""
