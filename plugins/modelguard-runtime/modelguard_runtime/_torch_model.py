"""A torch module as a :class:`~modelguard.RunnableModel`: raw input domain in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from modelguard import (
    DeadlineExceeded,
    InputSpec,
    Layer,
    ModelError,
    ModelguardError,
    OutputSpec,
    RunnableModel,
    Samples,
    SamplesError,
    Skip,
    TextSpec,
    canonical_inputs,
)
from modelguard_runtime._domain import Domain
from modelguard_runtime._engines.base import Blank, Engine
from modelguard_runtime._engines.chunked import ChunkedEngine
from modelguard_runtime._engines.graph import GraphEngine
from modelguard_runtime._engines.module import ModuleEngine
from modelguard_runtime._facts import ModelFacts
from modelguard_runtime._failures import one_line, raise_if_out_of_memory
from modelguard_runtime._graph_errors import graph_errors
from modelguard_runtime._heads import UNDO, head_of
from modelguard_runtime._text import Text, with_width
from modelguard_runtime._tokens import arrange, back, lead

Tensor = torch.Tensor
Predictor = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

Last = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A module, token ids (N, T) and, for each row, a position (N,) -> logits (N, V) there."""

BATCH_ELEMENTS = 1 << 23
"""Input values in one batch of :meth:`TorchModel.predict`: 55 images of 3 x 224 x 224."""
BATCH_TOKENS = 1 << 13
"""Tokens in one: in the widest layers of BERT (base) they are 100 MB."""

PADDED, SAME = 16, 1e-3
"""Tokens of the texts that show whether padding is masked, half of them padding; and the share of the largest logit by which what it
changes is rounding."""


class TorchModel(RunnableModel):
    """``module`` behind the canonical raw input domain: what a :class:`~modelguard_runtime.TorchFactory` returns.

    ``output`` is what the module returns, or makes that of its width and head. ``head`` says what the module's last operation was
    where it has been taken off already; otherwise it is looked for, and undone. ``undo`` says what it is where it is there and cannot be
    seen. ``call(module, x)`` returns the output tensor where calling the module does not (it returns a structure, or takes keywords).
    ``batch`` is the only number of inputs a ``torch.fx.GraphModule`` takes at once, or None when any will do; any number is run in chunks
    of it.
    ``predictor`` maps a graph input array to a graph output array faster than torch does, for :meth:`predict` alone.
    ``text`` is what is known of the text of a model that takes token ids: its tokenizer, padding, length; ``last`` computes a language
    model's logits at one position a row where that is faster than at all of them, and ``table`` names the node of a graph that looks
    token ids up. ``facts`` says what else is known of the model.

    Raises :class:`ModelError` when the module cannot take what ``input`` says, or does not return ``output.classes`` values.
    """

    def __init__(
        self,
        module: nn.Module,
        input: InputSpec,
        output: OutputSpec | Callable[[int, Any], OutputSpec],
        *,
        head: str = "unknown",
        undo: str | None = None,
        batch: int | None = None,
        device: torch.device | str = "cpu",
        call: Callable[[nn.Module, Tensor], Tensor] | None = None,
        predictor: Predictor | None = None,
        text: Text | None = None,
        last: Last | None = None,
        table: str | None = None,
        stored: Mapping[str, str] | None = None,
        facts: ModelFacts = ModelFacts(),  # noqa: B008  (frozen)
    ) -> None:
        self.device = torch.device(device)
        self.input = input
        self.facts = facts
        self._predictor = predictor
        self._text = (text or Text.bare(int(input.high) + 1)) if input.kind == "text" else None
        self._last = last
        self._stored = stored
        self._undo = None
        self._domain = self._make_domain()
        module = module.to(self.device)
        self.batch = batch
        self.precision = torch.float32
        try:
            with graph_errors():
                self.engine = self._make_engine(module, call, batch, table)
                with torch.no_grad():
                    returned = self.engine.run(self._blank(4, None, 0))
                    probe = self._flat(returned)
        except (ModelguardError, Skip, MemoryError):
            raise
        except Exception as error:  # a module may raise anything on an input it was not made for
            raise_if_out_of_memory(error)
            raise self._misfit(module, call, error) from error
        if undo is not None:
            head, self._undo = undo, UNDO[undo]
        elif isinstance(self.engine, ModuleEngine) and self.engine.head is not None:
            head = self.engine.head  # undone inside the engine
        elif head == "unknown":
            head = head_of(probe)
            self._undo = UNDO.get(head)
        width = probe.shape[1]
        self.output = output if isinstance(output, OutputSpec) else output(width, head)
        if not isinstance(output, OutputSpec) and self.output.kind == "classifier" and input.kind == "text" and returned.ndim == 3:
            # Values for every token: of the whole vocabulary, or of something that is told token by token.
            self.output = OutputSpec("language-model" if width == input.high + 1 else "unknown", width, "logits")
        self.output = replace(self.output, head=cast(Any, head))
        if len(probe) != 4 or (width != self.output.classes and (width, self.output.classes) != (1, 2)):
            raise ModelError(
                "model", f"returns {width} values for each of {len(probe)} of 4 inputs, not {self.output.classes} classes", "check the head"
            )
        if self._text is not None and (name := self.engine.table) is not None:
            self._text = with_width(self._text, next(layer.shape[-1] for layer in self.layers if layer.name == name))
        self.text: TextSpec | None = None if self._text is None else self._text.spec
        self._masked = self._is_masked()

    def _make_engine(
        self, module: nn.Module, call: Callable[[nn.Module, Tensor], Tensor] | None, batch: int | None, table: str | None
    ) -> Engine:
        blank: Blank = self._blank
        if not isinstance(module, fx.GraphModule):
            return ModuleEngine(module, blank, call)
        return GraphEngine(module, blank, table) if batch is None else ChunkedEngine(module, blank, batch, table)

    def _is_masked(self) -> bool | None:
        """Whether padding changes nothing of what the model says of a text; None where nothing is padded, or it cannot be told."""
        if self.text is None or self.text.pad is None or self.input.shape[0] > 0:
            return None
        length = min(PADDED, self.text.length or PADDED)
        ids = self.raw_random(4, seed=1, length=length)
        padded = torch.full_like(ids, self.text.pad)
        short = max(1, length // 2)
        ids, fill = ids[:, :short], padded[:, short:]
        try:
            with torch.no_grad():
                alone = self.forward(ids.to(self.device))
                longer = self.forward(torch.cat((fill, ids) if self._left else (ids, fill), 1).to(self.device))
        except ModelError:  # it takes texts of other lengths
            return None
        return bool((alone - longer).abs().max() <= SAME * alone.abs().max())

    def _make_domain(self) -> Domain:
        spec = self._text.spec if self._text is not None else None
        return Domain(self.input, self.device, text=spec)

    @property
    def _left(self) -> bool:
        """Whether padding stands before a text: the last token of a language model is the one that the next follows."""
        return self.output.kind == "language-model"

    def _misfit(self, module: nn.Module, call: Callable[[nn.Module, Tensor], Tensor] | None, error: Exception) -> ModelError:
        """What to say when the module does not run on its probe: another input, or another batch size."""
        shape = "x".join("?" if size < 0 else str(size) for size in self.input.shape)
        try:
            with torch.no_grad():
                (call or nn.Module.__call__)(module, self._blank(1, None, 0))
        except Exception:
            return ModelError(
                "model", f"does not run on {self.input.kind} inputs of shape {shape}: {one_line(error)}", "say --input shape=..."
            )
        return ModelError("model", f"runs on one input at a time only: {one_line(error)}", "export it with a free batch dimension")

    def to(self, device: torch.device | str, precision: torch.dtype = torch.float32) -> TorchModel:
        """Move to another device, in place, to compute products and convolutions in ``precision`` there (``torch.autocast``)."""
        self.device, self.precision = torch.device(device), precision
        self.engine.move(self.device)
        self.respecify(self.input)
        return self

    def respecify(self, input: InputSpec) -> None:
        """Take another description of the same input: another range, mean or standard deviation."""
        self.input = input
        self._domain = self._make_domain()

    def forward_only(self, reason: str) -> None:
        """From now on refuse, with ``reason``, whatever promises a gradient; layers can still be captured and patched. In place."""
        self.facts = replace(self.facts, forward_only=reason)

    def limit_length(self, length: int | None) -> None:
        """From now on cut texts to ``length``, in place: running it showed that the model takes no more."""
        if self._text is not None and length is not None:
            self._text = self._text.limited(length)
            self.text = self._text.spec
            self._domain = self._make_domain()

    def _require_gradient(self) -> None:
        """Raise :class:`Skip` when the model runs forward only."""
        if self.facts.forward_only:
            raise Skip(f"the model runs forward only: {self.facts.forward_only}")

    @contextmanager
    def _running(self) -> Iterator[None]:
        with running():
            if self.precision == torch.float32:
                yield
            else:
                with torch.autocast(self.device.type, self.precision):
                    yield

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.engine.layers

    def forward(self, x: Tensor) -> Tensor:
        with self._running():
            if self._last is None or not self._left:
                return self._leave(self.engine.run(self._enter(x)), x)
            ends = x.shape[1] - 1 - self._lead(x)
            return self._leave(self._last(self.module, self._enter(x), ends))

    def capture(self, x: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Of a language model, what it makes of padded rows comes with the padding behind."""
        with self._running():
            output, found = self.engine.capture(self._enter(x), layers)
            return self._leave(output, x), found

    def patch(self, x: Tensor, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
        with self._running():
            return self._leave(self.engine.patch(self._enter(x), edits), x)

    def split(self, layer: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        self._require_gradient()  # nobody knows what the activation given to the back half will be used for
        with self._running():
            front, back = self.engine.split(layer)

        def before(x: Tensor) -> Tensor:
            with self._running():
                return front(self._enter(x))

        def after(activation: Tensor) -> Tensor:
            with self._running():
                return self._leave(back(activation))

        return before, after

    def predict(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if self.text is not None and len(x):
            return self._predict_texts(x)
        batch = max(1, min(256, BATCH_ELEMENTS // max(1, prod(x.shape[1:]))))
        results = [np.zeros((0, self.output.classes), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(x), batch):
                results.append(self._logits(x[start : start + batch]))
        return np.concatenate(results)

    def _predict_texts(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Texts of like length together, without padding that none of them needs."""
        lengths = x.shape[1] - self._padding_of(torch.from_numpy(x)).numpy()
        order = np.argsort(lengths, kind="stable")
        trimmed = self._masked is True
        result = np.zeros((len(x), self.output.classes), np.float32)
        start = 0
        with torch.inference_mode():
            while start < len(x):
                count = max(1, min(256, BATCH_TOKENS // max(1, int(lengths[order[start]]))))
                rows = order[start : start + count]
                longest = int(lengths[rows[-1]]) if trimmed else x.shape[1]
                result[rows] = self._logits(x[rows, x.shape[1] - longest :] if self._left else x[rows, :longest])
                start += count
        return result

    def _logits(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        part = torch.from_numpy(np.array(x)).to(self.device)
        if self._predictor is None or self.device.type != "cpu":
            logits = self.forward(part)
        else:
            logits = self._leave(torch.from_numpy(self._predictor(self.enter_array(part))), part)
        values: npt.NDArray[np.float32] = logits.cpu().numpy()
        return values

    def inputs(self, samples: Samples) -> Tensor:
        if self._text is not None and samples.inputs.dtype.kind in "UO":
            return torch.from_numpy(self.encode([str(text) for text in samples.inputs])).to(self.device)
        values = canonical_inputs(samples, self.input)
        most = self.text.length if self.text is not None else None
        if most is not None and values.shape[1] > most:
            raise SamplesError(samples.origin, f"has {values.shape[1]} tokens a sample, the model takes {most}", "give shorter ones")
        return torch.from_numpy(values).to(self.device)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        return self._encoded(texts)[0]

    def longer(self, samples: Samples) -> int:
        """How many text samples are longer than the model takes, and are cut."""
        if self._text is None or self._text.coder is None or samples.inputs.dtype.kind not in "UO":
            return 0
        return self._encoded([str(text) for text in samples.inputs])[1]

    def _encoded(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], int]:
        if self._text is None:
            return super().encode(texts), 0
        fixed = self.input.shape[0]
        return self._text.encode(texts, left=self._left, size=fixed if fixed > 0 else None)

    def decode(self, ids: Sequence[int]) -> str:
        if self._text is None or self._text.coder is None:
            return super().decode(ids)
        left_out = set(self._text.spec.special)
        return self._text.coder.decode([place for place in map(int, ids) if place not in left_out])

    def embeddings(self) -> Tensor:
        self._require_table()
        with self._running():
            return self.engine.rows().float()

    def embedded(self, e: Tensor, ids: Tensor) -> Tensor:
        table = self._require_table()
        self._require_gradient()
        if e.ndim != 3 or e.shape[:2] != ids.shape:
            raise ModelError(
                "embeddings", f"of shape {tuple(e.shape)} are given for ids of shape {tuple(ids.shape)}", "give (N, T, D) for (N, T)"
            )
        with self._running():
            values = e.to(self.device)
            if self._left:
                values = arrange(values, self._lead(ids))
            return self._leave(self.engine.patch(self._enter(ids), {table: lambda _: values}), ids)

    def positions(self, ids: Tensor) -> Tensor:
        if self.text is None or not self._left:
            return super().positions(ids)
        with self._running(), torch.no_grad():
            return back(self.engine.run(self._enter(ids)).float(), self._lead(ids))

    def _require_table(self) -> str:
        """The layer that looks token ids up. Raises :class:`Skip` where there is none."""
        if self.engine.table is None:
            why = f": it runs forward only, {self.facts.forward_only}" if self.facts.forward_only else ""
            raise Skip(f"the model has no table of token embeddings that can be told{why}")
        return self.engine.table

    def _padding_of(self, ids: Tensor) -> Tensor:
        """(N,) the tokens of padding in each row; one token at least is none."""
        pad = self.text.pad if self.text is not None else None
        if pad is None:
            return torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
        return lead(ids if self._left else ids.flip(1), pad)

    def _lead(self, ids: Tensor) -> Tensor:
        """(N,) the tokens of padding before each text of a language model."""
        return self._padding_of(ids.to(self.device))

    def describe(self) -> dict[str, Any]:
        spec, output = self.input, self.output
        return {
            "input": {
                "kind": spec.kind, "shape": list(spec.shape), "dtype": spec.dtype, "layout": spec.layout,
                "low": spec.low, "high": spec.high,
                "mean": None if spec.mean is None else list(spec.mean), "std": None if spec.std is None else list(spec.std),
                "source": dict(sorted(spec.source.items())),
            },
            "output": {"kind": output.kind, "classes": output.classes, "head": output.head, "labels": list(output.labels),
                       "told_by": output.told_by},
            **({} if self._text is None else {"text": {**self._text.describe(), "masked": self._masked}}),
            "layers": len(self.layers),
            "parameters": sum(parameter.numel() for parameter in self.module.parameters()),
            "device": self.device.type,
            **self.facts.describe(),
        }  # fmt: skip

    @property
    def module(self) -> nn.Module:
        """The frozen module itself, in its own input domain."""
        return self.engine.module

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The module's parameters by the name of the checkpoint's tensor that each is. What was computed from a tensor is not among them,
        but a factory may have cast or laid out one anew: hold the values against the checkpoint's before writing them back."""
        named = dict(self.module.named_parameters())
        if self._stored is None:
            return named
        return {tensor: named[name] for name, tensor in sorted(self._stored.items()) if name in named}

    def enter_array(self, x: Tensor) -> npt.NDArray[Any]:
        """Canonical raw ``x`` as the array the graph itself takes: normalised, in its layout and dtype."""
        return self._domain.array(self._arranged(x))

    def graph_output(self, x: Tensor) -> npt.NDArray[np.float32]:
        """What the graph itself returns for canonical raw ``x``, before it is made logits."""
        with self._running():
            result: npt.NDArray[np.float32] = self.engine.run(self._enter(x)).detach().float().cpu().numpy()
        return result

    def _enter(self, x: Tensor) -> Tensor:
        """Canonical raw (N, ...) -> what the graph takes."""
        if x.requires_grad and torch.is_grad_enabled():
            self._require_gradient()
        return self._domain.enter(self._arranged(x))

    def _arranged(self, x: Tensor) -> Tensor:
        """Token ids that the model can take, of a language model with the padding behind: what follows a text changes nothing of it,
        whatever the graph knows of masks and positions. Anything else as it is."""
        if self.text is None:
            return x
        most = self.text.length
        if most is not None and x.shape[1] > most:
            raise ModelError("model", f"takes {most} tokens, and is given {x.shape[1]}", "cut the text")
        return arrange(x.to(self.device), self._lead(x)) if self._left else x

    def _leave(self, output: Tensor, x: Tensor | None = None) -> Tensor:
        """What the graph returns -> logits (N, classes) float32; of the canonical raw inputs ``x``."""
        output = self._flat(output, x)
        if self._undo is not None:
            output = self._undo(output)
        if self.output.classes == 2 and output.shape[1] == 1:
            # One logit z of a binary classifier: softmax over (0, z) is sigmoid(z).
            output = torch.cat((torch.zeros_like(output), output), 1)
        return output

    def _flat(self, output: Tensor, x: Tensor | None = None) -> Tensor:
        """(N, K) float32. Of a language model's (N, T, V), the next-token values at the last position of ``x``."""
        if output.ndim == 3 and self.input.kind == "text":
            if x is None or not self._left:
                return output[:, -1].float()
            ends = output.shape[1] - 1 - self._lead(x).to(output.device)
            return output[torch.arange(len(output), device=output.device), ends].float()
        output = output.float()
        return output.flatten(1) if output.ndim > 1 else output.unsqueeze(1)

    def raw_random(self, n: int, *, seed: int, length: int | None = None) -> Tensor:
        """``n`` random canonical raw inputs, uniform over the range, the same for the same seed. Free dimensions are 32 or ``length``."""
        return self._domain.random(n, seed=seed, length=length)

    def _blank(self, n: int, activation: Tensor | None, seed: int) -> Tensor:
        """A random graph input whose free length is that of ``activation`` (N, T, D)."""
        length = activation.shape[1] if activation is not None and activation.ndim == 3 and self.input.kind == "text" else None
        return self._enter(self.raw_random(n, seed=seed, length=length))


@contextmanager
def running() -> Iterator[None]:
    """Whatever a module raises while it runs becomes one line: a graph may do anything with values that nobody tried it on.

    Raises :class:`ModelError`, and ``MemoryError`` where memory ran out.
    """
    try:
        with graph_errors():
            yield
    except (ModelguardError, Skip, DeadlineExceeded, MemoryError):
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError("model", "needs more memory than the GPU has left", "use --device cpu") from error
    except Exception as error:
        raise_if_out_of_memory(error)
        raise ModelError(
            "model", f"fails while it runs ({type(error).__name__}: {one_line(error)})", "check that the input fits it"
        ) from error
