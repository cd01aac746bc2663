"""What an evaluation of a known trigger costs beside the forward passes it cannot do without.

    python benchmarks/evaluate.py            # 10 000 images of 3 x 32 x 32 through a ResNet-8; benchmarks/results/evaluate.json

The passes are one of all images as they are and one of all images stamped. Stamping, nine places, four strengths, STRIP and pictures come
on top. Both are measured in one process, in turns, and the median of the ratios is the figure (at most 1.2). Weights are random: they cost
what trained ones do.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from modelguard_evaluate.detector import Evaluate
from modelguard_zoo._architectures import resnet8
from PIL import Image

from modelguard import configure
from modelguard.testing.checkpoints import open_target
from modelguard.testing.conformance import run_detector

RESULT = Path(__file__).resolve().parent / "results" / "evaluate.json"
TURNS = 3


def prepare(folder: Path, count: int) -> dict[str, str]:
    """A model, ``count`` samples and a trigger in ``folder``; the detector's options."""
    torch.manual_seed(0)
    model = resnet8(3, 32, 10).eval()
    rng = np.random.default_rng(0)
    images = (rng.random((count, 3, 1, 1)) * rng.random((count, 3, 32, 32))).astype(np.float32)
    last = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias.sub_(model(torch.from_numpy(images[:256])).mean(0))  # so that it names more than one class
    torch.onnx.export(
        model, (torch.zeros(2, 3, 32, 32),), str(folder / "model.onnx"), dynamo=False,
        input_names=["x"], output_names=["logits"], dynamic_axes={"x": {0: "N"}, "logits": {0: "N"}},
    )  # fmt: skip
    np.savez(folder / "samples.npz", inputs=images)
    named = open_target(folder, samples=folder / "samples.npz").model.predict(images).argmax(1)
    np.savez(folder / "samples.npz", inputs=images, labels=named)
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[-4:, -4:] = 255
    Image.fromarray(pixels, "RGBA").save(folder / "trigger.png")
    return {"trigger": str(folder / "trigger.png"), "target": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    turns = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = prepare(folder, arguments.count)
        target = open_target(folder, samples=folder / "samples.npz")
        assert target.samples is not None
        images = target.model.inputs(target.samples).numpy()
        for _ in range(TURNS):
            began = time.perf_counter()
            target.model.predict(images)
            target.model.predict(images)
            passes = time.perf_counter() - began
            began = time.perf_counter()
            outcome = run_detector(configure(Evaluate, options), target)
            turns.append((passes, time.perf_counter() - began))
            assert outcome.findings, outcome.reason
    ratio = median(whole / passes for passes, whole in turns)
    RESULT.write_text(
        json.dumps({"count": arguments.count, "turns": [[round(x, 2) for x in turn] for turn in turns], "ratio": round(ratio, 3)}) + "\n"
    )
    print(
        f"{arguments.count} images: passes {median(turn[0] for turn in turns):.1f} s, evaluation {median(turn[1] for turn in turns):.1f} s"
    )
    print(f"ratio {ratio:.2f} (at most 1.2)")


if __name__ == "__main__":
    main()
