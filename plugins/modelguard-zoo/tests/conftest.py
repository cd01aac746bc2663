from __future__ import annotations

from modelguard_zoo.testing import built, language_model, target, zoo_folder  # noqa: F401
