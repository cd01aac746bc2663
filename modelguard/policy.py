"""Policies: what is acceptable, and the verdict that follows for a report.

``load_policy`` reads and resolves a file (or ``builtin:NAME``), ``Policy.check`` refuses names nobody declares, ``evaluate`` judges.
``docs/policy.md`` describes the file; ``_policies/merge.py`` defines what a child may change; ``_policies/judge.py`` is the judgement.
"""

from __future__ import annotations

from modelguard._policies.judge import evaluate
from modelguard._policies.load import DEFAULT, Resolved, builtin_names, load_policy, resolve
from modelguard._policies.model import Policy, Waiver
from modelguard._policies.rules import JUDGEMENT_RULES

__all__ = ["DEFAULT", "JUDGEMENT_RULES", "Policy", "Resolved", "Waiver", "builtin_names", "evaluate", "load_policy", "resolve"]
