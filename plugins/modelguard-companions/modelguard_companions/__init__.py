"""Cheap backdoor detectors that accompany trigger inversion. Each is its own detector; none proves a model clean."""
