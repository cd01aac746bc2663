"""What a runnable model that brings nothing for text says when it is asked for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelguard import InputSpec, ModelError, OutputSpec, RunnableModel, Skip, TextSpec


class Tokens(RunnableModel):
    """A model of token ids that a factory of somebody else's made before there was anything for text."""

    input = InputSpec("text", (-1,), "int64", "NT", 0.0, 4.0, None, None, {})
    output = OutputSpec("classifier", 2, "logits")
    layers: Any = ()

    def _no(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    forward: Any = _no
    capture: Any = _no
    patch: Any = _no
    split: Any = _no
    predict: Any = _no
    inputs: Any = _no

    def describe(self) -> dict[str, Any]:
        return {}


def test_what_a_model_has_not_is_said_with_the_reason() -> None:
    model = Tokens()
    assert model.text is None
    with pytest.raises(ModelError, match="tokenizer: the artifact has none that can be read; give token ids as samples"):
        model.encode(["fine"])
    for asked in (model.embeddings, lambda: model.embedded(None, None), lambda: model.positions(None)):  # type: ignore[arg-type]
        with pytest.raises(Skip, match="the model "):
            asked()


def test_tokens_are_shown_as_words_or_as_numbers() -> None:
    model = Tokens()
    assert model.decode(np.array([3, 1])) == "#3 #1"  # type: ignore[arg-type]
    model.text = TextSpec(5, None, 0, (0, 1), (1,), (), ("[PAD]", "[CLS]", " fine", "##ly", ""), 8)
    assert model.decode([1, 2, 3, 4, 9, 0]) == "fine ##ly #4 #9"
