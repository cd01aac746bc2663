"""A tensor and its counterpart, and how each side is looked at so that they are equally shaped matrices."""

from __future__ import annotations

from dataclasses import dataclass

from modelguard._diff.operand import Operand, open_operand
from modelguard.checkpoint import Checkpoint, TensorInfo


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in its checkpoint. ``group`` names the checkpoint where an artifact holds several, and is empty otherwise."""

    checkpoint: Checkpoint
    tensor: TensorInfo
    group: str = ""

    @property
    def name(self) -> str:
        return f"{self.group}/{self.tensor.name}" if self.group else self.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape


Span = tuple[int, int] | tuple[int, int, int]
"""Begin, end, and a step where it is not 1."""


@dataclass(frozen=True, slots=True)
class View:
    """The part of a tensor's matrix that is compared: ``rows`` and ``columns`` half-open ranges, then transposed."""

    rows: Span | None = None
    columns: Span | None = None
    transpose: bool = False
    shape: tuple[int, int] | None = None
    """Rows and columns to look at the whole tensor as, where its own shape says otherwise (a squeezed axis)."""

    @property
    def whole(self) -> bool:
        return self == WHOLE

    @property
    def turned(self) -> bool:
        """Whether it is the whole tensor, transposed."""
        return self == TRANSPOSED

    def open(self, place: Place) -> Operand:
        """The operand, without copying."""
        operand = open_operand(place.checkpoint, place.tensor)
        if self.whole:
            return operand
        if not operand.viewable:
            # Its elements are not entries of its matrix: `comparable` refuses the pair.
            return operand
        matrix = operand.matrix if self.shape is None else operand.matrix.reshape(self.shape)
        matrix = matrix[slice(*(self.rows or (None, None))), slice(*(self.columns or (None, None)))]
        matrix = matrix.T if self.transpose else matrix
        return Operand(matrix, operand.dtype, matrix.shape if len(operand.shape) > 1 else (matrix.size,))


WHOLE, TRANSPOSED = View(), View(transpose=True)


@dataclass(frozen=True, slots=True)
class Pairing:
    """A tensor (or a part of one) of the checkpoint, ``after``, and its counterpart ``before``.

    ``name`` is what reports call it; ``how`` says why they belong together: ``name``, ``prefix``, ``renamed`` (in a known way),
    ``transposed``, ``fused``, ``content``, ``similar``, ``tied``, ``resized``.
    """

    name: str
    before: Place
    after: Place
    how: str
    before_view: View = WHOLE
    after_view: View = WHOLE

    def open(self) -> tuple[Operand, Operand]:
        """Reference and checkpoint as equally shaped matrices, without copying."""
        return self.before_view.open(self.before), self.after_view.open(self.after)

    @property
    def whole(self) -> bool:
        """Whether both sides are compared as they are stored."""
        return self.before_view.whole and self.after_view.whole
