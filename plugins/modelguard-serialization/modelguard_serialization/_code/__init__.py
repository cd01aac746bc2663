"""Source code of every kind, read and never compiled: what in it runs commands, opens the network, or hides."""
