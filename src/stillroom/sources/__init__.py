"""Readers of data sets that others made: one file per format, each opening with a worked example."""
