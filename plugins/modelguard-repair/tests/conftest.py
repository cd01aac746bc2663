from __future__ import annotations

from modelguard_zoo.testing import built, target, zoo_folder  # noqa: F401
