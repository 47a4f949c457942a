"""Training on packed rows: FSDP2 and DCP from torch, models from transformers, adapters from peft.

recipe       settings
rows         packed rows on disk ──▶ the micro-batches of each process and step
attention    documents of a packed row attend only to themselves
loss         hidden states ──▶ summed cross-entropy, without the full logits
model        base folder ──▶ sharded model with adapter
optimizer    AdamW groups and the learning-rate schedule
checkpoint   model, optimizer and progress ⇄ a DCP directory, atomically
loop         steps, validation, checkpoints
worker       one process of a run;  launch starts them all
"""
