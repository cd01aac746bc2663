"""Checkpoint formats: torch files and GGUF."""
