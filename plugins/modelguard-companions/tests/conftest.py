from __future__ import annotations

from modelguard_zoo.testing import built, target  # noqa: F401
