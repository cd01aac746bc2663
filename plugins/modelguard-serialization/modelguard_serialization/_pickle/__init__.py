"""Pickles read as the unpickler would run them, without importing or calling anything."""
