"""Texts as model inputs: how rows become token sequences, and how those become batches."""
