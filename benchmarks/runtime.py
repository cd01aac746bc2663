"""What running ONNX graphs costs and how right it is, against the figures of the design; prints the table and writes JSON.

The first two rows run the slow tests of the operator table and of the exporters and count them. Speed is the median over interleaved
rounds of the same inputs through our module and the torch module it was exported from, one thread. Importing is timed in a process
of its own, the file in the page cache; memory is the peak resident size over what the imports of torch and onnx take, after one forward
pass (which reads all weights but the rows of the embedding table it does not need). Linux only.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "runtime.json"
TESTS = "plugins/modelguard-runtime/tests"
MIB = 1 << 20


def count(paths: list[str], selection: str, keyword: str = "") -> dict[str, int]:
    """Run tests in a process of their own; passed, failed and skipped counts."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", *paths, "-m", selection, f"--junitxml={report}", "-p", "no:cacheprovider"]
        subprocess.run([*command, *(["-k", keyword] if keyword else [])], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        suite = next(ET.parse(report).getroot().iter("testsuite")).attrib
    failed, skipped = int(suite["failures"]) + int(suite["errors"]), int(suite["skipped"])
    return {"passed": int(suite["tests"]) - failed - skipped, "failed": failed, "skipped": skipped}


def conformance(quick: bool) -> dict[str, Any]:
    """The operator table against the onnx package's node cases and finite differences."""
    from modelguard_runtime.onnx import supported

    claimed = len([name for domain, name in supported() if domain == ""])
    return {"claimed": claimed, **count([f"{TESTS}/test_onnx_ops.py"], "not slow" if quick else "slow or not slow")}


def exports(quick: bool) -> dict[str, Any]:
    """Exported architectures against onnxruntime and the module they came from."""
    architectures = importlib.import_module("onnx_architectures").ARCHITECTURES
    result = count([f"{TESTS}/test_onnx_exports.py"], "not slow" if quick else "slow or not slow")
    return {"architectures": len(architectures), **result}


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def models() -> dict[str, tuple[Callable[[], Any], Any]]:
    """Models of a size at which the arithmetic counts, with an input each."""
    import torch
    from torch import nn

    zoo = importlib.import_module("onnx_architectures")
    text = {"vocab_size": 1000, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
    vision = {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "image_size": 64,
        "patch_size": 8,
    }

    def resnet() -> nn.Module:
        blocks = [zoo.Residual(nn.Sequential(zoo.conv_bn(32, 32), zoo.conv_bn(32, 32, act=None))) for _ in range(4)]
        return nn.Sequential(zoo.conv_bn(3, 32), *blocks, *zoo.head(32))

    images, words = torch.randn(8, 3, 64, 64), torch.randint(1, 1000, (8, 64))
    quiet = {"use_cache": False}
    return {
        "resnet": (resnet, torch.randn(16, 3, 32, 32)),
        "vit": (zoo.hub("ViTForImageClassification", "ViTConfig", **vision), images),
        "convnext": (
            zoo.hub("ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[32, 64], depths=[2, 2], num_stages=2),
            images,
        ),
        "bert": (zoo.hub("BertForSequenceClassification", "BertConfig", **text), words),
        "gpt2": (zoo.hub("GPT2LMHeadModel", "GPT2Config", options=quiet, vocab_size=1000, n_embd=128, n_layer=4, n_head=4), words),
        "llama": (zoo.hub("LlamaForCausalLM", "LlamaConfig", options=quiet, num_key_value_heads=2, **text), words),
    }


def export(module: Any, x: Any, exporter: str) -> Any:
    """The module as an ONNX model with a dynamic batch."""
    import onnx
    import torch

    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if exporter == "dynamo":
                shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},)
                return torch.onnx.export(module, (x[:2],), dynamo=True, dynamic_shapes=shapes, verbose=False).model_proto  # type: ignore[union-attr]
            buffer = io.BytesIO()
            torch.onnx.export(module, (x[:2],), buffer, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}, opset_version=17)  # type: ignore[arg-type]
            return onnx.load_from_string(buffer.getvalue())
        finally:
            logging.disable(logging.NOTSET)


def compare(source: Any, ours: Any, x: Any, rounds: int) -> dict[str, float]:
    """Median over rounds of our time over the source's, forward and forward with backward."""
    import torch

    def forward(module: Any) -> None:
        with torch.no_grad():
            module(x)

    def backward(module: Any) -> None:
        y = module(leaf)
        (y[0] if isinstance(y, tuple) else y).square().sum().backward()

    leaf = x
    if x.is_floating_point():
        leaf = x.clone().requires_grad_()
    else:  # tokens have no gradient: the embedding tables have
        for module in (source, ours):
            for parameter in module.parameters():
                parameter.requires_grad_(parameter.ndim == 2 and parameter.shape[0] == 1000)
    result = {}
    for name, step in (("forward", forward), ("forward and backward", backward)):
        for module in (source, ours) * 3:
            step(module)
        ratios = []
        for _ in range(rounds):
            theirs = statistics.median(timed(lambda: step(source)) for _ in range(3))  # noqa: B023
            mine = statistics.median(timed(lambda: step(ours)) for _ in range(3))  # noqa: B023
            ratios.append(mine / theirs)
        result[name] = round(statistics.median(ratios), 3)
    return result


def speed(quick: bool) -> dict[str, Any]:
    """Ours against the source module, by model and exporter."""
    import torch
    from modelguard_runtime.onnx import import_graph

    torch.set_num_threads(1)
    table: dict[str, Any] = {}
    for name, (build, x) in models().items():
        if quick and name not in ("resnet", "bert"):
            continue
        for exporter in ("legacy", "dynamo"):
            torch.manual_seed(0)
            source = build().eval().requires_grad_(False)
            ours = import_graph(export(source, x, exporter)).module
            table[f"{name}, {exporter}"] = compare(source, ours, x, 3 if quick else 9)
    worst = {kind: max(row[kind] for row in table.values()) for kind in ("forward", "forward and backward")}
    return {"worst": worst, "models": table}


def write_big(path: Path, mebibytes: int) -> None:
    """A BERT export of about that size, with random weights."""
    import torch

    zoo = importlib.import_module("onnx_architectures")
    layers = max(1, round((mebibytes - 150) / 27))
    build = zoo.hub(
        "BertForSequenceClassification",
        "BertConfig",
        vocab_size=51000,
        hidden_size=768,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=3072,
    )
    path.write_bytes(export(build().eval(), torch.randint(1, 1000, (2, 16)), "legacy").SerializeToString())


def peak_memory() -> int:
    """Peak resident bytes of this process (getrusage would count the parent's from before exec)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_import(path: Path, how: str) -> dict[str, float]:
    """In this process: time and memory of one way to read the file."""
    import modelguard_runtime.onnx as runtime
    import onnx
    import torch

    from modelguard import onnx_skeleton
    from modelguard._formats.onnx import OnnxFormat
    from modelguard.artifact import Artifact, ArtifactFile

    torch.set_num_threads(1)
    warm = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["n"])],
        [onnx.ValueInfoProto(name="y")],
    )
    runtime.import_graph(onnx.helper.make_model(warm, opset_imports=[onnx.helper.make_opsetid("", 17)]))
    before = peak_memory()
    start = time.perf_counter()
    if how == "load":
        onnx.load(path)
        seconds = time.perf_counter() - start
    else:
        file = ArtifactFile(path.name, path, path.stat().st_size)
        checkpoint, _ = OnnxFormat().open(file, Artifact(path.name, f"local:{path.name}", path.parent, (file,)))
        imported = runtime.import_graph(onnx.ModelProto.FromString(onnx_skeleton(checkpoint)), checkpoint.read)
        seconds = time.perf_counter() - start
        with torch.no_grad():  # so that the mapped weights it reads count as memory
            imported.module(torch.randint(1, 1000, (1, 16)))
    peak = peak_memory()
    return {"seconds": seconds, "memory": (peak - before) / path.stat().st_size, "whole": peak / path.stat().st_size}


def importing(quick: bool) -> dict[str, Any]:
    """Reading a big file: ours against onnx.load, each in processes of their own, the best of three."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.onnx"
        write_big(path, 200 if quick else 500)
        path.read_bytes()
        best: dict[str, dict[str, float]] = {}
        for _ in range(3):
            for how in ("load", "import"):
                output = subprocess.run(
                    [sys.executable, __file__, "--measure", how, str(path)], check=True, capture_output=True, text=True
                ).stdout
                found = json.loads(output.splitlines()[-1])
                if how not in best or found["seconds"] < best[how]["seconds"]:
                    best[how] = found
        size = path.stat().st_size // MIB
    return {
        "MiB": size,
        "onnx.load seconds": round(best["load"]["seconds"], 3),
        "import seconds": round(best["import"]["seconds"], 3),
        "ratio": round(best["import"]["seconds"] / best["load"]["seconds"], 2),
        "memory over file": round(best["import"]["memory"], 2),
        "onnx.load memory over file": round(best["load"]["memory"], 2),
        "whole process over file": round(best["import"]["whole"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fast tests and fewer models only; does not write the results")
    parser.add_argument("--only", choices=["conformance", "exports", "speed", "import"], help="one row")
    parser.add_argument("--measure", nargs=2, metavar=("HOW", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_import(Path(options.measure[1]), options.measure[0])))
        return
    sys.path.insert(0, str(ROOT / TESTS))
    rows: dict[str, Callable[[bool], dict[str, Any]]] = {
        "conformance": conformance,
        "exports": exports,
        "speed": speed,
        "import": importing,
    }
    results = {name: row(options.quick) for name, row in rows.items() if options.only in (None, name)}
    figures = {
        "conformance": "100 % of claimed, at least 150 operators",
        "exports": "at least 30 architectures, 100 %",
        "speed": "at most 1.15 times the source module",
        "import": "at most 2 times onnx.load, memory at most 1.3 times the file",
    }
    print("| work | figure | measured |\n| --- | --- | --- |")
    for name, result in results.items():
        shown = ", ".join(f"{key} {value}" for key, value in result.items() if key != "models")
        print(f"| {name} | {figures[name]} | {shown} |")
        for model, row in result.get("models", {}).items():
            print(f"|  | {model} | {', '.join(f'{kind} {ratio}' for kind, ratio in row.items())} |")
    if not options.quick:
        stored: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(stored | results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
