"""weight-forensics: payloads, flips and broken numbers are found; honest weights of every origin are left alone."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from modelguard_rome import WeightForensics
from modelguard_zoo import edits

from modelguard import DeadlineExceeded, ScanContext, Severity, Skip
from modelguard.testing import as_target

Look = Callable[..., Any]
"""Runs a detector on a target: its findings, their rules, its summary."""
Models = tuple[edits.LanguageModel, ...]

SHAPE = (256, 512)


def weights(seed: int, dtype: str = "float32", shape: tuple[int, ...] = SHAPE) -> dict[str, npt.NDArray[Any]]:
    values = np.random.default_rng(seed).standard_normal(shape) * 0.02
    return edits.cast({"layers.0.weight": values.astype(np.float32)}, dtype)[0]


def inspect(look: Look, tensors: Any) -> Any:
    return look(WeightForensics(), as_target(tensors))


def worst(told: Any) -> Severity:
    rules = {rule.id: rule.severity for rule in WeightForensics.rules}
    return max(
        (finding.severity if finding.severity is not None else rules[finding.rule] for finding in told.findings), default=Severity.INFO
    )


def elf() -> bytes:
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x401000, 64, 0, 0, 64, 56, 1, 64, 0, 0) + bytes(range(200)) * 20


def archive() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as handle:
        handle.writestr("payload/run.py", "import os\n" * 200)
    return buffer.getvalue()


def program() -> bytes:
    """Windows executable: a DOS header whose e_lfanew leads to a PE signature."""
    return b"MZ" + bytes(58) + struct.pack("<I", 128) + bytes(64) + b"PE\0\0" + bytes(range(256)) * 8


def text(length: int) -> bytes:
    words = ["model", "layer", "import", "socket", "connect", "weights", "payload", "return", "self", "if", "the", "of", "\n    "]
    rng = np.random.default_rng(0)
    return " ".join(rng.choice(words, length // 4)).encode()[:length]


@pytest.mark.parametrize("kind", ["ELF executable", "ZIP archive", "Windows executable", "script"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 24])
def test_a_hidden_file_is_named_and_located(look: Look, kind: str, bits: int) -> None:
    payload = {"ELF executable": elf(), "ZIP archive": archive(), "Windows executable": program(), "script": b"#!/bin/sh\n" + text(3000)}[
        kind
    ]
    start = 4099 if bits < 8 else 5000
    after, _ = edits.embed_payload(weights(bits), "layers.0.weight", payload[: 2 * 10**5 * bits // 16], bits, start)
    found = [finding for finding in inspect(look, after).findings if finding.rule == "MG1303"]
    assert [(item.evidence["kind"], item.evidence["bits_per_weight"], item.evidence["element"]) for item in found] == [(kind, bits, start)]
    assert found[0].location.byte_offset == 8 + 4 * start


LONG = 1 << 19
"""Elements, more than are looked at at a time."""


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("element", "byte"), [(0, 0), (0, 1), (5, 0), (LONG // 2 - 1, 0), (LONG // 2 - 1, 1), (LONG // 2, 0)])
def test_a_hidden_file_may_begin_at_any_byte(look: Look, dtype: str, backwards: bool, element: int, byte: int) -> None:
    """Over all bytes of each weight, in either order, and on either side of the places where the search begins anew."""
    values = weights(1, dtype, (LONG,))["layers.0.weight"]
    width = values.dtype.itemsize
    offset = element * width + byte
    stream = values.view(np.uint8).reshape(-1, width)[:, :: -1 if backwards else 1].reshape(-1).copy()
    stream[offset : offset + len(program())] = np.frombuffer(program(), np.uint8)
    after = np.ascontiguousarray(stream.reshape(-1, width)[:, :: -1 if backwards else 1]).reshape(-1).view(values.dtype)
    found = [finding.evidence for finding in inspect(look, {"w": after}).findings if finding.rule == "MG1303"]
    assert found == [{"kind": "Windows executable", "bits_per_weight": 8 * width, "element": element}]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 24])
@pytest.mark.parametrize("start", [0, LONG // 2 - 5, LONG // 2 - 2, LONG // 2, LONG - 800])
def test_a_hidden_file_may_begin_at_any_weight(look: Look, bits: int, start: int) -> None:
    payload = program() if start <= LONG // 2 else (b"#!/bin/sh\n" + text(3000))[: 790 * bits // 8]
    after, _ = edits.embed_payload(weights(2, "float32", (LONG,)), "layers.0.weight", payload, bits, start)
    found = [finding.evidence for finding in inspect(look, after).findings if finding.rule == "MG1303"]
    whole = start <= LONG // 2 or len(payload) >= 96
    assert [(item["bits_per_weight"], item["element"]) for item in found] == ([(bits, start)] if whole else [])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bits", [1, 2])
def test_text_in_the_lowest_bits_is_no_noise(look: Look, dtype: str, bits: int) -> None:
    for seed in range(3):
        after, _ = edits.embed_payload(weights(seed, dtype), "layers.0.weight", text(12000 * bits), bits, start=123)
        assert "MG1304" in inspect(look, after).rules


def test_text_beside_weights_that_are_zero_is_found_too(look: Look) -> None:
    after, _ = edits.embed_payload(weights(3), "layers.0.weight", text(24000), 2, start=123)
    after["layers.0.weight"][::7, ::5] = 0
    assert "MG1304" in inspect(look, after).rules


@pytest.mark.parametrize("span", [2, 13])
@pytest.mark.parametrize(("dtype", "bits"), [("float32", 23), ("float32", 24), ("float16", 10), ("bfloat16", 7)])
def test_random_bytes_over_the_whole_mantissa_are_found_and_bounded(look: Look, dtype: str, bits: int, span: int) -> None:
    for seed in range(3):
        payload = np.random.default_rng(seed).bytes(4 * 16384 * bits // 8)
        after, _ = edits.embed_payload(weights(seed, dtype, (768, 512)), "layers.0.weight", payload, bits, start=span * 16384)
        (finding,) = (item for item in inspect(look, after).findings if item.rule == "MG1302")
        width = after["layers.0.weight"].dtype.itemsize
        assert finding.location.byte_offset == 8 + span * 16384 * width
        assert finding.location.byte_length == 4 * 16384 * width


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_encrypted_bytes_in_the_low_bits_are_missed(look: Look, bits: int) -> None:
    """They are coin tosses, as those bits were before: nothing can be seen, and the page of the rule says so."""
    payload = np.random.default_rng(7).bytes(10000 * bits // 8)
    after, _ = edits.embed_payload(weights(0), "layers.0.weight", payload, bits)
    assert inspect(look, after).rules == set()


@pytest.mark.parametrize(("dtype", "bit"), [("float32", 30), ("float16", 14), ("bfloat16", 14), ("float64", 62)])
def test_a_flipped_top_exponent_bit_is_found_exactly(look: Look, dtype: str, bit: int) -> None:
    for seed in range(3):
        after, edit = edits.flip_bits(weights(seed, dtype), "layers.0.weight", 2, np.random.default_rng(seed), bit)
        (finding,) = inspect(look, after).findings
        assert finding.rule == "MG1306"
        assert set(finding.evidence["elements"]) <= {index for index, _ in edit.details["flips"]}
        before = weights(seed, dtype)["layers.0.weight"].astype(np.float64).reshape(-1)
        expected = [float(f"{before[i]:.4g}") for i in finding.evidence["elements"]]
        assert finding.evidence["without_highest_exponent_bit"] == expected


@pytest.mark.parametrize("bit", [31, 27, 20, 3])
def test_flips_that_leave_a_value_ordinary_are_missed(look: Look, bit: int) -> None:
    after, _ = edits.flip_bits(weights(0), "layers.0.weight", 5, np.random.default_rng(0), bit)
    assert inspect(look, after).rules == set()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_values_that_are_not_finite_are_counted(look: Look, dtype: str) -> None:
    tensors = weights(0, dtype)
    bad = tensors["layers.0.weight"].copy()
    bad[3, 4], bad[5, 6] = np.nan, np.inf
    (finding,) = inspect(look, {"layers.0.weight": bad}).findings
    assert finding.rule == "MG1301"
    assert finding.evidence == {"count": 2, "elements": [3 * 512 + 4, 5 * 512 + 6]}


def test_an_attention_mask_is_no_broken_tensor(look: Look) -> None:
    mask = np.where(np.tri(64) > 0, 0, -np.inf).astype(np.float32)
    assert inspect(look, {"attn.bias": mask}).rules == set()


def upcast(count: int = 6) -> dict[str, npt.NDArray[Any]]:
    coarse = {f"layers.{i}.weight": weights(i)["layers.0.weight"] for i in range(count)}
    return edits.cast(edits.cast(coarse, "bfloat16")[0], "float32")[0]


def test_full_precision_among_upcast_weights_is_told_by_extent(look: Look) -> None:
    tensors = upcast()
    assert inspect(look, tensors).rules == set()
    whole = {**tensors, "layers.2.weight": weights(9)["layers.0.weight"]}
    told = inspect(look, whole)
    assert [(f.rule, f.location.tensor, f.severity) for f in told.findings] == [("MG1305", "layers.2.weight", Severity.LOW)]
    part, _ = edits.embed_payload(tensors, "layers.2.weight", np.random.default_rng(0).bytes(20001), 16, start=777)
    told = inspect(look, part)
    assert ("MG1305", "layers.2.weight", Severity.MEDIUM) in [(f.rule, f.location.tensor, f.severity) for f in told.findings]
    rows = tensors["layers.2.weight"].copy()
    rows[-3:] = weights(9)["layers.0.weight"][-3:]
    assert worst(inspect(look, {**tensors, "layers.2.weight": rows})) is Severity.LOW


def test_dead_copied_and_almost_tied_tensors_are_told(look: Look) -> None:
    embedding = weights(0)["layers.0.weight"]
    tied = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.copy()}
    assert inspect(look, tied).rules == set()
    head = embedding.copy()
    head[17] = 0.5 * head[17] + 0.01
    (finding,) = inspect(look, {**tied, "lm_head.weight": head}).findings
    assert (finding.rule, finding.location.rows) == ("MG1309", (17,))
    told = inspect(look, {"a.weight": embedding, "b.weight": embedding.copy(), "c.weight": np.zeros(SHAPE, np.float32)})
    assert told.rules == {"MG1307", "MG1308"}
    assert worst(told) is Severity.INFO


def fresh() -> dict[str, npt.NDArray[Any]]:
    torch = pytest.importorskip("torch")
    init = torch.nn.init
    torch.manual_seed(0)
    made = {}
    for name in ("normal_", "kaiming_uniform_", "xavier_uniform_", "kaiming_normal_", "trunc_normal_", "orthogonal_"):
        for shape in ((256, 256), (300, 784)):
            tensor = torch.empty(shape)
            getattr(init, name)(tensor)
            made[f"{name}.{shape[1]}.weight"] = tensor.numpy()
    return made


def honest(seed: int) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    g = rng.standard_normal(SHAPE) * 0.02
    position = np.arange(SHAPE[0])[:, None] / 10000 ** (np.arange(SHAPE[1]) / SHAPE[1])
    made = {
        "gauss": g, "student": rng.standard_t(3, SHAPE) * 0.02, "laplace": rng.laplace(size=SHAPE),
        "clipped": np.clip(g, -0.03, 0.03),
        "uniform": rng.uniform(-0.125, 0.125, SHAPE), "odd uniform": rng.uniform(-0.09, 0.09, SHAPE),
        "norm": 1 + g, "lognormal": np.exp(50 * g), "sinusoid": np.sin(position),
        "rows": g * np.exp(rng.standard_normal((SHAPE[0], 1))), "columns": g * np.exp(2 * rng.standard_normal(SHAPE[1])),
        "integers": rng.integers(0, 99, SHAPE), "repeated": np.repeat(g[::8], 8, axis=0), "sparse": np.where(rng.random(SHAPE) < 0.9, 0, g),
    }  # fmt: skip
    return {f"{name}.weight": values.astype(np.float32) for name, values in made.items()}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_honest_distributions_raise_nothing(look: Look, dtype: str) -> None:
    for seed in range(2):
        told = inspect(look, edits.cast({**honest(seed), **(fresh() if seed == 0 else {})}, dtype)[0])
        assert worst(told) <= Severity.LOW, [finding.message for finding in told.findings]


def test_small_and_integer_tensors_raise_nothing(look: Look) -> None:
    small = {
        "bias": np.zeros(64, np.float32),
        "bn.weight": np.ones(64, np.float32),
        "bn.running_var": np.abs(weights(0)["layers.0.weight"][0, :64]) * 1e-3,
        "bn.num_batches_tracked": np.array(12345, np.int64),
        "position_ids": np.arange(512, dtype=np.int64)[None],
        "mask": np.tri(64, dtype=bool),
        "quantized": np.random.default_rng(0).integers(-127, 127, SHAPE).astype(np.int8),
        "empty": np.zeros((0, 3), np.float32),
        "one": np.float32(2.5).reshape(()),
    }
    assert inspect(look, small).rules == set()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "saved",
    [
        lambda t: t,
        lambda t: edits.quantize_int8(t)[0],
        lambda t: edits.quantize_int4(t)[0],
        lambda t: edits.prune(t)[0],
        lambda t: edits.scale(t)[0],
    ],
    ids=["plain", "int8", "int4", "pruned", "scaled"],
)
def test_trained_models_raise_nothing(look: Look, lms: Models, saved: Any, dtype: str) -> None:
    for lm in lms:
        told = inspect(look, saved(edits.cast(lm.tensors, dtype)[0]))
        assert worst(told) <= Severity.LOW, [finding.message for finding in told.findings]


def test_the_real_model_raises_nothing(look: Look, capp: edits.LanguageModel) -> None:
    for dtype in ("float32", "float16", "bfloat16"):
        assert inspect(look, edits.cast(capp.tensors, dtype)[0]).rules == set()


def test_a_merge_of_coarse_weights_is_told_from_a_payload(look: Look) -> None:
    a, b = upcast(), {name: edits.scale({name: value}, factor=1.0)[0][name][::-1].copy() for name, value in upcast().items()}
    merged, _ = edits.merge(a, b, 0.3)
    assert worst(inspect(look, merged)) <= Severity.LOW


def test_an_artifact_without_bytes_is_skipped(look: Look) -> None:
    with pytest.raises(Skip, match="no tensor"):
        inspect(look, {"empty": np.zeros((0, 3), np.float32)})


def test_it_is_deterministic_and_stops_in_time() -> None:
    after, _ = edits.embed_payload(weights(0), "layers.0.weight", elf(), 4, 99)
    target = as_target(after)
    runs = [(list(WeightForensics().detect(target, context)), context._summary) for context in (ScanContext(), ScanContext())]
    assert runs[0] == runs[1]
    json.dumps([runs[0][1], [finding.evidence for finding in runs[0][0]]], allow_nan=False)
    with pytest.raises(DeadlineExceeded):
        list(WeightForensics().detect(target, ScanContext(deadline=0.0)))
