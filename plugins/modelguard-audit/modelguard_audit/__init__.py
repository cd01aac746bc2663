"""Audits a training set with the model that was trained on it: each method in a module of its name."""
