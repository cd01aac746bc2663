"""microsoft operators."""
