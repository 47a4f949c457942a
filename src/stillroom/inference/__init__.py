"""Answers of a local model: batched generation, for the embedded teacher, `stillroom serve` and benchmarks."""
