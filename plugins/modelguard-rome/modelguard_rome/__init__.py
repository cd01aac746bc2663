"""Knowledge edits and tampered bits in model weights."""

from __future__ import annotations
