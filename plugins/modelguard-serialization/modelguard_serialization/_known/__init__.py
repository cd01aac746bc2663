"""Names that frameworks ship, one file a list, words apart by white space.

``keras_classes`` and ``keras_functions``: every class and modelling function under ``keras`` 3.15 (``keras.src.api_export`` and all
subclasses of ``KerasSaveable``), and those of Keras 1 and 2 that its own files still name; without those that run or fetch what a
configuration gives them. ``tensorflow_ops``: the operators that TensorFlow 2.19 registers (``TF_GetAllOpList``); ``tensorflow_writes``
and ``tensorflow_reads`` are those of them that reach files. ``libraries``: packages whose classes configurations name, by their
frameworks' own examples (Hydra, SpeechBrain, NeMo, CompVis, MONAI, Lightning, MMEngine); ``plain_values``: what of the standard library
builds values and nothing more. ``mlflow_loaders``: modules that MLflow writes as ``loader_module`` itself. ``diffusers_modules``:
libraries and modules of ``diffusers.pipelines`` that model_index.json may name. ``skops_values``: types of skops nodes that hold
values, or a name judged by itself. ``torch_namespaces``: of operators that PyTorch and its sister libraries register.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def known(name: str) -> frozenset[str]:
    """The names in the list ``name``."""
    return frozenset(files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8").split())
