"""Many models: the same scan for each of them, on an engine, with a journal and one summary (docs/scale.md)."""
