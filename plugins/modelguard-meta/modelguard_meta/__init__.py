"""Meta neural analysis: a classifier of whole models, learnt from shadow models of one architecture and task."""
