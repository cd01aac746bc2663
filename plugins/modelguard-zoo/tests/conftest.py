from __future__ import annotations

from modelguard_zoo.testing import language_model, zoo_folder  # noqa: F401
