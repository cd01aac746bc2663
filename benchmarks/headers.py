"""What it costs to open a checkpoint of many tensors, with every check, in CPU time of one process.

The measure is ``json.loads`` of the same safetensors header, which checks nothing; for ONNX it is ``onnx.load``. A set of ten shards and a
walk over every tensor show that nothing after the header grows faster than the number of tensors.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from modelguard._formats import builtin_formats
from modelguard._formats.opening import open_artifact
from modelguard._sources.local import LocalSource
from modelguard.artifact import SourceContext
from modelguard.testing.checkpoints import open_target, safetensors_bytes

COUNTS = (1_000, 20_000, 200_000)
FIGURE = 2.0
"""Times ``json.loads`` of the header that opening a file of 200 000 tensors may take."""
SHARDS = 10


def milliseconds(work: Callable[[], Any], rounds: int) -> float:
    """The least CPU time of ``rounds`` runs; garbage is collected before each, and in it as the interpreter likes."""
    best = float("inf")
    for _ in range(rounds):
        gc.collect()
        began = time.process_time()
        kept = work()
        best = min(best, time.process_time() - began)
        del kept
    return best * 1e3


def entries(first: int, count: int) -> bytes:
    """``count`` entries as the format's own writer writes them, two bytes of data each."""
    return ",".join(
        f'"model.layers.{index % 64}.mlp.experts.{index}.w":{{"dtype":"BF16","shape":[1],'
        f'"data_offsets":[{2 * (index - first)},{2 * (index - first) + 2}]}}'
        for index in range(first, first + count)
    ).encode()


def safetensors(count: int) -> tuple[bytes, bytes]:
    header = b'{"__metadata__":{"format":"pt"},' + entries(0, count) + b"}"
    return header, safetensors_bytes(header, bytes(2 * count))


def graph(count: int) -> bytes:
    weights = [TensorProto(name=f"experts.{index}.w", data_type=TensorProto.BFLOAT16, dims=[1], raw_data=b"\0\0") for index in range(count)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "many", inputs, outputs, weights))
    return bytes(model.SerializeToString())


def opened(path: Path) -> Any:
    """The artifact at ``path``, fetched without hashing and opened."""
    return open_artifact(LocalSource().fetch(str(path), SourceContext(digest=False)), [item() for item in builtin_formats()])


def measure(count: int, folder: Path) -> dict[str, float]:
    """Milliseconds for ``count`` tensors, in one file, in shards and as ONNX."""
    rounds = max(3, 50_000 // count)
    header, data = safetensors(count)
    single, shards, network = folder / "one.safetensors", folder / "shards", folder / "one.onnx"
    single.write_bytes(data)
    network.write_bytes(graph(count))
    shards.mkdir()
    share = count // SHARDS
    for number in range(SHARDS):
        part = b"{" + entries(number * share, share) + b"}"
        (shards / f"model-{number + 1:05}-of-{SHARDS:05}.safetensors").write_bytes(safetensors_bytes(part, bytes(2 * share)))
    target = open_target(shards)
    row = {
        "json_ms": milliseconds(lambda: json.loads(header), rounds),
        "open_ms": milliseconds(lambda: opened(single), rounds),
        "shards_ms": milliseconds(lambda: opened(shards), rounds),
        "walk_ms": milliseconds(lambda: sum(info.byte_length for _, info in target.walk()), rounds),
        "onnx_load_ms": milliseconds(lambda: onnx.load(network), 1),
        "onnx_ms": milliseconds(lambda: opened(network), 1),
    }
    return {"tensors": count, "ratio": row["open_ms"] / row["json_ms"], **row}


def main() -> int:
    rows = []
    print("tensors   json.loads         open            shards      walk   onnx.load  open (ONNX)")
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(count, Path(folder))
        rows.append(row)
        print(
            f"{count:>7}  {row['json_ms']:8.1f} ms  {row['open_ms']:8.1f} ms {row['ratio']:.2f} x  {row['shards_ms']:8.1f} ms"
            f"  {row['walk_ms']:5.1f} ms  {row['onnx_load_ms']:6.1f} ms  {row['onnx_ms']:8.1f} ms"
        )
    print(f"figure: opening 200 000 tensors takes <= {FIGURE:g} x json.loads of their header")
    out = Path(__file__).parent / "results" / "headers.json"
    out.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if rows[-1]["ratio"] <= FIGURE else 1


if __name__ == "__main__":
    sys.exit(main())
