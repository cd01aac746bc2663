"""``weight-forensics``: traces that tampering leaves in the stored numbers themselves. No reference needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modelguard import (
    Capability,
    Checkpoint,
    Confidence,
    Detector,
    Finding,
    Location,
    ScanContext,
    Severity,
    Skip,
    Target,
    TensorInfo,
    option,
)
from modelguard_rome import _non_finite
from modelguard_rome._bits import LAYOUTS, SPAN, BitStatistics, Layout, Suspicion, Words, outlier_threshold
from modelguard_rome._copies import almost_tied, constant, duplicates, is_matrix, is_tie
from modelguard_rome._forensic_rules import RULES
from modelguard_rome._measures import FORENSICS
from modelguard_rome._payload import Hidden, find_hidden
from modelguard_rome._products import are_products
from modelguard_rome._rows import is_uneven_by_row

CHUNK = 16 * SPAN
"""Elements looked at at a time (1 MiB of float32): most of what is computed of them stays in the processor's cache."""
LISTED = 8
"""Positions that evidence lists."""


@dataclass(frozen=True)
class WeightForensics(Detector):
    """Non-finite values, hidden payloads, flipped exponent bits, and tensors that are dead, copied or almost tied."""

    id = "weight-forensics"
    requires = frozenset({Capability.WEIGHTS})
    rules = RULES
    shows = FORENSICS

    search_files: bool = option(True, "look for the headers of hidden files in the weights' low bits (half of the time)")

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        total = sum(tensor.byte_length for _, tensor in target.walk())
        if total == 0:
            raise Skip("the artifact has no tensor with any bytes")
        done, worst, looked_at = 0, Severity.INFO, 0
        for checkpoint in target.checkpoints:
            shares: dict[str, float] = {}
            findings: list[Finding] = []
            broken: list[_non_finite.NonFinite] = []
            uses = _non_finite.Uses(checkpoint, context.check_deadline)
            for tensor in checkpoint.tensors.values():
                context.check_deadline()
                context.progress(done, total, tensor.name)
                done += tensor.byte_length
                if tensor.dtype in LAYOUTS and tensor.size:
                    looked_at += 1
                    statistics, hidden = self._read(checkpoint, tensor, context)
                    if tensor.dtype == "F32" and is_matrix(tensor) and statistics.size > statistics.zeros:
                        shares[tensor.name] = statistics.full_low / (statistics.size - statistics.zeros)
                    findings += _of_tensor(checkpoint, tensor, statistics, hidden)
                    if (item := _broken(checkpoint, tensor, statistics, uses)) is not None:
                        broken.append(item)
            context.check_deadline()
            findings += _non_finite.findings(broken, _at)
            findings += [*_upcast(checkpoint, shares), *_copies(checkpoint)]
            for finding in _arithmetic(findings, checkpoint):
                worst = max(worst, finding.severity if finding.severity is not None else _severity(finding.rule))
                yield finding
        context.summary(score=float(worst) / float(Severity.CRITICAL), tensors=looked_at, bytes=total)

    def _read(self, checkpoint: Checkpoint, tensor: TensorInfo, context: ScanContext) -> tuple[BitStatistics, Hidden | None]:
        statistics, hidden = BitStatistics(LAYOUTS[tensor.dtype]), None
        words = _words(checkpoint, tensor)
        for start in range(0, len(words), CHUNK):
            context.check_deadline()
            statistics.add(np.require(words[start : start + CHUNK], requirements="A"))
            if self.search_files and hidden is None:
                hidden = find_hidden(words, start, start + CHUNK)
        return statistics, hidden


def _arithmetic(findings: list[Finding], checkpoint: Checkpoint) -> list[Finding]:
    """Structured low bits in half of all matrices or more are what computing from coarser numbers leaves, not what somebody hid."""
    matrices = sum(tensor.dtype in LAYOUTS and tensor.size >= SPAN // 4 for tensor in checkpoint.tensors.values())
    structured = sum(finding.rule == "MG1304" for finding in findings)
    if structured < 3 or 2 * structured < matrices:
        return findings
    note = f"; so are those of {structured} of {matrices} tensors, as after arithmetic on coarser weights"
    return [
        replace(item, severity=Severity.LOW, confidence=Confidence.LOW, message=item.message + note) if item.rule == "MG1304" else item
        for item in findings
    ]


def _words(checkpoint: Checkpoint, tensor: TensorInfo) -> Words:
    width = tensor.byte_length // tensor.size
    words: Words = np.frombuffer(checkpoint.raw(tensor.name), np.dtype(f"<u{width}"))
    return words


def _severity(rule: str) -> Severity:
    return next(item.severity for item in RULES if item.id == rule)


def _at(tensor: TensorInfo, first: int, last: int) -> Location:
    width = tensor.byte_length // tensor.size
    offset = None if tensor.byte_offset is None else tensor.byte_offset + first * width
    return Location(tensor.file, tensor.name, None, offset, (last - first) * width)


def _of_tensor(checkpoint: Checkpoint, tensor: TensorInfo, statistics: BitStatistics, hidden: Hidden | None) -> Iterator[Finding]:
    yield from _outliers(tensor, _words(checkpoint, tensor), statistics)
    if hidden is not None:
        message = f"{tensor.name}: the low {hidden.bits} bits of its weights hold a file from element {hidden.element} on: {hidden.kind}"
        evidence = {"kind": hidden.kind, "bits_per_weight": hidden.bits, "element": hidden.element}
        yield Finding("MG1303", message, Confidence.HIGH, location=_at(tensor, hidden.element, tensor.size), evidence=evidence)
    if (found := statistics.mantissa) is not None:
        ones = statistics.first_bit_ones / max(1, statistics.size - statistics.zeros)
        yield Finding(
            "MG1302",
            f"{tensor.name}: mantissas of elements {found.first}-{found.last} do not follow their exponents "
            f"(first bit set in {100 * found.worst['first_bit']:.1f} %, z = {found.worst['z']:.0f})",
            Confidence.HIGH,
            location=_at(tensor, found.first, found.last),
            evidence={**found.worst, "spans": found.spans, "first_bit_of_tensor": round(ones, 4), "log_uniform": 0.415},
        )
    found = statistics.structured
    if found is not None and not _is_folded(checkpoint, tensor, found):
        yield Finding(
            "MG1304",
            f"{tensor.name}: the low mantissa bits of elements {found.first}-{found.last} are not noise (z = {found.worst['z']:.0f})",
            Confidence.MEDIUM,
            location=_at(tensor, found.first, found.last),
            evidence={**found.worst, "spans": found.spans},
        )


def _is_folded(checkpoint: Checkpoint, tensor: TensorInfo, found: Suspicion) -> bool:
    """Whether its low bits are what folding a factor, or a branch, for each channel into a convolution leaves."""
    if tensor.dtype != "F32":
        return False
    words = _words(checkpoint, tensor)
    return are_products(words, tensor.shape, found.first, found.last) or is_uneven_by_row(words, tensor.shape, found.first, found.last)


def _broken(checkpoint: Checkpoint, tensor: TensorInfo, statistics: BitStatistics, uses: _non_finite.Uses) -> _non_finite.NonFinite | None:
    count = int(statistics.exponents[-1])
    if count == 0:
        return None
    words, layout = _words(checkpoint, tensor), statistics.layout
    where = _exponent_at_least(words, layout, (1 << layout.exponent) - 1, LISTED)
    return _non_finite.look(tensor, words, count, where, uses)


def _outliers(tensor: TensorInfo, words: Words, statistics: BitStatistics) -> Iterator[Finding]:
    layout = statistics.layout
    threshold = outlier_threshold(statistics.exponents)
    # Below 16 in magnitude nothing does harm by being large.
    least = (1 << (layout.exponent - 1)) - 1 + 4
    if threshold is None or not (count := int(statistics.exponents[max(threshold, least) : -1].sum())):
        return
    where = [i for i in _exponent_at_least(words, layout, max(threshold, least), 4 * LISTED) if np.isfinite(_value(words[i], tensor))]
    unflipped = [_value(words[i] & words.dtype.type(~(1 << (layout.mantissa + layout.exponent - 1)) & _mask(words)), tensor) for i in where]
    yield Finding(
        "MG1306",
        f"{tensor.name}: {count} of {tensor.size} values are more than a thousand times larger than 99.9 % of the others",
        Confidence.MEDIUM,
        location=_at(tensor, where[0], where[0] + 1) if where else Location(tensor.file, tensor.name),
        evidence={
            "count": count,
            "elements": where[:LISTED],
            "values": [float(f"{_value(words[i], tensor):.4g}") for i in where[:LISTED]],
            "without_highest_exponent_bit": [float(f"{value:.4g}") for value in unflipped[:LISTED]],
        },
    )


def _mask(words: Words) -> int:
    return (1 << (8 * words.dtype.itemsize)) - 1


def _value(word: Any, tensor: TensorInfo) -> float:
    from modelguard import numpy_dtype

    with np.errstate(invalid="ignore"):
        return float(np.asarray(word).reshape(1).view(numpy_dtype(tensor.dtype)).astype(np.float64)[0])


def _exponent_at_least(words: Words, layout: Layout, exponent: int, limit: int) -> list[int]:
    """Flat indices of the first ``limit`` elements whose exponent field is at least ``exponent``."""
    found: list[int] = []
    bound = words.dtype.type(exponent << layout.mantissa)
    magnitude = words.dtype.type((1 << (layout.mantissa + layout.exponent)) - 1)
    for start in range(0, len(words), CHUNK):
        found += (start + np.flatnonzero((words[start : start + CHUNK] & magnitude) >= bound)).tolist()
        if len(found) >= limit:
            break
    return found[:limit]


def _upcast(checkpoint: Checkpoint, shares: dict[str, float]) -> Iterator[Finding]:
    """Matrices that use their low 16 bits among at least four times as many that do not; ``shares`` of such elements by name."""
    coarse = [name for name, share in shares.items() if share == 0]
    full = sorted(name for name, share in shares.items() if share > 0)
    if len(coarse) < 4 or len(coarse) < 4 * len(full):
        return
    for name in full:
        tensor = checkpoint.tensors[name]
        partial = shares[name] < 0.999 and not _whole_rows(checkpoint, tensor)
        what = f"{100 * shares[name]:.3g} % of its weights use" if partial else "its weights use"
        yield Finding(
            "MG1305",
            f"{name}: {what} the low 16 bits that {len(coarse)} other matrices of this checkpoint leave zero",
            Confidence.MEDIUM if partial else Confidence.LOW,
            severity=Severity.MEDIUM if partial else Severity.LOW,
            location=Location(tensor.file, name),
            evidence={"share": float(f"{shares[name]:.4g}"), "upcast_matrices": len(coarse)},
        )


def _whole_rows(checkpoint: Checkpoint, tensor: TensorInfo) -> bool:
    """Whether the weights with low bits fill whole rows, as vocabulary rows added later do."""
    low = (_words(checkpoint, tensor) & np.uint32(0xFFFF)).reshape(tensor.shape[0], -1) != 0
    share = low.mean(axis=1)
    return bool(np.all((share == 0) | (share > 0.9)))


def _copies(checkpoint: Checkpoint) -> Iterator[Finding]:
    alive = []
    for tensor in checkpoint.tensors.values():
        if not is_matrix(tensor):
            continue
        if not constant(checkpoint, tensor):
            alive.append(tensor)
        elif tensor.dtype in LAYOUTS:
            message = f"{tensor.name}: all {tensor.size} entries are the same"
            yield Finding("MG1307", message, Confidence.HIGH, location=Location(tensor.file, tensor.name))
    for names in duplicates(checkpoint, alive):
        if not is_tie(names):
            first = checkpoint.tensors[names[0]]
            message = f"{names[0]} has the same bytes as {', '.join(names[1:4])}{' ...' if len(names) > 4 else ''}"
            yield Finding("MG1308", message, Confidence.HIGH, location=Location(first.file, first.name), evidence={"names": names[:LISTED]})
    for head, embedding, rows in almost_tied(checkpoint):
        yield Finding(
            "MG1309",
            f"{head.name} equals {embedding} except in {len(rows)} of {head.shape[0]} rows",
            Confidence.MEDIUM,
            location=Location(head.file, head.name, tuple(rows[:LISTED].tolist())),
            evidence={"rows": rows[:64].tolist(), "count": len(rows)},
        )
