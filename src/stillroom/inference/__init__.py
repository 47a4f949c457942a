"""Answers of a local model, in batches: for the embedded teacher, `stillroom serve` and the benchmarks."""
