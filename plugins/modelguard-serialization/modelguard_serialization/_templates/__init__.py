"""Jinja templates, parsed and never compiled or rendered: what in them escapes, compares and injects."""
