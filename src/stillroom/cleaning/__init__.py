"""Cleaning of raw conversations: what changes a conversation or drops it, in modules by subject."""
