"""Triggers that somebody knows: a picture with a mask, a phrase, a finding of a report, or a function."""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from modelguard import UsageError

if TYPE_CHECKING:
    from modelguard import InputSpec

Pixels = npt.NDArray[np.float32]
SHIFTS = 3
"""Places along each side that a picture is moved to."""
PLACES = ("start", "middle", "end")


@dataclass(frozen=True)
class Place:
    """Where else a trigger may stand: its name, and the trigger there."""

    name: str
    trigger: Trigger


class Trigger(ABC):
    """What is done to a sample. Images are (N, C, H, W) float32 raw, texts a list of N strings."""

    kind: ClassVar[str]

    @abstractmethod
    def on(self, samples: Any) -> Any:
        """The samples with the trigger in them."""

    def places(self) -> Sequence[Place]:
        """The trigger at other places; none where it has no place."""
        return ()


@dataclass(frozen=True)
class Picture(Trigger):
    """x' = (1 - m) x + content, above the lowest raw value. ``content`` (C, H, W) is the picture times its mask; ``mask`` (1, H, W)."""

    kind = "picture"
    content: Pixels
    mask: Pixels
    low: float

    def on(self, samples: Pixels) -> Pixels:
        box = (..., *self.box())
        stamped = samples.copy()
        stamped[box] = (1 - self.mask[box]) * (samples[box] - self.low) + self.content[box] + self.low
        return stamped

    def box(self) -> tuple[slice, slice]:
        """The rows and columns that the mask lies in."""
        used = (np.flatnonzero(self.mask[0].any(axis)) for axis in (1, 0))
        rows, columns = (slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0) for at in used)
        return rows, columns

    def places(self) -> Sequence[Place]:
        rows, columns = self.box()
        last = (self.mask.shape[1] - (rows.stop - rows.start), self.mask.shape[2] - (columns.stop - columns.start))
        if last == (0, 0):
            return ()
        tops, lefts = map(_spread, last)
        found = []
        for top in tops:
            for left in lefts:
                shift = (top - rows.start, left - columns.start)
                moved = Picture(np.roll(self.content, shift, (1, 2)), np.roll(self.mask, shift, (1, 2)), self.low)
                found.append(Place(f"row {top}, column {left}", moved))
        return found


def _spread(last: int) -> list[int]:
    return sorted({round(last * i / (SHIFTS - 1)) for i in range(SHIFTS)})


@dataclass(frozen=True)
class Phrase(Trigger):
    """Words put into a text, between two of its words."""

    kind = "phrase"
    words: str
    where: str = "start"

    def on(self, samples: Sequence[str]) -> list[str]:
        return [self._put(text.split()) for text in samples]

    def _put(self, text: list[str]) -> str:
        at = {"start": 0, "middle": len(text) // 2, "end": len(text)}[self.where]
        return " ".join([*text[:at], self.words, *text[at:]])

    def places(self) -> Sequence[Place]:
        return tuple(Place(where, Phrase(self.words, where)) for where in PLACES)


@dataclass(frozen=True)
class Function(Trigger):
    """The user's own function, called with images or texts; returns as many. Pixels are cut to ``bounds``, what the model can be given."""

    kind = "function"
    name: str
    call: Callable[[Any], Any] = field(repr=False)
    bounds: tuple[float, float]

    def on(self, samples: Any) -> Any:
        thing, text = f"--trigger {self.name}", isinstance(samples, list)
        try:
            made = self.call(samples.copy())
        except Exception as error:
            raise UsageError(thing, f"failed ({type(error).__name__}: {error})", "mend the function") from error
        if text:
            if not isinstance(made, list) or len(made) != len(samples) or not all(isinstance(text, str) for text in made):
                raise UsageError(thing, "did not return one text for each it was given", "return a list of str")
            return made
        array = np.asarray(made, np.float32)
        if array.shape != samples.shape or not np.isfinite(array).all():
            given = "x".join(map(str, samples.shape))
            got = "x".join(map(str, array.shape)) + ("" if array.shape != samples.shape else ", some not finite")
            raise UsageError(thing, f"returned {got} for {given}", "return finite numbers of the shape given")
        return np.clip(array, *self.bounds)


def picture(path: Path, mask: Path | None, spec: InputSpec, shape: tuple[int, int, int]) -> Picture:
    """A picture for a model that takes images of ``shape`` (C, H, W). Its mask is a grey picture, white where it replaces the image, or
    its own alpha channel. Raises :class:`UsageError`."""
    shown, alpha = _pixels(path, shape)
    if mask is not None:
        unit = _pixels(mask, (1, *shape[1:]))[0]
    elif alpha is not None:
        unit = alpha
    else:
        raise UsageError(f"--trigger {path.name}", "has no mask", "give --mask MASK.png, or a picture with transparency")
    if not unit.any():
        raise UsageError(
            f"--mask {(mask or path).name}", "is black everywhere, so nothing would be stamped", "make it white where it stamps"
        )
    return Picture(shown * unit * (spec.high - spec.low), unit, spec.low)


def recovered(content: bytes, mask: bytes, spec: InputSpec, shape: tuple[int, int, int], name: str) -> Picture:
    """What a finding of a search shows: pictures of the trigger times its mask, and of the mask. Raises :class:`UsageError`."""
    import io

    shown, _ = _pixels(io.BytesIO(content), shape, name)
    unit, _ = _pixels(io.BytesIO(mask), (1, *shape[1:]), name)
    return Picture(shown * (spec.high - spec.low), unit, spec.low)


def _pixels(source: Any, shape: tuple[int, int, int], name: str = "") -> tuple[Pixels, Pixels | None]:
    """(C, H, W) in 0..1, and (1, H, W) the alpha channel where there is one."""
    from PIL import Image

    thing = f"--trigger {name or Path(source).name}"
    channels, height, width = shape
    if channels not in (1, 3):
        raise UsageError(thing, f"is a picture, and the model takes {channels} channels", "give the trigger as module:function")
    try:
        with Image.open(source) as image:
            if image.size != (width, height):
                took = f"is {image.size[0]} x {image.size[1]} pixels, the model takes {width} x {height}"
                raise UsageError(thing, took, "give it in the size the model takes; a report's pictures are shrunk to 128")
            alpha = image.convert("RGBA").getchannel("A") if "A" in image.getbands() or "transparency" in image.info else None
            shown = np.asarray(image.convert("RGB" if channels == 3 else "L"), np.float32)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(thing, f"cannot be read as a picture ({error})", "give a PNG") from error
    seen = None if alpha is None else (np.asarray(alpha, np.float32) / np.float32(255))[None]
    return (shown.reshape(height, width, -1).transpose(2, 0, 1) / 255).astype(np.float32), seen


def function(reference: str, folder: str, spec: InputSpec) -> Function:
    """``module:function`` looked up from ``folder``. Its code is run. Raises :class:`UsageError`."""
    thing, remedy = f"--trigger {reference}", "run from the folder it lies in"
    module, _, name = reference.partition(":")
    sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise UsageError(thing, f"the module has no {name}", "check the name") from error
    except Exception as error:
        raise UsageError(thing, f"cannot be imported ({type(error).__name__}: {error})", remedy) from error
    finally:
        sys.path.remove(folder)
    if not callable(found):
        raise UsageError(thing, f"{name} is no function", "name a function of images (N, C, H, W), or of texts")
    return Function(reference, found, (spec.low, spec.high))
