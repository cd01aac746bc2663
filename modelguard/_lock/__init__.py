"""``modelguard.lock``: which models a project uses, pinned to a commit and to the digest of every file."""
