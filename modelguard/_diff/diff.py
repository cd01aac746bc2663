"""The diff of two checkpoints: match, compare, measure, classify, judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from modelguard._diff import content, graph
from modelguard._diff.blocks import quantized_by_block
from modelguard._diff.changes import Change, LowRank, NotCompared
from modelguard._diff.classify import classify, correlation, cosine, kurtosis, relative_norm
from modelguard._diff.derived import Rotary, is_derived
from modelguard._diff.graph import GraphDiff
from modelguard._diff.grid import FLOATS
from modelguard._diff.match import Matching, match_tensors
from modelguard._diff.model_level import ModelChange, Rest, classify_model
from modelguard._diff.operand import Operand, same_bytes
from modelguard._diff.pairing import Pairing
from modelguard._diff.processes import scatter
from modelguard._diff.renames import Renames, renames_of
from modelguard._diff.replay import Replay
from modelguard._diff.scales import unfold
from modelguard._diff.stream import Statistics, Sums, measure
from modelguard.checkpoint import Checkpoint

EQUAL_CHUNK = 1 << 24
"""Bytes compared at a time."""
SHARE = 1 << 25
"""Bytes that pay for a process of their own."""


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """What was done to one tensor that is not identical.

    ``name`` is what the report calls it, ``tensor`` its name in ``file`` (they differ for parts and in artifacts of several checkpoints).
    ``change`` is what was done; its kind, rank, numbers and (where the rank is low) singular vectors can be asked for here as well.
    ``changed`` counts entries; ``relative_norm`` is ||W' - W|| / ||W||; ``cosine`` is cos(W, W' - W). ``comparable`` is False where the
    two sides hold numbers of different sorts and only the fact that they differ is known.
    """

    name: str
    tensor: str
    change: Change
    relative_norm: float
    changed: int
    entries: int
    shape: tuple[int, ...]
    dtype: str
    reference_dtype: str
    file: str
    byte_offset: int | None
    byte_length: int
    matched: str
    max_abs: float
    cosine: float
    correlation: float
    kurtosis: float
    non_finite: int
    comparable: bool = True

    @property
    def kind(self) -> str:
        return self.change.kind

    @property
    def rank(self) -> int | None:
        return self.change.rank if isinstance(self.change, LowRank) else None

    @property
    def evidence(self) -> Mapping[str, Any]:
        return self.change.evidence()

    @property
    def replay(self) -> Replay | None:
        return self.change.replay if isinstance(self.change, LowRank) else None

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) > 1

    @property
    def fraction(self) -> float:
        return self.changed / self.entries if self.entries else 0.0


@dataclass(frozen=True, slots=True)
class ModelDiff:
    """What was done to a model. ``tensors`` lists those that are not identical, by name; ``by_digest`` were not read at all."""

    change: ModelChange
    tensors: tuple[TensorDiff, ...]
    matching: Matching
    identical: int
    by_digest: tuple[str, ...]
    compared_bytes: int
    graphs: tuple[GraphDiff, ...] = ()
    """The ONNX files that compute something other than their reference from the same weights."""
    graphs_not_compared: tuple[str, ...] = ()
    """The ONNX checkpoints whose counterpart is of a format without graphs."""
    renames: Renames = field(default_factory=Renames)
    """Tensors that are equal but stand under another name than in the reference, or were found by what they hold."""
    derived: tuple[str, ...] = ()
    """Tensors that one side lacks and that hold what loading computes anew."""
    exchanged: Mapping[str, str] = field(default_factory=dict)
    """Tensors that hold the bytes of another one of the reference, by that one's name."""


def diff_checkpoints(
    reference: Sequence[Checkpoint],
    checkpoint: Sequence[Checkpoint],
    *,
    reference_digests: Mapping[str, str] | None = None,
    digests: Mapping[str, str] | None = None,
    threads: int = 1,
    max_rank: int = 64,
    turning: Sequence[Rotary] = (Rotary(),),
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> ModelDiff:
    """Compare the checkpoints of two artifacts tensor by tensor.

    ``digests`` map artifact-relative paths to content digests; tensors in files with equal digests are identical and are not
    read. ``progress`` counts bytes of the checkpoint. ``threads`` is how many tensors are compared at a time, each in a process of its
    own (see :mod:`modelguard._diff.processes`); the result does not depend on it.

    ``turning`` says how the checkpoint's rotary embeddings are computed when it is loaded.

    Whatever ``check`` raises ends the diff; memory-mapped tensors are read in place and anonymous memory stays bounded by one block
    and the thin factors of one matrix per process.
    """
    matching = match_tensors(unfold(reference, checkpoint), unfold(checkpoint, reference))
    known = {pair for pair in matching.pairs if _same_file(pair, reference_digests or {}, digests or {})}
    work = [pair for pair in matching.pairs if pair not in known]
    # The largest first, so that no process is left with one at the end.
    work.sort(key=lambda pair: -pair.after.tensor.byte_length)
    total, done, found = sum(pair.after.tensor.byte_length for pair in work), 0, dict[Pairing, TensorDiff]()
    with threadpool_limits(1, "blas"):
        for index, item in scatter(_Comparison(max_rank, check), work, min(threads, total // SHARE), check):
            done += work[index].after.tensor.byte_length
            progress(done, total, work[index].name)
            if item is not None:
                found[work[index]] = item
    tensors = tuple(found[pair] for pair in matching.pairs if pair in found)
    graphs, alone = graph.compare(matching, check)
    renames = renames_of(matching.pairs)
    derived = tuple(place.name for place in (*matching.missing, *matching.added) if is_derived(place, turning))
    places = len(renames.unknown) + len(renames.exchanged)
    return ModelDiff(
        _gravest(tensors, matching.pairs, _rest(matching, tensors, len(graphs), derived), places),
        tensors,
        matching,
        len(matching.pairs) - len(tensors),
        tuple(sorted(pair.name for pair in known)),
        total,
        graphs,
        alone,
        renames,
        derived,
        content.exchanged([pair for pair in matching.pairs if pair in found]),
    )


def _rest(matching: Matching, tensors: Sequence[TensorDiff], graphs: int, derived: Sequence[str]) -> Rest:
    resized = {after.name for _, after in matching.resized}
    # Of a tensor of another shape at most a part was compared.
    compared = [pair for pair in matching.pairs if pair.after.name not in resized]
    unknown = sum(1 for item in tensors if isinstance(item.change, NotCompared))
    return Rest(
        compared=len(compared) - unknown,
        missing=sum(1 for place in matching.missing if place.name not in derived),
        added=sum(1 for place in matching.added if place.name not in derived),
        resized=len(matching.resized),
        unknown=unknown + len(matching.buffers),
        unpaired=len(matching.unpaired),
        graphs=graphs,
        derived=len(derived),
    )


def _gravest(found: Sequence[TensorDiff], pairs: Sequence[Pairing], rest: Rest, renamed: int) -> ModelChange:
    """The gravest of what was done to the checkpoints.

    Each checkpoint is judged alone: a model stored in two formats is one model changed in one way, not two modules changed alike.
    """
    checkpoints: dict[tuple[str, str], list[Pairing]] = {}
    for pair in pairs:
        checkpoints.setdefault((pair.after.checkpoint.name, pair.after.checkpoint.format), []).append(pair)
    if len(checkpoints) < 2 or not found:
        return classify_model(found, [(pair.name, pair.after.tensor.shape) for pair in pairs], rest, renamed)
    changes = []
    for _, members in sorted(checkpoints.items()):
        compared = [(pair.name, pair.after.tensor.shape) for pair in members]
        names = {name for name, _ in compared}
        changes.append(classify_model([item for item in found if item.name in names], compared, rest, renamed))
    return max(changes, key=lambda change: change.severity)


def _same_file(pair: Pairing, before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    old, new = pair.before.tensor, pair.after.tensor
    digest = after.get(new.file)
    same = digest is not None and digest == before.get(old.file)
    # Equal bytes are equal tensors only where both sides read them alike.
    return (
        same
        and pair.whole
        and (old.byte_offset, old.byte_length, old.dtype, old.shape) == (new.byte_offset, new.byte_length, new.dtype, new.shape)
        and old.byte_offset is not None
    )


class _Comparison:
    def __init__(self, max_rank: int, check: Callable[[], None]) -> None:
        self.max_rank, self.check = max_rank, check

    def __call__(self, pair: Pairing) -> TensorDiff | None:
        """What was done to one tensor, or None where nothing was."""
        self.check()
        before, after = pair.open()
        if not comparable(before, after, pair.whole):
            unknown = Statistics(after.dtype, (1, after.entries), Sums(entries=after.entries, changed=after.entries))
            why = f"it is {pair.after.tensor.dtype}, and {pair.before.tensor.dtype} in the reference"
            return describe(pair, before, after, unknown, NotCompared(why))
        if before.dtype == after.dtype and self._equal(before, after):
            return None
        statistics = measure(before, after, self.check)
        if not statistics.sums.changed and _widened(pair):
            return None
        quantization = pair.after.checkpoint.quantization(pair.after.tensor.name) if pair.after_view.whole else None
        found: Change | None
        if quantization is not None and statistics.sums.changed and after.dtype == "F32":
            found = quantized_by_block(before, after, quantization, statistics, self.check)
        else:
            found = classify(before, after, statistics, self.max_rank, self.check)
        return None if found is None else describe(pair, before, after, statistics, found)

    def _equal(self, before: Operand, after: Operand) -> bool:
        if not (before.matrix.flags.c_contiguous and after.matrix.flags.c_contiguous):
            return same_bytes(before.matrix, after.matrix)
        old, new = before.matrix.reshape(-1), after.matrix.reshape(-1)
        step = EQUAL_CHUNK // max(1, old.itemsize)
        for start in range(0, old.size, step):
            self.check()
            if not same_bytes(old[start : start + step], new[start : start + step]):
                return False
        return True


def _widened(pair: Pairing) -> bool:
    """Whether another format stores the tensor in a dtype that holds every number of its own: GGUF has no vectors of 16 bits."""
    old, new = FLOATS.get(pair.before.tensor.dtype), FLOATS.get(pair.after.tensor.dtype)
    if old is None or new is None or pair.before.checkpoint.format == pair.after.checkpoint.format:
        return False
    return old.exponent <= new.exponent and old.mantissa <= new.mantissa


def comparable(before: Operand, after: Operand, whole: bool = True) -> bool:
    """Whether both sides hold numbers of the same sort: floats, integers, or elements of one opaque dtype.

    Elements that are no entries of the operand's matrix (opaque ones, complex ones) are compared in their place only: as ``whole``
    tensors of one shape.
    """
    if not (before.viewable and after.viewable):
        alike = before.stored == after.stored or (not before.opaque and not after.opaque and bool(before.stored and after.stored))
        return whole and alike and before.shape == after.shape
    return (before.dtype in FLOATS) == (after.dtype in FLOATS)


def describe(pair: Pairing, before: Operand, after: Operand, statistics: Statistics, change: Change) -> TensorDiff:
    """The record of one changed tensor."""
    sums, tensor = statistics.sums, pair.after.tensor
    return TensorDiff(
        name=pair.name,
        tensor=tensor.name,
        change=change,
        relative_norm=relative_norm(sums),
        changed=sums.changed,
        entries=after.entries,
        shape=after.shape,
        dtype=tensor.dtype,
        reference_dtype=pair.before.tensor.dtype,
        file=tensor.file,
        byte_offset=tensor.byte_offset,
        byte_length=tensor.byte_length,
        matched=pair.how,
        max_abs=min(sums.max_abs, 1e308),
        cosine=cosine(sums),
        correlation=correlation(sums),
        kurtosis=kurtosis(sums),
        comparable=comparable(before, after, pair.whole) and not after.opaque,
        non_finite=max(0, sums.non_finite_after - sums.non_finite_before),
    )
