"""Torch graphs under construction: what a name can stand for, the shapes known of it, and the graph that is written."""
