"""The detector ``weight-diff``: what was done to these weights, as findings and as a summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelguard._diff import rules
from modelguard._diff.changes import BlockQuantized, Cast, Erased, NotCompared, RowEdit
from modelguard._diff.derived import rotaries
from modelguard._diff.diff import ModelDiff, TensorDiff, diff_checkpoints
from modelguard._diff.model_level import ModelChange
from modelguard._diff.names import is_embedding, is_head
from modelguard._diff.pairing import Place
from modelguard._diff.shows import SHOWS
from modelguard._diff.tokens import token_names
from modelguard._diff.updates import Updates, scaled, told
from modelguard._inputs.config import artifact_json
from modelguard.artifact import Artifact
from modelguard.checkpoint import TensorInfo
from modelguard.detector import Capability, Detector, ScanContext, Skip, Target, option
from modelguard.errors import ModelError
from modelguard.findings import Confidence, Finding, Location, Severity

DERIVED = "; it holds exactly what loading computes anew"
FEW = 3
"""Tensors of a kind that the model's change is about up to which each is a finding of its own."""


@dataclass(frozen=True)
class WeightDiff(Detector):
    """Compares every tensor with its counterpart in the reference and says what was done to it."""

    id = "weight-diff"
    requires = frozenset({Capability.WEIGHTS, Capability.REFERENCE})
    rules = rules.RULES
    shows = SHOWS
    keeps_with_options = False  # the folder of updates may hold other files tomorrow

    max_rank: int = option(64, "largest rank that is looked for in a change", ge=1, le=256)
    max_findings: int = option(20, "findings of one rule; the summary always lists every tensor", ge=1)
    updates: str | None = option(None, "folder of client updates of federated learning: one safetensors file a client")

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        if target.reference is None or not target.reference.checkpoints:
            raise Skip("the reference holds no readable checkpoint")
        clients = (
            None if self.updates is None else Updates.open(str((context.folder or Path()) / self.updates), target.reference.checkpoints)
        )
        diff = diff_checkpoints(
            target.reference.checkpoints,
            target.checkpoints,
            reference_digests=_digests(target.reference),
            digests=_digests(target),
            threads=context.threads,
            max_rank=self.max_rank,
            turning=rotaries(_config(target)),
            check=context.check_deadline,
            progress=context.progress,
        )
        sent = clients.compare(target.reference.checkpoints, target.checkpoints, context.check_deadline) if clients is not None else None
        context.summary(**summary(diff))
        yield from self._structure(diff)
        yield from self._graphs(diff)
        yield from self._tensors(diff, target.artifact)
        if (found := _of_model(diff.change)) is not None:
            yield found
        if sent is not None:
            context.summary(**told(diff.change, sent))
            for item in self._capped(scaled(sent)):
                context.summary(score=max(score(diff), _SCORE[rules.SEVERITY["MG1218"]]))
                evidence = {**item.plain(), "updates": len(sent), **_more(scaled(sent), self.max_findings)}
                yield Finding("MG1218", item.sentence(), Confidence.HIGH, evidence=evidence, key=item.name)

    def _structure(self, diff: ModelDiff) -> Iterator[Finding]:
        for rule, places, phrase in (
            ("MG1101", diff.matching.missing, "has no counterpart in the checkpoint"),
            ("MG1102", diff.matching.added, "has no counterpart in the reference"),
        ):
            for place in self._capped(places):
                tensor = place.tensor
                # What is missing from the checkpoint has no place in its files.
                location = Location(tensor=tensor.name) if rule == "MG1101" else _location(tensor)
                computed = place.name in diff.derived
                yield Finding(
                    rule,
                    f"{tensor.name} {list(tensor.shape)} {tensor.dtype} {phrase}{DERIVED if computed else ''}",
                    Confidence.HIGH,
                    Severity.LOW if computed else None,
                    location,
                    evidence=_more(places, self.max_findings),
                )
        for names, side in ((diff.matching.unpaired, "reference"), (diff.matching.unpaired_reference, "artifact")):
            for name in self._capped(names):
                yield Finding("MG1107", f"checkpoint {name} has no counterpart in the {side}", Confidence.HIGH, key=f"{side}/{name}")
        guessed = [pair for pair in diff.matching.pairs if pair.how == "similar"]
        for rule, severity, key, renamed, phrase in (
            ("MG1106", None, "", guessed, "tensors without a counterpart by name, paired with what they resemble most"),
            (
                "MG1109",
                Severity.LOW,
                "alike",
                diff.renames.harmless,
                "tensors renamed alike, with a whole stack of layers or between two graphs",
            ),
            ("MG1109", None, "", diff.renames.unknown, "tensors that are not under the reference's names for them"),
            ("MG1110", None, "", diff.renames.exchanged, "tensors under names that say another layer or part"),
        ):
            if renamed:
                yield self._renamed(rule, severity, key, {pair.after.name: pair.before.name for pair in renamed}, phrase)
        if diff.exchanged:
            yield self._renamed("MG1110", None, "bytes", diff.exchanged, "tensors that hold what the reference has under another name")
        for place in self._capped(diff.matching.buffers):
            tensor = place.tensor
            message = f"{tensor.name} {list(tensor.shape)} {tensor.dtype} has no counterpart in this format and was not compared"
            yield Finding(
                "MG1105",
                message,
                Confidence.HIGH,
                location=Location(tensor=tensor.name),
                evidence=_more(diff.matching.buffers, self.max_findings),
            )
        for before, after in self._capped(diff.matching.resized):
            old, new = before.tensor, after.tensor
            shared = next((item for item in diff.tensors if item.name == after.name), None)
            grown = len(old.shape) == len(new.shape) > 1 and old.shape[1:] == new.shape[1:]
            note = (
                "the common rows are equal"
                if grown and shared is None
                else "the common rows changed too"
                if grown and shared is not None and shared.comparable
                else "the values were not compared"
            )
            yield Finding(
                "MG1103",
                f"{new.name} has shape {list(new.shape)}, and {list(old.shape)} in the reference: {note}",
                Confidence.HIGH,
                Severity.MEDIUM if grown and shared is None else None,
                _location(new),
                {"shape": list(new.shape), "reference_shape": list(old.shape), "common_rows_equal": grown and shared is None},
            )

    def _renamed(self, rule: str, severity: Severity | None, key: str, names: Mapping[str, str], phrase: str) -> Finding:
        listed = dict(sorted(names.items())[: self.max_findings])
        first = ", ".join(f"{new} holds {old}" for new, old in list(listed.items())[:3])
        message = f"{len(names)} {phrase}: {first}{' ...' if len(names) > 3 else ''}"
        evidence = {"renamed": listed, **_more(names, self.max_findings)}
        return Finding(rule, message, Confidence.HIGH, severity, evidence=evidence, key=key)

    def _graphs(self, diff: ModelDiff) -> Iterator[Finding]:
        for item in self._capped(diff.graphs):
            counts = [
                f"{_counted(sum(nodes.values()), word)} ({', '.join(f'{count} {name}' for name, count in list(nodes.items())[:8])})"
                for nodes, word in ((item.added, "more"), (item.removed, "fewer"))
                if nodes
            ]
            if item.moved:
                counts.append(f"inputs or outputs in another order ({', '.join(item.moved[:8])})")
            if item.versions is not None:
                other = (
                    f", in which {', '.join(item.redefined[:8])} mean{'s' * (len(item.redefined) == 1)} something else"
                    if item.redefined
                    else ""
                )
                counts.append(f"operator set {item.versions[0]} -> {item.versions[1]}{other}")
            how = " and ".join(counts) or "the same operators with other constants, attributes or edges"
            evidence = {"added": item.added, "removed": item.removed, "outputs": list(item.outputs)[:64], "moved": list(item.moved)[:64]}
            message = f"the graph of {item.name} differs from the reference's: {how}"
            yield Finding("MG1122", message, Confidence.HIGH, location=Location(item.file), evidence=evidence)
        for name in self._capped(diff.graphs_not_compared):
            message = f"the graph of {name} was not compared: its weights were compared with a checkpoint that holds no graph"
            yield Finding("MG1123", message, Confidence.HIGH, key=name, evidence=_more(diff.graphs_not_compared, self.max_findings))

    def _tensors(self, diff: ModelDiff, artifact: Artifact) -> Iterator[Finding]:
        by_kind: dict[str, list[TensorDiff]] = {}
        for item in diff.tensors:
            by_kind.setdefault(item.kind, []).append(item)
        yield from self._dtypes(diff)
        for kind, items in sorted(by_kind.items()):
            if kind == NotCompared.kind:
                continue
            if len(items) > FEW and (kind == Cast.kind or kind in diff.change.about.covers):
                continue
            for item in self._capped(items):
                tokens = _tokens(item, artifact)
                yield Finding(
                    item.change.rule,
                    _sentence(item) + (f": {', '.join(map(repr, list(tokens.values())[:8]))}" if tokens else ""),
                    item.change.confidence,
                    item.change.severity,
                    _place(item),
                    evidence={**numbers(item), **item.evidence, **_named(tokens), **_more(items, self.max_findings)},
                )

    def _dtypes(self, diff: ModelDiff) -> Iterator[Finding]:
        unknown = [item for item in diff.tensors if isinstance(item.change, NotCompared)]
        retyped = [item for item in diff.tensors if item.comparable and item.dtype != item.reference_dtype]
        retyped = [item for item in retyped if not isinstance(item.change, (BlockQuantized, Cast, Erased))]
        rough = [item for item in diff.tensors if isinstance(item.change, BlockQuantized) and not item.change.shown]
        broken = [item for item in diff.tensors if item.non_finite]
        for rule, items, phrase in (
            ("MG1105", unknown, "{0.name} differs, and its values could not be compared: {0.change.why}"),
            ("MG1105", rough, "{0.name} is {0.change.type}, a type of which it cannot be shown that it is the reference and nothing else"),
            (
                "MG1104",
                retyped,
                "{0.name} is {0.dtype}, and {0.reference_dtype} in the reference, but it is not the reference rounded to {0.dtype}",
            ),
            ("MG1108", broken, "{0.non_finite} values of {0.name} are not finite, but are in the reference"),
        ):
            for item in self._capped(items):
                told: dict[str, dict[str, Any]] = {
                    "MG1104": {"dtype": item.dtype, "reference_dtype": item.reference_dtype},
                    "MG1108": {"count": item.non_finite},
                }
                evidence = {**told.get(rule, {}), **_more(items, self.max_findings)}
                yield Finding(rule, phrase.format(item), Confidence.HIGH, location=_place(item), evidence=evidence)

    def _capped(self, items: Any) -> Any:
        return items[: self.max_findings]


def _counted(count: int, word: str) -> str:
    return f"{count} {word} operator{'' if count == 1 else 's'}"


def _digests(target: Target) -> dict[str, str]:
    return {file.path: file.sha256 for file in target.artifact.files if file.sha256 is not None}


def _config(target: Target) -> Mapping[str, Any]:
    """config.json beside the weights; empty where there is none that can be read, which reference-files says."""
    try:
        return artifact_json(target.artifact, target.checkpoints[0], "config.json") if target.checkpoints else {}
    except ModelError:
        return {}


def _location(tensor: TensorInfo) -> Location:
    return Location(tensor.file, tensor.name, None, tensor.byte_offset, tensor.byte_length)


def _place(item: TensorDiff) -> Location:
    return Location(item.file, item.tensor, _rows(item), item.byte_offset, item.byte_length)


def _rows(item: TensorDiff) -> tuple[int, ...] | None:
    return item.change.indices if isinstance(item.change, RowEdit) and item.change.axis == "row" else None


def _sentence(item: TensorDiff) -> str:
    size = f"{item.changed} of {item.entries} entries, relative norm {item.relative_norm:.2g}"
    return item.change.sentence(item.name, item.changed, size)


def _tokens(item: TensorDiff, artifact: Artifact) -> dict[int, str]:
    rows = _rows(item)
    return token_names(artifact, item.file, rows) if rows and (is_embedding(item.tensor) or is_head(item.tensor)) else {}


def _named(tokens: Mapping[int, str]) -> dict[str, Any]:
    return {"tokens": [{"row": row, "token": token} for row, token in tokens.items()]} if tokens else {}


def _more(items: Any, limit: int) -> dict[str, Any]:
    return {"not_listed": len(items) - limit} if len(items) > limit else {}


def numbers(item: TensorDiff) -> dict[str, Any]:
    """The numbers every tensor finding carries."""
    return {
        "changed": item.changed,
        "entries": item.entries,
        "fraction": item.fraction,
        "relative_norm": item.relative_norm,
        "max_abs": item.max_abs,
        "cosine": item.cosine,
        "kurtosis": item.kurtosis,
    }


def _of_model(change: ModelChange) -> Finding | None:
    if not change.about.rule:
        return None
    # Training freezes whole layers, not all but one projection: that is where knowledge edits go.
    severity = Severity.HIGH if change.evidence.get("one_kind_of_module") else Severity.MEDIUM if change.evidence.get("coarse") else None
    confidence = Confidence.HIGH if change.about.certain else Confidence.MEDIUM
    return Finding(change.about.rule, change.reason, confidence, severity, evidence=change.evidence)


def summary(diff: ModelDiff) -> dict[str, Any]:
    """The outcome's summary: ``verdict``, every tensor that is not identical, what was matched and what was not, ``score``."""
    matching = diff.matching
    return {
        "verdict": diff.change.kind,
        "reason": diff.change.reason,
        "tensors": [
            {
                "name": item.name,
                "kind": item.kind,
                "rank": item.rank,
                "relative_norm": item.relative_norm if item.comparable else None,
                "changed": item.changed,
                "fraction": item.fraction,
                "shape": list(item.shape),
                "dtype": item.dtype,
                "matched": item.matched,
            }
            for item in diff.tensors
        ],
        "matched": len(matching.pairs),
        "identical": diff.identical,
        "identical_by_digest": len(diff.by_digest),
        "missing": _names(matching.missing),
        "added": _names(matching.added),
        "resized": [after.name for _, after in matching.resized],
        "unpaired": list(matching.unpaired),
        "unpaired_reference": list(matching.unpaired_reference),
        "renamed": {
            pair.name: pair.before.name for pair in matching.pairs if pair.how in ("content", "similar", "fused", "tied", "renamed")
        },
        "derived": list(diff.derived),
        "exchanged": dict(sorted({**{pair.after.name: pair.before.name for pair in diff.renames.exchanged}, **diff.exchanged}.items())),
        "tied": dict(matching.tied),
        "constants": list(matching.constants),
        "buffers": _names(matching.buffers),
        "graphs": [item.name for item in diff.graphs],
        "graphs_not_compared": list(diff.graphs_not_compared),
        "score": score(diff),
    }


def _names(places: tuple[Place, ...]) -> list[str]:
    return [place.name for place in places]


_SCORE = {Severity.INFO: 0.1, Severity.LOW: 0.25, Severity.MEDIUM: 0.5, Severity.HIGH: 0.8, Severity.CRITICAL: 1.0}


def score(diff: ModelDiff) -> float:
    """0 for identical checkpoints, else by the severity of the worst thing that was found, up to 1."""
    found = [rules.SEVERITY[item.change.rule] for item in diff.tensors if item.change.telling]
    found += [rules.SEVERITY["MG1122"]] * bool(diff.graphs)
    found += [rules.SEVERITY["MG1110"]] * bool(diff.renames.exchanged or diff.exchanged)
    if diff.change.about.rule:
        found.append(rules.SEVERITY[diff.change.about.rule])
    return max((_SCORE[severity] for severity in found), default=0.0)
