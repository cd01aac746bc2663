"""What detectors said, kept for the next scan of the same bytes (docs/scale.md)."""
