"""A guard for a model that is in use, and a test for drift in what the model says."""
