"""Guarded downloads: a model is brought into quarantine, scanned there, and moved to where it was asked for only on a pass."""
