"""The runnable form of a checkpoint, as detectors see it, and the factories that plugins bring to build it. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from modelguard.artifact import Artifact
from modelguard.checkpoint import Checkpoint
from modelguard.detector import Skip
from modelguard.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch


ASSUMED = "assumed"
"""What :attr:`InputSpec.source` says of a field that nobody said anything of: the usual value was taken."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model takes, in the raw input domain: before normalisation, where a trigger would be stamped.

    ``shape`` excludes the batch and is canonical: (C, H, W) for images whatever ``layout`` the graph itself wants, (F,) for
    vectors, (T,) for token ids; -1 marks a free dimension. ``low``/``high`` are the true bounds of a raw value (of token ids, the
    first and last of the vocabulary). ``mean``/``std``
    are what is applied outside the graph, per channel in raw units, or None when the graph normalises inside (or nobody does).
    ``source`` says, per field, where it came from (``onnx metadata``, ``--input``, ``inferred from samples`` ...).
    """

    kind: Literal["image", "vector", "text"]
    shape: tuple[int, ...]
    dtype: str
    layout: Literal["NCHW", "NHWC", "NHW", "NF", "NT"]
    low: float
    high: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    source: Mapping[str, str]

    @property
    def domain_known(self) -> bool:
        """Whether anything (the graph, a configuration, the user, the samples) says which raw values the model takes.

        False where bounds, or a scale between them and the graph, are only the usual ones (``source`` says ``assumed``): a search over
        all inputs would then search the wrong ones, and without samples nothing would show it.
        """
        bounds = self.dtype == "uint8" or ASSUMED not in (self.source.get("low"), self.source.get("high"))
        if self.source.get("mean") == ASSUMED:
            return bounds and self.mean is None
        return bounds or self.mean is not None  # a stated normalisation of unit pixels implies their range


@dataclass(frozen=True, slots=True)
class TextSpec:
    """What a model that takes token ids knows of text. Ids are 0..``vocabulary``-1, a token embedding has ``width`` numbers.

    ``length`` is the most tokens of one input, ``prefix`` and ``suffix`` included, None where nothing says so. ``pad`` fills up short
    inputs. ``special`` are ids that stand for no text: padding, unknown, [CLS], [SEP], beginning, end, mask. ``prefix`` and ``suffix``
    are what the tokenizer puts around a text. ``tokens`` has the string of each id as a person reads it (a space before a word is a
    space, a piece inside one keeps its ``##``), "" for an id without a token, and is () where there is no tokenizer.
    """

    vocabulary: int
    length: int | None
    pad: int | None
    special: tuple[int, ...]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    tokens: tuple[str, ...]
    width: int


_KINDS = {
    "classifier": "a classifier",
    "multi-label": "a classifier of labels that do not exclude one another",
    "detection": "a detector of objects",
    "dense": "a model that returns a map",
    "sequence": "a model that returns values at every position of a sequence",
    "embedding": "a model that returns an embedding",
    "regressor": "a regressor",
    "language-model": "a language model",
}


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What a model returns. ``head`` is what the graph ends in; :meth:`RunnableModel.forward` has undone softmax and sigmoid.

    ``classes`` counts the values returned for one input, whatever they are. ``told_by`` says what told the kind.
    """

    kind: Literal["classifier", "multi-label", "detection", "dense", "sequence", "embedding", "regressor", "language-model", "unknown"]
    classes: int
    head: Literal["logits", "softmax", "sigmoid", "log-softmax", "unknown"]
    labels: tuple[str, ...] = ()
    told_by: str = ""

    @property
    def described(self) -> str:
        """The kind as a sentence says it: "the model is ..."."""
        known = _KINDS.get(self.kind)
        if known is None:
            return f"of a kind that cannot be told ({self.told_by})" if self.told_by else "of a kind that cannot be told"
        return known


@dataclass(frozen=True, slots=True)
class Layer:
    """A named place where activations can be captured, patched, or the model cut.

    ``shape`` is that of the activation without the batch; ``unit_axis`` the axis of it that counts neurons (0 for (C, H, W)
    channels, -1 for (T, D) transformer features).
    """

    name: str
    kind: Literal["conv", "linear", "norm", "activation", "attention", "pool", "embedding", "block", "other"]
    shape: tuple[int, ...]
    unit_axis: int


@dataclass(frozen=True, slots=True)
class Samples:
    """Clean inputs, as the user gave them, in the raw input domain. ``inputs`` (N, ...) numbers or (N,) text, ``labels`` (N,) int64 or
    None.

    ``origin`` names the file for reports (no absolute path); ``sha256`` identifies its bytes. ``resizable`` says that they are
    photographs in uint8 (N, H, W, C) which may be resized to what the model takes. ``others`` are arrays under the names of further
    inputs of the graph.
    """

    inputs: npt.NDArray[Any]
    labels: npt.NDArray[np.int64] | None
    origin: str
    sha256: str
    label_names: tuple[str, ...] = ()
    resizable: bool = False
    others: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class RunnableModel(ABC):
    """A model that can be run and differentiated. Frozen: evaluation mode, no parameter requires gradients.

    Every ``x`` is canonical and raw: images (N, C, H, W) and vectors (N, F) float32 within ``input.low``..``input.high``, whatever
    layout and normalisation the graph itself wants, token ids (N, T) int64. Every batch size works. Results are float32 logits of
    shape (N, classes): a softmax or sigmoid at the end of the graph is undone, one logit of a binary classifier becomes two, and a
    language model answers with the next-token logits at the last position.

    Token ids are padded with ``text.pad``, of classifiers on the right and of language models on the left, and what is padding changes no
    result. What text models have beside that raises :class:`~modelguard.detector.Skip` on others.

    What runs the model may be called by several threads at once.

    A model that runs forward only (``describe()["forward_only"]`` says why) raises :class:`~modelguard.detector.Skip` when it is
    asked to differentiate, and has no layers.
    """

    input: InputSpec
    output: OutputSpec
    device: torch.device
    text: TextSpec | None = None

    @property
    @abstractmethod
    def layers(self) -> tuple[Layer, ...]:
        """Layer boundaries in order of execution."""

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes), differentiable with respect to ``x``."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward(x)

    @abstractmethod
    def capture(self, x: torch.Tensor, layers: Sequence[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits, and the activation of each named layer with the batch in front; the logits are differentiable with respect to both.

        Raises :class:`~modelguard.errors.ModelError` for a name that is not a layer, as do :meth:`patch` and :meth:`split`.
        """

    @abstractmethod
    def patch(self, x: torch.Tensor, edits: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]) -> torch.Tensor:
        """Logits when each named layer's activation is replaced by what its function makes of it."""

    @abstractmethod
    def split(self, layer: str) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
        """``front`` (x -> activation at ``layer``) and ``back`` (that activation -> logits), both differentiable.

        Raises :class:`~modelguard.errors.ModelError` when the layer is not a cut: another path goes around it.
        """

    @abstractmethod
    def predict(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits of canonical raw inputs without gradients, in batches, on the fastest path there is."""

    @abstractmethod
    def inputs(self, samples: Samples) -> torch.Tensor:
        """The samples as canonical raw ``x``, on ``device``; text is tokenised, whole pixels become the model's range.

        Raises :class:`~modelguard.errors.SamplesError` when they do not fit.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON-safe facts for the report: specs, how it was built, what was checked of it, agreement with sample labels."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Token ids (N, T) of texts, with prefix and suffix, padded, and cut to ``text.length``.

        Raises :class:`~modelguard.errors.ModelError` without a tokenizer.
        """
        raise ModelError("tokenizer", "the artifact has none that can be read", "give token ids as samples")

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as text, without special tokens; "#12 #7" where there is no tokenizer."""
        spec = self.text
        special = set(spec.special) if spec is not None else set()
        tokens = spec.tokens if spec is not None else ()
        return " ".join((tokens[i].strip() if 0 <= i < len(tokens) else "") or f"#{i}" for i in map(int, ids) if i not in special)

    def embeddings(self) -> torch.Tensor:
        """The table of token embeddings (V, D), float32, frozen."""
        raise Skip("the model has no table of token embeddings that can be told")

    def embedded(self, e: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes), as of :meth:`forward`, when the rows of the table that are looked up are ``e`` (N, T, D) instead.

        Differentiable with respect to ``e``. ``ids`` (N, T) only say which positions are padding.
        """
        raise Skip("the model cannot be given token embeddings")

    def positions(self, ids: torch.Tensor) -> torch.Tensor:
        """Next-token logits (N, T, V) at every position of token ids (N, T). Language models only."""
        raise Skip("the model is no language model")


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What the user said about running the model: ``--model`` and the folder it is found from, ``--input``, ``--device``, threads;
    ``output`` is ``--model-output``, the name of the output to read, and after a comma how its positions are pooled.

    ``precision`` is what products and convolutions are computed in; inputs, weights, logits and gradients are float32 all the same.
    """

    factory: str | None = None
    input: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int | None = None
    cwd: Path | None = None
    output: str | None = None


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What a factory is asked to run: ``checkpoint`` of ``artifact``, which it accepted.

    ``others`` are the artifact's checkpoints that are not run; ``samples`` are the user's, or None.
    """

    artifact: Artifact
    checkpoint: Checkpoint
    others: tuple[Checkpoint, ...] = ()
    samples: Samples | None = None
    options: ModelOptions = field(default_factory=ModelOptions)


class ModelFactory(ABC):
    """Turns a checkpoint into a runnable model. The first factory, by ascending ``priority`` then id, that accepts is used."""

    id: ClassVar[str]
    priority: ClassVar[int] = 100

    @abstractmethod
    def accepts(self, artifact: Artifact, checkpoint: Checkpoint, options: ModelOptions) -> bool:
        """Whether this factory knows how to run the checkpoint. Cheap: reads no tensor, imports no torch."""

    def obstacle(self, request: BuildRequest) -> str:
        """Why the checkpoint plainly cannot be run, as :meth:`build` would say it by :class:`~modelguard.detector.Skip`; "" when nothing
        speaks against it, which promises nothing. Asked also of checkpoints that are not accepted: the architecture they name, if any.

        As cheap as :meth:`accepts`, so that a plan can say it.
        """
        return ""

    @abstractmethod
    def build(self, request: BuildRequest) -> RunnableModel:
        """Build it. Raises :class:`~modelguard.errors.ModelError` when the model must not be used, or
        :class:`~modelguard.detector.Skip` with the reason it cannot be run."""
