"""Small clean and backdoored image models with exact records, to measure what a gate catches."""

from __future__ import annotations

from modelguard_zoo.build import Built, build_model, build_zoo, read_record
from modelguard_zoo.spec import Spec
from modelguard_zoo.standard import standard_zoo

__all__ = ["Built", "Spec", "build_model", "build_zoo", "read_record", "standard_zoo"]
