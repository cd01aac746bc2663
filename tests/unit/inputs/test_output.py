"""What a model with so many outputs is, and how its classes are called."""

from __future__ import annotations

import numpy as np

from modelguard import Samples, output_spec


def test_one_output_is_a_classifier_only_when_something_says_so() -> None:
    binary = Samples(np.zeros((4, 2)), np.array([0, 1, 1, 0]), "x.npz", "")
    assert output_spec(1, "logits", None).kind == "regressor"
    assert output_spec(1, "sigmoid", None).classes == 2
    assert output_spec(1, "logits", binary).classes == 2
    assert output_spec(1000, "logits", None).classes == 1000
    assert output_spec(3, "logits", None, {"problem_type": "regression"}).kind == "regressor"


def test_label_names_need_to_be_complete_and_to_say_something() -> None:
    assert output_spec(2, "logits", None, {"id2label": {"0": "cat", "1": "dog"}}).labels == ("cat", "dog")
    assert output_spec(2, "logits", None, {"id2label": {"0": "cat"}}).labels == ()
    assert output_spec(2, "logits", None, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}).labels == ()
    assert output_spec(2, "logits", None, {"id2label": ["cat", "dog"]}).labels == ()
