"""Changes to what was lowered: patterns fused to torch's own functions, a batch that the exporter fixed freed."""
