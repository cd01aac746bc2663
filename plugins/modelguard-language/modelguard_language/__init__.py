"""Looks for backdoors in text classifiers and language models: what words, phrases and soft tokens do to them."""
