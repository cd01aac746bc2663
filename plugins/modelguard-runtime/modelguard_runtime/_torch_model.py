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
    Skip,
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

Tensor = torch.Tensor
Predictor = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

BATCH_ELEMENTS = 1 << 23
"""Input values in one batch of :meth:`TorchModel.predict`: 55 images of 3 x 224 x 224."""


class TorchModel(RunnableModel):
    """``module`` behind the canonical raw input domain: what a :class:`~modelguard_runtime.TorchFactory` returns.

    ``output`` is what the module returns, or makes that of its width and head. ``head`` says what the module's last operation was
    where it has been taken off already; otherwise it is looked for, and undone. ``undo`` says what it is where it is there and cannot be
    seen. ``call(module, x)`` returns the output tensor where calling the module does not (it returns a structure, or takes keywords).
    ``batch`` is the only number of inputs a ``torch.fx.GraphModule`` takes at once, or None when any will do; any number is run in chunks
    of it.
    ``predictor`` maps a graph input array to a graph output array faster than torch does, for :meth:`predict` alone.
    ``encode`` turns text samples into token ids. ``facts`` says what else is known of the model.

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
        encode: Callable[[Sequence[str]], npt.NDArray[np.int64]] | None = None,
        facts: ModelFacts = ModelFacts(),  # noqa: B008  (frozen)
    ) -> None:
        self.device = torch.device(device)
        self.input = input
        self.facts = facts
        self._predictor = predictor
        self._encode = encode
        self._undo = None
        self._domain = Domain(input, self.device)
        module = module.to(self.device)
        self.batch = batch
        self.precision = torch.float32
        try:
            with graph_errors():
                self.engine = self._make_engine(module, call, batch)
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

    def _make_engine(self, module: nn.Module, call: Callable[[nn.Module, Tensor], Tensor] | None, batch: int | None) -> Engine:
        blank: Blank = self._blank
        if not isinstance(module, fx.GraphModule):
            return ModuleEngine(module, blank, call)
        return GraphEngine(module, blank) if batch is None else ChunkedEngine(module, blank, batch)

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
        self._domain = Domain(input, self.device)

    def forward_only(self, reason: str) -> None:
        """From now on refuse, with ``reason``, whatever promises a gradient; layers can still be captured and patched. In place."""
        self.facts = replace(self.facts, forward_only=reason)

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
            return self._leave(self.engine.run(self._enter(x)))

    def capture(self, x: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        with self._running():
            output, found = self.engine.capture(self._enter(x), layers)
            return self._leave(output), found

    def patch(self, x: Tensor, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
        with self._running():
            return self._leave(self.engine.patch(self._enter(x), edits))

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
        batch = max(1, min(256, BATCH_ELEMENTS // max(1, prod(x.shape[1:]))))
        results = [np.zeros((0, self.output.classes), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(x), batch):
                part = torch.from_numpy(np.array(x[start : start + batch])).to(self.device)
                if self._predictor is None or self.device.type != "cpu":
                    logits = self.forward(part)
                else:
                    logits = self._leave(torch.from_numpy(self._predictor(self.enter_array(part))))
                results.append(logits.cpu().numpy())
        return np.concatenate(results)

    def inputs(self, samples: Samples) -> Tensor:
        if self.input.kind == "text" and samples.inputs.dtype.kind in "UO":
            if self._encode is None:
                raise ModelError("tokenizer", "the artifact has none that can be read", "give token ids as samples")
            return torch.from_numpy(self._encode([str(text) for text in samples.inputs])).to(self.device)
        return torch.from_numpy(canonical_inputs(samples, self.input)).to(self.device)

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
            "layers": len(self.layers),
            "parameters": sum(parameter.numel() for parameter in self.module.parameters()),
            "device": self.device.type,
            **self.facts.describe(),
        }  # fmt: skip

    @property
    def module(self) -> nn.Module:
        """The frozen module itself, in its own input domain."""
        return self.engine.module

    def enter_array(self, x: Tensor) -> npt.NDArray[Any]:
        """Canonical raw ``x`` as the array the graph itself takes: normalised, in its layout and dtype."""
        return self._domain.array(x)

    def graph_output(self, x: Tensor) -> npt.NDArray[np.float32]:
        """What the graph itself returns for canonical raw ``x``, before it is made logits."""
        with self._running():
            result: npt.NDArray[np.float32] = self.engine.run(self._enter(x)).detach().float().cpu().numpy()
        return result

    def _enter(self, x: Tensor) -> Tensor:
        """Canonical raw (N, ...) -> what the graph takes."""
        if x.requires_grad and torch.is_grad_enabled():
            self._require_gradient()
        return self._domain.enter(x)

    def _leave(self, output: Tensor) -> Tensor:
        """What the graph returns -> logits (N, classes) float32."""
        output = self._flat(output)
        if self._undo is not None:
            output = self._undo(output)
        if self.output.classes == 2 and output.shape[1] == 1:
            # One logit z of a binary classifier: softmax over (0, z) is sigmoid(z).
            output = torch.cat((torch.zeros_like(output), output), 1)
        return output

    def _flat(self, output: Tensor) -> Tensor:
        """(N, K) float32. Of a language model's (N, T, V), the next-token values at the last position."""
        output = output.float()
        if output.ndim == 3 and self.input.kind == "text":
            return output[:, -1]
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
