"""Executable content: pickles, torch files, archives, templates and code are read without running any of it."""
