"""``python -m modelguard``."""

from modelguard._cli import main

if __name__ == "__main__":
    main()
