"""Cheap backdoor detectors that accompany trigger inversion, each in a module of its name; none proves a model clean."""
