"""What can have been done to one tensor: one type for each kind of change, with its rule, its numbers and its sentence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from modelguard._diff.replay import Replay
from modelguard.findings import Confidence, Severity


class Change(ABC):
    """A kind of change. ``telling`` kinds say something about the one tensor, and raise the score whatever became of the model."""

    __slots__ = ()

    kind: ClassVar[str]
    rule: ClassVar[str]
    confidence: ClassVar[Confidence] = Confidence.HIGH
    telling: ClassVar[bool] = False

    @property
    def severity(self) -> Severity | None:
        """What a finding of it is given, None for its rule's own."""
        return None

    @abstractmethod
    def evidence(self) -> dict[str, Any]:
        """The numbers that support it (JSON-safe)."""

    @abstractmethod
    def sentence(self, name: str, changed: int, size: str) -> str:
        """What a finding says of the tensor ``name``, of which ``changed`` entries differ; ``size`` words how far the change goes."""


@dataclass(frozen=True, slots=True)
class Cast(Change):
    """Rounded from dtype ``before`` to dtype ``after``, ``through`` a narrower one where that is not empty; bit for bit."""

    before: str
    after: str
    through: str = ""

    kind = "cast"
    rule = "MG1111"

    def evidence(self) -> dict[str, Any]:
        return {"from": self.before, "to": self.after} | ({"through": self.through} if self.through else {})

    def sentence(self, name: str, changed: int, size: str) -> str:
        return f"{name} is the reference rounded to {self.through or self.after}"


@dataclass(frozen=True, slots=True)
class Quantized(Change):
    """A round trip through ``bits`` bits with one scale per ``group`` (tensor, row, column, or entries per group).

    ``agreement`` is the share of moved entries that the replayed quantiser reproduces; ``scheme`` is ``symmetric``, ``asymmetric``, or
    ``values`` where only the number of values left betrays it; ``error`` is ||W' - W|| / ||W||.
    """

    bits: int
    group: str
    scheme: str
    agreement: float
    error: float = 0.0

    kind = "quantized"
    rule = "MG1112"

    def evidence(self) -> dict[str, Any]:
        evidence = {"bits": self.bits, "group": self.group, "scheme": self.scheme, "agreement": self.agreement}
        return evidence | ({"error_limit": self.limit} if self.coarse else {})

    @property
    def limit(self) -> float:
        """The largest relative error that rounding to so many bits explains.

        A step of range/2^bits leaves an error of step/sqrt(12) (Widrow and Kollar, Quantization Noise, 2008, ch. 5). Of Gaussian weights
        int8 leaves 0.01 and int4 0.1 to 0.19 of the norm, 16 values chosen well 0.1 (NF4: Dettmers et al. 2023); 2^-5 and 2^-2 leave room
        for ranges that outliers stretch threefold and by a third. Values that no quantiser replays are given half of that.
        """
        return 2.0**-5 if self.bits > 4 else 2.0**-3 if self.scheme == "values" else 2.0**-2

    @property
    def coarse(self) -> bool:
        """Whether more was lost than that."""
        return not self.error <= self.limit

    @property
    def severity(self) -> Severity | None:
        return Severity.MEDIUM if self.coarse else None

    def sentence(self, name: str, changed: int, size: str) -> str:
        beyond = f", more than the {self.limit:.2g} that so many bits explain" if self.coarse else ""
        return f"{name} is the reference rounded to {self.bits} bits per {self.group} ({size}{beyond})"


@dataclass(frozen=True, slots=True)
class BlockQuantized(Change):
    """Stored as block-quantised ``type`` of ``bits`` bits: every entry is the level that its block has for the reference's.

    ``shown`` is False for types whose levels are not chosen one by one, of which only rough checks can be made.
    """

    type: str
    bits: int
    shown: bool = True

    kind = Quantized.kind
    rule = Quantized.rule

    def evidence(self) -> dict[str, Any]:
        return {"type": self.type, "bits": self.bits, "scheme": "block"}

    def sentence(self, name: str, changed: int, size: str) -> str:
        return f"{name} is the reference quantised to {self.type} ({size})"


@dataclass(frozen=True, slots=True)
class Pruned(Change):
    """Every changed entry is zero now."""

    zeros_before: int
    zeros_after: int

    kind = "pruned"
    rule = "MG1113"

    def evidence(self) -> dict[str, Any]:
        return {"zeros_before": self.zeros_before, "zeros_after": self.zeros_after}

    def sentence(self, name: str, changed: int, size: str) -> str:
        return f"{name}: {changed} entries were set to zero ({size})"


@dataclass(frozen=True, slots=True)
class Scaled(Change):
    """W' = Q(c W) with one factor per ``axis`` (tensor, row, column); ``factors`` are the smallest and the largest."""

    axis: str
    factors: tuple[float, float]
    agreement: float

    kind = "scaled"
    rule = "MG1114"

    def evidence(self) -> dict[str, Any]:
        return {"axis": self.axis, "factors": list(self.factors), "agreement": self.agreement}

    def sentence(self, name: str, changed: int, size: str) -> str:
        low, high = self.factors
        return f"{name} is the reference times {low:.6g}" + ("" if low == high else f" to {high:.6g} per {self.axis}") + f" ({size})"


SHOWN_RANK = 24
"""The largest rank whose singular values are all told."""


@dataclass(frozen=True, slots=True)
class LowRank(Change):
    """W' = Q(W + M) with M of exact rank ``rank``, whose factors ``replay`` holds."""

    rank: int
    replay: Replay = field(repr=False, compare=False)

    kind = "low-rank"
    rule = "MG1115"
    telling = True

    def evidence(self) -> dict[str, Any]:
        replay = self.replay
        return {
            "agreement": replay.agreement,
            "agreement_below": replay.agreement_below,
            "within_ulp": replay.within_ulp,
            "spectral_gap": min(replay.gap, 1e9),
            "rank": self.rank,
            "singular_values": [float(value) for value in replay.s[:8]],
            **self._spectrum(),
        }

    def _spectrum(self) -> dict[str, Any]:
        """The singular values, and the largest of what is left once they are taken off; nothing where they are too many to look at."""
        values = [float(value) for value in self.replay.s]
        return {"spectrum": [*values, values[-1] / self.replay.gap]} if 0 < len(values) <= SHOWN_RANK else {}

    def sentence(self, name: str, changed: int, size: str) -> str:
        exact = f"{self.replay.agreement:.1%} of the moved entries replay bit for bit"
        return f"{name} changed by a matrix of rank exactly {self.rank}: {exact} ({size})"


@dataclass(frozen=True, slots=True)
class Touched:
    """Where a small change lies.

    ``rows`` and ``columns`` count those of a matrix with a changed entry (None of a vector), ``bits`` the entries that differ in each bit
    (0 is the lowest).
    """

    rows: int | None
    columns: int | None
    bits: tuple[tuple[int, int], ...]

    def evidence(self) -> dict[str, Any]:
        lines = {} if self.rows is None else {"rows_touched": self.rows, "columns_touched": self.columns}
        return lines | {
            "bits_flipped": sum(count for _, count in self.bits),
            "flipped_by_bit": {str(bit): count for bit, count in self.bits},
        }


@dataclass(frozen=True, slots=True)
class RowEdit(Change):
    """``count`` lines along ``axis`` (row, column, entry) changed; ``indices`` are the first 64."""

    axis: str
    count: int
    indices: tuple[int, ...]
    touched: Touched | None = field(default=None, kw_only=True)

    kind = "row-edit"
    rule = "MG1116"
    telling = True

    def evidence(self) -> dict[str, Any]:
        where = self.touched.evidence() if self.touched is not None else {}
        return {"axis": self.axis, "count": self.count, "indices": list(self.indices)} | where

    def sentence(self, name: str, changed: int, size: str) -> str:
        plural = f"{self.axis[:-1]}ies" if self.axis.endswith("y") else f"{self.axis}s"
        return f"{name}: only {self.count} {self.axis if self.count == 1 else plural} changed ({size})"


@dataclass(frozen=True, slots=True)
class RowsBeyond(RowEdit):
    """The reference quantised to block-quantised ``type``, except that in ``count`` rows (or, as ``axis`` says, entries) it is not."""

    type: str

    def evidence(self) -> dict[str, Any]:
        return {"axis": self.axis, "count": self.count, "indices": list(self.indices), "type": self.type}

    def sentence(self, name: str, changed: int, size: str) -> str:
        one, more = ("entry", "entries") if self.axis == "entry" else ("row", "rows")
        lines = f"{one} is" if self.count == 1 else f"{more} are"
        return f"{name} is the reference quantised to {self.type}, but {self.count} {lines} something else ({size})"


@dataclass(frozen=True, slots=True)
class BitFlips(Change):
    """Single bits differ: ``flips`` are entries and their bits (0 is the lowest), ``fields`` counts parts of the number."""

    flips: tuple[tuple[int, tuple[int, ...]], ...]
    fields: tuple[tuple[str, int], ...]
    single_bit: int
    touched: Touched | None = field(default=None, kw_only=True)

    kind = "bit-flips"
    rule = "MG1117"
    telling = True

    def evidence(self) -> dict[str, Any]:
        flips = [{"entry": entry, "bits": list(bits)} for entry, bits in self.flips]
        where = self.touched.evidence() if self.touched is not None else {}
        return {"flips": flips, "fields": dict(self.fields), "single_bit": self.single_bit} | where

    def sentence(self, name: str, changed: int, size: str) -> str:
        where = ", ".join(f"{count} {part}" for part, count in sorted(self.fields))
        return f"{name}: {changed} entries differ by single bits ({where})"


@dataclass(frozen=True, slots=True)
class FlipsBeyond(BitFlips):
    """The reference quantised to ``type``, except that entries are off by what one bit of their code is worth."""

    type: str

    def evidence(self) -> dict[str, Any]:
        return BitFlips.evidence(self) | {"type": self.type}

    def sentence(self, name: str, changed: int, size: str) -> str:
        codes = f"{len(self.flips)} {'code is' if len(self.flips) == 1 else 'codes are'}"
        return f"{name} is the reference quantised to {self.type}, but {codes} off by a single bit ({size})"


@dataclass(frozen=True, slots=True)
class LowBitPayload(Change):
    """Only bits up to ``highest_bit`` differ and nothing ever carried."""

    highest_bit: int
    share_at_highest_bit: float
    capacity_bytes: int

    kind = "low-bit-payload"
    rule = "MG1118"
    telling = True

    def evidence(self) -> dict[str, Any]:
        return {
            "highest_bit": self.highest_bit, "share_at_highest_bit": self.share_at_highest_bit, "capacity_bytes": self.capacity_bytes
        }  # fmt: skip

    def sentence(self, name: str, changed: int, size: str) -> str:
        return f"{name}: {changed} entries differ in bits 0 to {self.highest_bit} only, room for {self.capacity_bytes} bytes"


@dataclass(frozen=True, slots=True)
class Permuted(Change):
    """The rows and columns hold the same energies and sums in another order."""

    kind = "permuted"
    rule = "MG1119"
    confidence = Confidence.MEDIUM

    def evidence(self) -> dict[str, Any]:
        return {}

    def sentence(self, name: str, changed: int, size: str) -> str:
        return f"{name} holds the rows or columns of the reference in another order"


@dataclass(frozen=True, slots=True)
class Reordered(Change):
    """The reference's numbers, all of them, written column by column where rows are declared."""

    kind = "reordered"
    rule = "MG1124"

    def evidence(self) -> dict[str, Any]:
        return {}

    def sentence(self, name: str, changed: int, size: str) -> str:
        return f"{name} holds the reference written column by column under the shape it has row by row, which scrambles it"


@dataclass(frozen=True, slots=True)
class NotCompared(Change):
    """The two sides differ and hold nothing that can be set against each other; ``why`` says what each of them holds."""

    why: str

    kind = "not-compared"
    rule = "MG1105"

    def evidence(self) -> dict[str, Any]:
        return {"why": self.why}

    def sentence(self, name: str, changed: int, size: str) -> str:
        return f"{name} differs, and its values could not be compared: {self.why}"


@dataclass(frozen=True, slots=True)
class Dense(Change):
    """None of the other kinds. ``tried`` is the replay that failed."""

    tried: Replay | None = field(default=None, repr=False, compare=False)

    kind = "dense"
    rule = "MG1120"
    confidence = Confidence.MEDIUM

    def evidence(self) -> dict[str, Any]:
        return {} if self.tried is None else {"replay_agreement": self.tried.agreement, "replay_rank_tried": self.tried.tried}

    def sentence(self, name: str, changed: int, size: str) -> str:
        return f"{name} changed densely ({size})"


@dataclass(frozen=True, slots=True)
class Beyond(Change):
    """Stored as block-quantised ``type``; in ``rows`` of its rows entries are not the levels that their blocks have for the reference."""

    type: str
    rows: int

    kind = Dense.kind
    rule = Dense.rule
    confidence = Dense.confidence

    def evidence(self) -> dict[str, Any]:
        return {"type": self.type, "rows_beyond": self.rows}

    def sentence(self, name: str, changed: int, size: str) -> str:
        return f"{name} is stored as {self.type}, and quantising the reference does not explain {self.rows} of its rows ({size})"


@dataclass(frozen=True, slots=True)
class Erased(Change):
    """A cast that left nothing of the share ``lost`` of the tensor: counted as a dense change, because most of W is gone."""

    cast: Cast
    lost: float

    kind = Dense.kind
    rule = Dense.rule
    confidence = Dense.confidence

    def evidence(self) -> dict[str, Any]:
        return self.cast.evidence() | {"lost": self.lost}

    def sentence(self, name: str, changed: int, size: str) -> str:
        dtype = self.cast.through or self.cast.after
        return f"{name} is the reference rounded to {dtype}, for which its values are too small: {self.lost:.0%} of them are lost"


@dataclass(frozen=True, slots=True)
class Unrelated(Change):
    """W' does not come from W: their ``correlation`` is too small."""

    correlation: float

    kind = "unrelated"
    rule = "MG1121"
    confidence = Confidence.MEDIUM

    def evidence(self) -> dict[str, Any]:
        return {"correlation": self.correlation}

    def sentence(self, name: str, changed: int, size: str) -> str:
        return f"{name} is uncorrelated with the reference (correlation {self.correlation:.2f})"
