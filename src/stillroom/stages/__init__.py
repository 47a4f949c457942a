"""The stages, left to right. File = Snakemake rule = dvc stage = params block = command `stillroom STAGE`."""

STAGES = (
    "fetch",
    "models",
    "extract",
    "distill",
    "booksum",
    "mqa",
    "raft",
    "mix",
    "pack",
    "train",
    "convert",
    "evaluate",
    "report",
)
