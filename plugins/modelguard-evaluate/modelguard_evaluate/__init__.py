"""What a known trigger does to a model."""
