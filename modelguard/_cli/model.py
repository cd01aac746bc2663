"""``modelguard model``: how a checkpoint runs."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from modelguard._cli import _complete
from modelguard._cli._options import model_options, plugin_option, print_answer, run_options, samples_option

if TYPE_CHECKING:
    from modelguard._scanner.prepare import RunOptions
    from modelguard.model import ModelOptions


@click.command("model", short_help="Show how a checkpoint runs: inputs, classes, layers, parity.")
@click.argument("target", shell_complete=_complete.files)
@samples_option
@model_options
@run_options
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def command(
    target: str, samples: str | None, model: ModelOptions, run: RunOptions, quiet: bool, without: tuple[str, ...], as_json: bool
) -> int:
    """Build the runnable model of TARGET in an isolated worker and say what it takes, what it returns, and what was checked.

    Exit codes: 0 it can be run, 2 usage error, 3 it cannot be run or must not be used.
    """
    from modelguard._cli._progress import ProgressDisplay
    from modelguard._detectors.describe_model import DescribeModel
    from modelguard._reporters.escape import visible
    from modelguard._reporters.json import dump
    from modelguard._scanner.prepare import ScanArguments, prepare

    prepared = prepare(ScanArguments(target=target, samples=samples, detectors=(DescribeModel,), model=model, run=run, without=without))
    with ProgressDisplay(quiet or as_json) as display:
        report = prepared.scan(display)
    outcome = next(iter(report.outcomes), None)
    completed = outcome is not None and outcome.status.value == "completed" and not report.failure
    reason = report.failure or (outcome.reason if outcome is not None else "it was not looked at")
    facts = {key: value for key, value in outcome.summary.items() if key != "score"} if outcome is not None and completed else {}
    if as_json:
        state = {"target": report.target.uri, "runs": completed, "reason": "" if completed else reason, "model": facts or None}
        print_answer(dump(state), nl=False)
    else:
        uri = report.target.uri
        refusal = f"{uri}: cannot be run: {reason.removeprefix(f'{uri}: ')}"
        print_answer("\n".join(_wrapped(visible(line)) for line in (_lines(uri, facts) if completed else (refusal,))))
    return 0 if completed else 3


def _wrapped(line: str) -> str:
    """The line, broken below its second column where a terminal is too narrow for it. What is copied stays whole: layers, and in a pipe."""
    if not sys.stdout.isatty() or line.startswith("    "):
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, subsequent_indent=" " * 16, break_long_words=False, break_on_hyphens=False)


def _lines(uri: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """The answer first, then a table of two columns, then the layers."""
    taken, given, layers = facts["input"], facts["output"], facts["layers"]
    how = "forward only" if facts.get("forward_only") else "runs and can be differentiated"
    classes = f"{given['classes']} classes" if given["kind"] == "classifier" else f"{given['kind']} output of {given['classes']} values"
    yield f"{uri}: {how}; {taken['kind']} of shape {_shape(taken['shape'])} -> {classes}"
    rows = [
        ("built by", facts.get("factory", "")),
        ("checkpoint", facts.get("checkpoint", "")),
        ("not run", ", ".join(facts.get("not_run", ()))),
        ("same weights", _twins(facts.get("same_weights", {}))),
        ("input", f"{taken['dtype']} {taken['layout']}, {_domain(taken)}"),
        ("said by", _sources(taken["source"])),
        ("text", _text(facts.get("text"))),
        ("padding", _padding(facts.get("text"))),
        ("cut", _cut(facts.get("cut"))),
        ("other inputs", _filled(facts.get("graph") or {})),
        ("output", _output(given)),
        ("assumed", facts.get("assumed", "")),
        ("batch", f"{facts['batch']} at a time: the graph fixes the batch or mixes its inputs" if facts.get("batch") else ""),
        ("forward only", facts.get("forward_only", "")),
        ("parity", _parity(facts)),
        ("agreement", _agreement(facts.get("agreement"))),
        ("operators", _operators(facts.get("operators", {}), facts.get("unsupported", ()))),
        ("parameters", f"{facts.get('parameters', 0):,} on {facts.get('device', '')}"),
        ("precision", _precision(facts.get("precision"))),
        ("layers", str(len(layers))),
    ]
    for name, text in rows:
        if text:
            yield f"  {name:<13} {text}"
    for layer in layers:
        yield f"    {layer['kind']:<10} {_shape(layer['shape']):<14} {layer['name']}"


def _filled(graph: Mapping[str, Any]) -> str:
    """What the inputs beside the data are given."""
    return "; ".join(f"{name}: {said}" for name, said in graph.get("filled", {}).items())


def _output(given: Mapping[str, Any]) -> str:
    told = f" (told by {given['told_by']})" if given.get("told_by") else ""
    labels = f", labels {', '.join(given['labels'][:8])}" if given["labels"] else ""
    return f"{given['kind']}{told}, head {given['head']}{labels}"


def _shape(shape: list[int]) -> str:
    return "x".join("?" if size < 0 else str(size) for size in shape)


def _domain(taken: Mapping[str, Any]) -> str:
    if taken["kind"] == "text":
        return f"token ids {taken['low']:g}..{taken['high']:g}"
    bounds = f"raw range {taken['low']:g}..{taken['high']:g}"
    if taken["mean"] is None:
        return f"{bounds}, not normalised outside the graph"
    mean, std = (":".join(f"{value:g}" for value in taken[name]) for name in ("mean", "std"))
    return f"{bounds}, mean {mean}, std {std}"


def _text(text: Mapping[str, Any] | None) -> str:
    """What turns text into the tokens the model takes, and what is to be known of it."""
    if text is None:
        return ""
    most = "" if text["length"] is None else f", at most {text['length']} a text"
    if text["tokenizer"] is None:
        return "; ".join([f"{text['vocabulary']} token ids{most}", *text["notes"]])
    around = [f"{len(text[end])} {word}" for end, word in (("prefix", "before"), ("suffix", "after")) if text[end]]
    said = f"{text['tokens']} of {text['vocabulary']} tokens by {text['tokenizer']}{most}"
    return "; ".join([said, *([f"{' and '.join(around)} each"] if around else []), *text["notes"]])


def _padding(text: Mapping[str, Any] | None) -> str:
    if text is None or text["pad"] is None:
        return ""
    return f"token {text['pad']}" + (
        "" if text["masked"] is not False else ": NOT MASKED, longer padding changes what the model says of a text"
    )


def _cut(cut: Mapping[str, int] | None) -> str:
    if cut is None:
        return ""
    return f"{cut['samples']} of {cut['of']} samples are longer than the {cut['length']} tokens the model takes, and are cut to them"


def _sources(source: Mapping[str, str]) -> str:
    """Who says what of the input, what nobody says last."""
    fields: dict[str, list[str]] = {}
    for name, said in sorted(source.items(), key=lambda item: (item[1] == "assumed", item[1], item[0])):
        fields.setdefault(said, []).append(name)
    return "; ".join(f"{said} ({', '.join(names)})" for said, names in fields.items())


def _operators(operators: Mapping[str, int], unsupported: Sequence[str]) -> str:
    if not operators:
        return ""
    covered = f"{', '.join(unsupported)} not supported" if unsupported else "all supported"
    counts = ", ".join(f"{name} {count}" for name, count in operators.items())
    return f"{len(operators)} in {sum(operators.values())} nodes, {covered}: {counts}"


def _parity(facts: Mapping[str, Any]) -> str:
    parity = facts.get("parity")
    if not parity:
        return ""
    compared = f"{parity['random']} random inputs" + (f" and {parity['samples']} samples" if parity["samples"] else "")
    said = f"within {parity['tolerance']:g} of onnxruntime on {compared}"
    if parity.get("spread") is not None:
        said = f"as near to onnxruntime as that is to itself (it differs by {parity['spread']:.2g}) on {compared}"
    return f"ok: {said} (largest deviation {parity['max_abs']:.2g}, relative {parity['max_rel']:.2g})"


def _precision(precision: Mapping[str, Any] | None) -> str:
    if precision is None:
        return ""
    gradient = "" if precision["gradient_cosine"] is None else f", gradients' cosine {precision['gradient_cosine']:.4f}"
    return f"{precision['computed_in']}: within {precision['max_rel']:.2g} of float32 on the CPU{gradient}"


def _agreement(agreement: Mapping[str, Any] | None) -> str:
    if agreement is None:
        return ""
    if agreement["ok"] is not True:
        return f"NOT UNDERSTOOD: {agreement['reason']}"
    if "accuracy" not in agreement:
        return f"{agreement['count']} samples without labels, {agreement['classes_seen']} classes predicted"
    return f"{agreement['accuracy']:.1%} of {agreement['count']} samples are predicted as labelled, chance gives {agreement['chance']:.1%}"


def _twins(twins: Mapping[str, Any]) -> str:
    parts = []
    for name, found in twins.items():
        different = found["different"]
        said = f"{len(different)} differ ({', '.join(different[:3])})" if different else "all equal"
        parts.append(f"{name}: {found['compared']} of {found['of']} tensors can be compared by name, {said}")
    return "; ".join(parts)
