"""Names that frameworks ship, one file a list, words apart by white space.

``keras_classes`` and ``keras_functions``: every class and modelling function under ``keras`` 3.15 (``keras.src.api_export`` and all subclasses of
``KerasSaveable``), and those of Keras 1 and 2 that its own files still name; without those that run or fetch what a configuration gives them.
``tensorflow_ops``: the operators that TensorFlow 2.19 registers (``TF_GetAllOpList``).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def known(name: str) -> frozenset[str]:
    """The names in the list ``name``."""
    return frozenset(files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8").split())
