"""The readers, one module for each kind of content; ``_table.py`` lists them."""
