"""``modelguard policy``, ``schema`` and ``report`` as a user meets them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from everything import everything
from ruamel.yaml import YAML
from support import ROOT, Ran

from modelguard._reporters import builtin_reporters
from modelguard.policy import load_policy

Run = Callable[..., Ran]
EVERYTHING = ROOT / "tests" / "golden" / "reports" / "everything.json"
MINIMAL = "version: 1\nname: mine\ndetectors:\n  required: [format-integrity]\n  optional: [abs, neural-cleanse]\n"
FINDING = "modelguard/v1:7a7ad84b4ffda71fdeb5c6deefb2c15f"


@pytest.fixture
def policy(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return path

    return write


def test_validate_says_which_are_valid_and_which_are_not(mg: Run, policy: Callable[[str], Path]) -> None:
    good = mg("policy", "validate", *sorted((ROOT / "policies").glob("*.yaml")), "builtin:strict")
    assert good.code == 0
    assert good.out.count(": valid, ") == 4
    bad = mg("policy", "validate", "builtin:baseline", policy(MINIMAL + "rules:\n  - {match: {rule: MG0199}, action: block}\n"))
    assert bad.code == 2
    assert "builtin:baseline: valid" in bad.out
    assert bad.err.count("\n") == 1
    assert "rules[0].match.rule" in bad.err
    assert "did you mean" in bad.err


def test_validate_escapes_what_it_quotes(mg: Run, policy: Callable[[str], Path]) -> None:
    ran = mg("policy", "validate", policy('version: 1\nname: x\n"\\e[2J\\u202e": 1\n'))
    assert ran.code == 2
    assert "\\x1b[2J\\u202e: unknown key" in ran.err
    assert "\x1b" not in ran.err


def test_show_prints_a_policy_as_written_or_resolved(mg: Run, policy: Callable[[str], Path]) -> None:
    assert mg("policy", "show").out == (ROOT / "policies" / "baseline.yaml").read_text()
    path = policy("version: 1\nname: team\nextends: [builtin:strict]\n")
    assert mg("policy", "show", path).out == path.read_text()
    resolved = mg("policy", "show", path, "--resolved")
    assert resolved.code == 0
    assert "- weight-diff  # builtin:strict" in resolved.out
    assert "- format-integrity  # builtin:baseline" in resolved.out
    assert "pinned: true  # builtin:strict" in resolved.out


def test_show_of_a_broken_policy_is_an_error(mg: Run, policy: Callable[[str], Path]) -> None:
    ran = mg("policy", "show", policy("version: 1\nname: x\nname: y\n"))
    assert ran.code == 2
    assert "given twice" in ran.err


def test_eval_judges_a_stored_report_and_exits_with_the_verdict(mg: Run, policy: Callable[[str], Path]) -> None:
    blocked = mg("policy", "eval", EVERYTHING)
    assert blocked.code == 1
    assert blocked.out.startswith("block: models/tampered, policy baseline, sha256 ")
    assert "  blocks  MG3001  a patch of 1.6 %" in blocked.out
    assert "  warns  MG3002  " in blocked.out
    assert "[rules[0]: severity >=high]" in blocked.out
    lax = MINIMAL + "default: allow\n"
    assert mg("policy", "eval", EVERYTHING, "--policy", policy(lax)).code == 0
    assert mg("policy", "eval", EVERYTHING, "--policy", policy(lax.replace("[format-integrity]", "[neural-cleanse]"))).code == 3
    assert mg("policy", "eval", EVERYTHING, "--policy", policy(lax.replace("[format-integrity]", "[not-there]"))).code == 2


def test_eval_on_a_date_and_as_json(mg: Run, policy: Callable[[str], Path]) -> None:
    waived = f'waivers: [{{rule: MG3001, fingerprint: "{FINDING}", reason: r, owner: o, expires: 2026-06-30}}]\n'
    path = policy(MINIMAL + "default: allow\nrules: [{match: {rule: MG3001}, action: block}]\n" + waived)
    before = mg("policy", "eval", EVERYTHING, "--policy", path, "--today", "2026-06-30", "--json")
    after = mg("policy", "eval", EVERYTHING, "--policy", path, "--today", "2026-07-01", "--json")
    assert (before.code, before.json["decision"]["verdict"]) == (0, "pass")
    assert before.json["decision"]["waived"][0]["owner"] == "o"
    assert (after.code, after.json["decision"]["violations"][0]["rule"]) == (1, "MG0293")
    assert "  waived  MG3001  r (o, until 2026-06-30)" in mg("policy", "eval", EVERYTHING, "--policy", path, "--today", "2026-06-30").out


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("missing.json", None, "cannot be read"),
        ("x.json", b"{", "is not valid JSON"),
        ("x.json", b"\xff", "is not UTF-8"),
        ("x.json", b"{}", "is not a"),
    ],
)
def test_what_is_no_report_is_a_usage_error(mg: Run, tmp_path: Path, name: str, body: bytes | None, words: str) -> None:
    if body is not None:
        (tmp_path / name).write_bytes(body)
    for command in (("policy", "eval"), ("report",)):
        ran = mg(*command, tmp_path / name)
        assert ran.code == 2
        assert words in ran.err
        assert ran.err.count("\n") == 1
        assert ran.out == ""


def test_schemas_are_json_schemas(mg: Run) -> None:
    import jsonschema  # type: ignore[import-untyped]

    for document in ("policy", "report"):
        ran = mg("schema", document)
        assert ran.code == 0
        jsonschema.Draft202012Validator.check_schema(ran.json)
        assert ran.json["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator(mg("schema", "report").json).validate(json.loads(EVERYTHING.read_text()))
    assert mg("schema", "sarif").code == 2


def test_the_report_schema_lets_later_versions_add_keys(mg: Run) -> None:
    import jsonschema

    document = json.loads(EVERYTHING.read_text())
    document["new"] = document["target"]["new"] = document["outcomes"][0]["new"] = 1
    jsonschema.Draft202012Validator(mg("schema", "report").json).validate(document)
    del document["decision"]["verdict"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(mg("schema", "report").json).validate(document)


@pytest.mark.parametrize("suffix", ["json", "sarif", "html"])
def test_report_renders_a_stored_report_in_any_form(mg: Run, suffix: str) -> None:
    ran = mg("report", EVERYTHING, "-f", suffix)
    assert ran.code == 1
    reporter = next(item for item in builtin_reporters() if item.format == suffix)
    assert ran.out == reporter().render(*everything())


def test_report_writes_files_and_judges_again(mg: Run, tmp_path: Path, policy: Callable[[str], Path]) -> None:
    out, page = tmp_path / "r.json", tmp_path / "r.html"
    ran = mg("report", EVERYTHING, "--policy", policy(MINIMAL + "default: allow\n"), "-o", f"json={out}", "-o", f"html={page}")
    assert ran.code == 0
    assert ran.out.startswith("PASS  models/tampered\n")
    again = json.loads(out.read_text())
    assert again["policy"]["name"] == "mine"
    assert again["outcomes"] == json.loads(EVERYTHING.read_text())["outcomes"]
    assert "<title>PASS models/tampered" in page.read_text()


def test_a_report_that_cannot_be_written_does_not_keep_the_others_from_being_written(
    mg: Run, tmp_path: Path, policy: Callable[[str], Path]
) -> None:
    out = tmp_path / "r.json"
    lax = policy(MINIMAL + "default: allow\n")
    ran = mg("report", EVERYTHING, "--policy", lax, "-o", "sarif=/dev/full", "-o", f"json={out}")
    assert ran.code == 3
    assert "/dev/full: cannot be written (No space left on device)" in ran.err
    assert json.loads(out.read_text())["decision"]["verdict"] == "pass"


def test_report_refuses_what_makes_no_sense(mg: Run) -> None:
    assert "give --policy as well" in mg("report", EVERYTHING, "--today", "2026-01-01").err
    assert mg("report", EVERYTHING, "-f", "xml").code == 2
    assert mg("report", EVERYTHING, "-o", "xml=r").code == 2


def test_init_writes_a_policy_that_is_valid_and_says_what_baseline_says(mg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = mg("policy", "init")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "wrote modelguard-policy.yaml: edit it, then `modelguard scan MODEL --policy modelguard-policy.yaml`\n"
    assert mg("policy", "validate", "modelguard-policy.yaml").code == 0
    ours, builtin = load_policy("modelguard-policy.yaml"), load_policy("builtin:baseline")
    assert replace(ours, name="", document={}) == replace(builtin, name="", document={})
    again = mg("policy", "init")
    assert (again.code, again.err) == (2, "modelguard: error: modelguard-policy.yaml: is there already; name another file\n")
    assert mg("policy", "init", "no/such/folder.yaml").code == 2


def test_every_line_that_init_leaves_out_is_valid_and_every_section_is_there(mg: Run, tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    mg("policy", "init", path)
    assert "policy validate all.yaml" in path.read_text(), "the comments name the file"
    path.write_text(re.sub(r"^#(?! |$)|^#(?=  )", "", path.read_text(), flags=re.MULTILINE))
    assert mg("policy", "validate", path).err == ""
    assert {"sources", "detectors", "rules", "waivers", "baseline", "plugins", "mode"} <= set(YAML(typ="safe").load(path))
