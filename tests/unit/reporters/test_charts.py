"""Charts: what is drawn for the numbers given, read from the SVG."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from modelguard._reporters.charts import FEW_BARS, Bar, Curve, bars, curves, layer_map
from modelguard._reporters.numbers import size, written


def texts(svg: str) -> list[str]:
    return [item.text or "" for item in ElementTree.fromstring(svg).iter("text")]


def heights(svg: str, name: str) -> list[float]:
    return [float(item.get("height", 0)) for item in ElementTree.fromstring(svg).iter("rect") if item.get("class") == name]


def test_bars_are_as_tall_as_their_numbers_and_the_marked_one_says_its_own() -> None:
    svg = bars("sizes", [Bar(str(n), n + 1.0, f"{n + 1}") for n in range(3)] + [Bar("3", 1.0, "one", True)], (2.0, "limit 2"))
    plain = heights(svg, "bar")
    assert plain == pytest.approx([plain[0], 2 * plain[0], 3 * plain[0]], abs=0.2)
    assert {"▼ one", "limit 2"} <= set(texts(svg))


def test_long_names_stand_beside_their_bars() -> None:
    svg = bars("members", [Bar("neural-cleanse-blend", 2.0, "0.01"), Bar("abs", 1.0, "0.1")])
    assert texts(svg) == ["neural-cleanse-blend", "0.01", "abs", "0.1"]


def test_very_many_bars_are_one_path_with_the_marked_one_named() -> None:
    svg = bars("sizes", [Bar(str(n), 1.0, "1", n == 500) for n in range(1000)])
    assert FEW_BARS < 1000
    assert svg.count("<path") == 1
    assert "▼ 1" in texts(svg)
    assert len(svg) < 60_000


def test_nothing_but_zeros_is_drawn_without_a_division_by_zero() -> None:
    assert "<rect" in bars("x", [Bar("a", 0.0, "0"), Bar("b", 0.0, "0")])
    assert "<polyline" in curves("x", [Curve("a", [(0.0, 0.0)])])


def test_the_marked_curve_is_drawn_last_and_named() -> None:
    svg = curves("elevation", [Curve("7", [(0, -1), (1, 3)], True), *(Curve(str(n), [(0, -1), (1, 0)]) for n in range(6))])
    assert re.findall('polyline class="(hit|line)"', svg)[-1] == "hit"
    assert "7" in texts(svg)


def test_a_map_has_a_row_for_each_module_and_a_column_for_each_layer() -> None:
    tensors = {f"model.safetensors/h.{n}.{part}.weight": 0.1 * (n + 1) for n in range(4) for part in ("attn.q", "mlp.up")}
    svg = layer_map("changes", {**tensors, "lm_head.weight": 1.0}, str, ["model.safetensors"])
    assert svg is not None
    assert {"h.*.attn.q.weight", "h.*.mlp.up.weight", "lm_head.weight", "0", "3", "–"} <= set(texts(svg))
    assert len(heights(svg, "hit")) == 9


def test_modules_are_named_by_what_differs_where_that_is_enough() -> None:
    svg = layer_map("changes", {f"h.0.{part}.weight": 0.1 for part in ("attn.q", "mlp.up")}, str)
    assert svg is not None
    assert {"attn.q", "mlp.up"} <= set(texts(svg))
    alone = layer_map("changes", {"layers.1.weight": 0.1}, str)
    assert alone is not None
    assert "layers.*.weight" in texts(alone)


def test_copies_of_a_tensor_share_a_cell() -> None:
    svg = layer_map("changes", {"a.onnx/h.0.w": 0.1, "b.safetensors/h.0.w": 0.1}, str, ["a.onnx", "b.safetensors"])
    assert svg is not None
    assert len(heights(svg, "hit")) == 1


def test_a_map_of_nothing_is_none() -> None:
    assert layer_map("changes", {}, str) is None


@pytest.mark.parametrize(
    ("item", "unit", "shown"),
    [
        (0.9607, "share", "96.1 %"),
        (1.0, "share", "100 %"),
        (0.00014151, "p", "0.00014"),
        (1_234_567, "bytes", "1.23 MB"),
        (1_234_567, "", "1,234,567"),
        (0.123456, "", "0.1235"),
        (True, "", "yes"),
        (None, "share", "–"),
        ([], "", "none"),
        ([0.5, 1.0], "share", "50 %, 100 %"),
        (list(range(30)), "", ", ".join(map(str, range(24))) + " and 6 more"),
        ({"0": 0.5}, "share", "0: 50 %"),
        ({"a": {"b": 1}}, "", '{"a": {"b": 1}}'),
        ("\u202egnp", "", "\\u202egnp"),
    ],
)
def test_numbers_are_written_as_people_write_them(item: object, unit: str, shown: str) -> None:
    assert written(item, unit) == shown  # type: ignore[arg-type]


def test_sizes_take_the_largest_unit_of_which_there_is_one() -> None:
    assert [size(count) for count in (0, 999, 1000, 5e12)] == ["0 B", "999 B", "1 kB", "5 TB"]
