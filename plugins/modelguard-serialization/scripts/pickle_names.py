"""Writes ``_pickle/names/<package>.txt``: the classes of an installed package that its pickles may name.

    python scripts/pickle_names.py sklearn xgboost lightgbm catboost pandas scipy transformers tokenizers torch

Run it in an environment that has the packages. What is there already is kept: files of older releases name what newer ones lack. A class
is left out when it, or what it inherits within its package, runs something of its own when it is freed (``__del__``), or when its module
is named below. Whoever adds a package reads its ``__setstate__`` methods first: scipy.stats, whose distributions run text out of their
state, is left out for that reason.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import warnings
from pathlib import Path
from types import ModuleType

NAMES = Path(__file__).parent.parent / "modelguard_serialization" / "_pickle" / "names"

WHERE: dict[str, tuple[str, ...]] = {
    "sklearn": ("sklearn",),
    "xgboost": ("xgboost.core", "xgboost.sklearn", "xgboost.callback"),
    "lightgbm": ("lightgbm.basic", "lightgbm.sklearn", "lightgbm.engine", "lightgbm.callback"),
    "catboost": ("catboost.core", "_catboost"),
    "pandas": (
        "pandas.core.arrays", "pandas.core.indexes", "pandas.core.internals", "pandas.core.frame", "pandas.core.series",
        "pandas.core.dtypes.dtypes", "pandas.core.flags", "pandas._libs",
    ),
    "scipy": ("scipy.sparse", "scipy.spatial", "scipy.interpolate"),
    "transformers": ("transformers.models", "transformers.generation.configuration_utils", "transformers.tokenization_utils_base",
                     "transformers.activations", "transformers.pytorch_utils"),
    "tokenizers": ("tokenizers",),
    "torch": ("torch.nn.modules", "torch.nn.parallel.data_parallel", "torch.optim", "torch.nn.utils.rnn", "torch.nn.utils.weight_norm",
              "torch.nn.utils.spectral_norm", "torch.nn.functional"),
}  # fmt: skip
"""The modules of each package that are walked, with all below them."""

SKIP = (
    ".tests", ".externals", ".conftest", "._testing", "estimator_checks", ".datasets", ".callback.", ".plotting", ".linalg", ".csgraph",
    "._swa_utils_", "pandas._libs.testing", "pandas._libs.parsers", "pandas._libs.json", "pandas._libs.pandas_datetime",
    "pandas._libs.tslibs.strptime", "pandas._libs.sas", "pandas._libs.properties", ".qhull.", "._qhull.", "._interpnd.",
    "sklearn.utils.parallel", "convert_", "xgboost.callback",
)  # fmt: skip
FREED = frozenset({"Booster"})
"""Classes that free memory of their own, and whose ``__setstate__`` lets no state say which."""
FUNCTIONS = ("sklearn.metrics", "sklearn.feature_selection", "sklearn.preprocessing", "sklearn.utils.validation", "torch.nn.functional")
"""Modules whose public functions estimators and layers refer to."""
OLD_MODULES = {
    "sklearn.ensemble._forest": "sklearn.ensemble.forest", "sklearn.ensemble._gb": "sklearn.ensemble.gradient_boosting",
    "sklearn.ensemble._weight_boosting": "sklearn.ensemble.weight_boosting", "sklearn.tree._classes": "sklearn.tree.tree",
    "sklearn.decomposition._dict_learning": "sklearn.decomposition.dict_learning", "sklearn.cluster._kmeans": "sklearn.cluster.k_means_",
    "sklearn.decomposition._fastica": "sklearn.decomposition.fastica_", "sklearn.cluster._agglomerative": "sklearn.cluster.hierarchical",
    "sklearn.mixture._gaussian_mixture": "sklearn.mixture.gaussian_mixture", "sklearn.ensemble._iforest": "sklearn.ensemble.iforest",
    "sklearn.cluster._dbscan": "sklearn.cluster.dbscan_", "sklearn.cluster._mean_shift": "sklearn.cluster.mean_shift_",
    "sklearn.utils._bunch": "sklearn.utils", "sklearn.covariance._empirical_covariance": "sklearn.covariance.empirical_covariance_",
    "sklearn.metrics._scorer": "sklearn.metrics.scorer", "sklearn.neighbors._kd_tree": "sklearn.neighbors.kd_tree",
    "sklearn.neighbors._ball_tree": "sklearn.neighbors.ball_tree", "sklearn.metrics._dist_metrics": "sklearn.neighbors._dist_metrics",
}  # fmt: skip
"""Where classes lay before releases that moved them; besides, modules lost or gained a leading underscore."""


def modules(name: str) -> list[str]:
    try:
        package = importlib.import_module(name)
    except Exception as error:
        print(f"{name}: {error}", file=sys.stderr)
        return []
    inner = [item.name for item in pkgutil.walk_packages(getattr(package, "__path__", []), f"{name}.", onerror=lambda _: None)]
    return [name, *(item for item in inner if wanted(item))]


def wanted(name: str) -> bool:
    if any(part in f"{name}." for part in SKIP):
        return False
    return (
        not name.startswith("transformers.models.")
        or name.count(".") < 3
        or any(name.rpartition(".")[2].startswith(kind) for kind in ("configuration_", "modeling_", "tokenization_"))
    )


def harmless(cls: type) -> bool:
    top = cls.__module__.partition(".")[0]
    own = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == top]
    return cls.__name__ in FREED or not any(inspect.isfunction(vars(base).get("__del__")) for base in own)


def kinds(module: ModuleType) -> dict[str, str]:
    """Names defined in the module, and how they may be used."""
    import enum

    found: dict[str, str] = {}
    compiled = str(getattr(module, "__file__", "")).endswith((".so", ".pyd"))
    for name, value in vars(module).items():
        if (
            isinstance(value, type)
            and value.__module__ in (module.__name__, "pandas", "pandas.arrays")
            and value.__qualname__ == name
            and harmless(value)
        ):
            if issubclass(value, BaseException):
                continue
            if module.__name__.startswith("transformers.models.") and not _of_transformers(value):
                continue
            found[name] = "enum" if issubclass(value, enum.Enum) else "call" if compiled else "class"
        elif compiled and (name.startswith("__pyx_unpickle_") or name == "newObj"):
            found[name] = "call"
        elif module.__name__.startswith(FUNCTIONS) and inspect.isfunction(value) and not name.startswith("_"):
            found[name] = "name"
    return found


def _of_transformers(cls: type) -> bool:
    bases = {base.__name__ for base in cls.__mro__}
    if "PreTrainedTokenizerBase" in bases and any("__setstate__" in vars(base) for base in cls.__mro__):
        return False  # loads the programs that split words
    return bool(bases & {"PreTrainedConfig", "PretrainedConfig", "PreTrainedTokenizerBase"}) or any(
        base.__module__ == "torch.nn.modules.module" for base in cls.__mro__
    )


def older(module: str) -> list[str]:
    last = module.rpartition(".")[2]
    plain = module[: -len(last)] + last.lstrip("_")
    old = [OLD_MODULES[module]] if module in OLD_MODULES else []
    return old + ([plain] if plain != module and module.startswith(("sklearn.", "scipy.sparse.", "scipy.spatial.")) else [])


def main() -> None:
    warnings.filterwarnings("ignore")
    for package in sys.argv[1:]:
        path = NAMES / f"{package}.txt"
        found: dict[tuple[str, str], str] = {}
        if path.is_file():
            for line in path.read_text().splitlines():
                if line and not line.startswith("#"):
                    head, _, names = line.partition(": ")
                    kind, _, module = head.partition(" ")
                    found.update({(module, name): kind for name in names.split()})
        for start in WHERE[package]:
            for name in modules(start):
                try:
                    module = importlib.import_module(name)
                except BaseException as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    continue
                for item, kind in kinds(module).items():
                    # pandas 3 says of its classes that they lie in pandas; files of its earlier releases say where they are defined.
                    shown = getattr(getattr(module, item), "__module__", None)
                    for place in (
                        name,
                        *older(name),
                        *([shown] if isinstance(shown, str) and shown in ("pandas", "pandas.arrays") else []),
                    ):
                        found[place, item] = kind
        lines: dict[tuple[str, str], list[str]] = {}
        for (module, item), kind in sorted(found.items()):
            lines.setdefault((module, kind), []).append(item)
        head = f"# Written by scripts/pickle_names.py from {package} {getattr(sys.modules.get(package), '__version__', '')}\n"
        path.write_text(head + "".join(f"{kind} {module}: {' '.join(items)}\n" for (module, kind), items in sorted(lines.items())))
        print(package, len(found))


if __name__ == "__main__":
    main()
