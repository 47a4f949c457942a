"""stillroom: raw conversations and documents ──▶ a long-context chat model and a benchmark report."""

__version__ = "0.1.0"
