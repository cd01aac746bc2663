"""Reading policy files: what is accepted, what is refused and with which words, and what a parent's locks forbid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelguard._policies.file import PolicyFile
from modelguard._policies.load import from_file
from modelguard.errors import PolicyError
from modelguard.findings import Severity
from modelguard.policy import JUDGEMENT_RULES, builtin_names, load_policy, resolve

ROOT = Path(__file__).resolve().parents[3]
MINIMAL = "version: 1\nname: mine\ndetectors:\n  required: [format-integrity]\n"


def write(folder: Path, text: str, name: str = "policy.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        load_policy(write(folder, text))
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_everything_the_architecture_shows_is_read(tmp_path: Path) -> None:
    policy = load_policy(
        write(
            tmp_path,
            """
version: 1
name: prod-gate
extends: [builtin:baseline]
mode: enforce
sources: {allow: ["hf://acme/*"], pinned: true, formats: [safetensors, onnx], remote_code: deny, left_out: incomplete}
detectors:
  required: [weight-diff, neural-cleanse]
  options: {neural-cleanse: {samples: 500}}
  timeouts: {neural-cleanse: 15m}
rules:
  - {match: {rule: "MG3*", confidence: ">=medium"}, action: block}
waivers:
  - {rule: MG1104, fingerprint: "modelguard/v1:0123456789abcdef0123456789abcdef", reason: "r", owner: "o", expires: 2027-03-31}
plugins: {allow: ["modelguard-*"]}
""",
        )
    )
    assert policy.required == ("format-integrity", "neural-cleanse", "weight-diff")
    assert policy.detectors.timeouts == {"neural-cleanse": 900}
    assert policy.detectors.options == {"neural-cleanse": {"samples": 500}}
    assert policy.waivers[0].expires.isoformat() == "2027-03-31"
    assert str(policy.rules[0].match) == "rule MG3*, confidence >=medium"
    assert policy.rules[0].action == "block"
    assert policy.default == "allow"


def test_without_a_name_the_baseline_applies() -> None:
    assert load_policy(None).name == "baseline"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("version: 1\nname: x\nname: y\ndetectors: {required: [a]}\n", 3, "'name' is given twice (first in line 2)"),
        ("version: 1\nname: x\ndetectors:\n  required: [a]\n  required: [b]\n", 5, "'required' is given twice"),
        ("version: 1\nname: x\nrules:\n? - {a: b}\n", 4, "a key is a list or a mapping"),
        ("version: 1\nname: x\ndetectors:\n  requird: [a]\n", 4, "detectors.requird: unknown key, did you mean required?"),
        ("version: 1\nname: x\nmode: off\ndetectors: {required: [a]}\n", 3, "mode"),
        ("version: 2\nname: x\ndetectors: {required: [a]}\n", 1, "version"),
        ("name: x\ndetectors: {required: [a]}\n", 1, "version: is missing"),
        (MINIMAL + "sources:\n  pinned: yes\n", 6, "sources.pinned"),
        (MINIMAL + "sources:\n  allow: []\n", 6, "sources.allow"),
        (MINIMAL + 'sources:\n  allow: ["hf://acme/[ab]"]\n', 6, "sources.allow[0]"),
        (MINIMAL + "rules:\n  - {match: {}, action: block}\n", 6, "matches everything"),
        (MINIMAL + "rules:\n  - match: {severity: '>high'}\n    action: block\n", 6, "info, low, medium, high, critical"),
        (MINIMAL + "rules:\n  - match: {rule: 'MG3?'}\n    action: block\n", 6, "rules[0].match.rule"),
        (MINIMAL + "rules:\n  - match: {rule: 'MG3*'}\n    action: blok\n", 7, "rules[0].action"),
        ("version: 1\nname: x\ndetectors:\n  required: [a]\n  timeouts: {a: 15}\n", 5, "such as 90s, 15m or 2h"),
        ("version: 1\nname: x\ndetectors:\n  required: [a, a]\n", 4, "lists 'a' twice"),
        (MINIMAL + "locked: [everything]\n", 5, "'everything' cannot be locked"),
        ("version: 1\nname: x\ndetectors: &d\n  required: [a]\n", 3, "uses an anchor or alias"),
        ("version: 1\nname: !!str x\ndetectors: {required: [a]}\n", 2, "uses the tag"),
        ("version: 1\nname: !!python/object:os.system x\n", 2, "uses the tag"),
        ("version: 1\nname: [\n", 3, "is not valid YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    message = refused(tmp_path, text)
    assert words in message
    assert f"policy.yaml, line {line}:" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("[]\n", "is not a mapping"),
        ("version: 1\nname: x\n", "requires nothing"),
        ("version: 1\nname: x\ndetectors: {required: []}\n", "detectors.required"),
        ("version: 1\nname: x\n---\nversion: 1\n", "not valid YAML"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("version: 1\nname: x\nx: " + "a" * 300_000, "larger than"),
        (MINIMAL + "# \x00\n", "not valid YAML"),
        ("version: " + "9" * 5000 + "\nname: x\n", "not valid YAML"),
    ],
)
def test_what_is_no_policy_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(tmp_path, text)


def test_a_policy_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(MINIMAL.encode() + b"# \xff\n")
    with pytest.raises(PolicyError, match="is not UTF-8"):
        load_policy(str(path))


def test_a_policy_that_is_not_there_is_an_error_with_a_hint() -> None:
    with pytest.raises(PolicyError, match="did you mean builtin:strict"):
        load_policy("strict")
    with pytest.raises(PolicyError, match="there are baseline, hub-download, strict"):
        load_policy("builtin:nonsense")


WAIVER = (
    '  - {{rule: {rule}, fingerprint: "modelguard/v1:0123456789abcdef0123456789abcdef", reason: {reason}, owner: o, expires: {expires}}}\n'
)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rule": "MG11*"}, "waivers[0].rule"),
        ({"rule": "MG9004"}, "cannot be waived"),
        ({"reason": "''"}, "waivers[0].reason"),
        ({"expires": "20270331"}, "must be a date such as 2027-03-31"),
        ({"expires": "never"}, "waivers[0].expires"),
        ({"expires": "2027-02-30"}, "policy.yaml"),
    ],
)
def test_a_waiver_is_narrow_reasoned_and_dated(tmp_path: Path, fields: dict[str, str], words: str) -> None:
    line = WAIVER.format(**{"rule": "MG1104", "reason": "r", "expires": "2027-03-31", **fields})
    assert words in refused(tmp_path, MINIMAL + "waivers:\n" + line)


@pytest.mark.parametrize("missing", ["rule", "fingerprint", "reason", "owner", "expires"])
def test_a_waiver_needs_all_its_parts(tmp_path: Path, missing: str) -> None:
    parts = {
        "rule": "MG1104",
        "fingerprint": "'modelguard/v1:0123456789abcdef0123456789abcdef'",
        "reason": "r",
        "owner": "o",
        "expires": "2027-03-31",
    }
    del parts[missing]
    body = ", ".join(f"{key}: {value}" for key, value in parts.items())
    assert f"waivers[0].{missing}: is missing" in refused(tmp_path, MINIMAL + f"waivers:\n  - {{{body}}}\n")


# What is known


def known() -> tuple[set[str], dict[str, None]]:
    return {"MG0101", "MG0102", "MG9004", "MG9008", "MG9009", "MG1104", "ACME-0001"}, dict.fromkeys(("format-integrity", "weight-diff"))


@pytest.mark.parametrize("name", builtin_names())
def test_the_builtin_policies_are_valid_with_and_without_the_plugins(name: str) -> None:
    policy = load_policy(f"builtin:{name}")
    policy.check({"MG0101", "MG9004", "MG9008", "MG9009"}, dict.fromkeys(("format-integrity", "remote-code")))
    rules = {"MG0101", "MG9004", "MG9008", "MG9009", "MG1105", "MG1107", "MG1123"}
    policy.check(rules, dict.fromkeys(("format-integrity", "remote-code", "weight-diff")))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("detectors: {required: [format-integrty]}\n", "did you mean format-integrity?"),
        ("detectors: {required: [format-integrity], required_with_reference: [wieght-diff]}\n", "required_with_reference"),
        ("detectors: {required: [format-integrity], options: {weight-dif: {max_rank: 1}}}\n", "did you mean weight-diff?"),
        ("detectors: {required: [format-integrity], timeouts: {nothing-at-all: 1m}}\n", "detectors.timeouts"),
        ("detectors: {required: [format-integrity]}\nrules: [{match: {detector: abc-def}, action: block}]\n", "rules[0].match.detector"),
        ("detectors: {required: [format-integrity]}\nrules: [{match: {rule: MG1140}, action: block}]\n", "did you mean MG1"),
        ("detectors: {required: [format-integrity]}\nrules: [{match: {rule: 'MG7*'}, action: block}]\n", "MG7*"),
        ("detectors: {required: [format-integrity]}\nrules: [{match: {rule: 'MG113*'}, action: block}]\n", "MG113*"),
        ("detectors: {required: [format-integrity]}\nrules: [{match: {rule: MG3099}, action: block}]\n", "MG3099"),
        ("detectors: {required: [format-integrity]}\nrules: [{match: {rule: ACME-0010}, action: block}]\n", "did you mean ACME-0001?"),
        ("detectors: {required: [format-integrity]}\nrules: [{match: {rule: 'ACNE-*'}, action: block}]\n", "ACNE-*"),
        ("detectors: {required: [format-integrity]}\nrules: [{match: {rule: MG9001}, action: block}]\n", "never a finding"),
    ],
)
def test_a_name_nobody_declares_is_a_typing_error(tmp_path: Path, body: str, words: str) -> None:
    policy = load_policy(write(tmp_path, "version: 1\nname: x\n" + body))
    with pytest.raises(PolicyError) as caught:
        policy.check(*known())
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "pattern", ["MG*", "MG3*", "MG01*", "MG2*", "MG20*", "MG3001", "MG110*", "MG0102", "ACME-*", "ACME-0*", "ACME-0001"]
)
def test_a_pattern_that_means_something_is_accepted(tmp_path: Path, pattern: str) -> None:
    text = f"version: 1\nname: x\ndetectors: {{required: [format-integrity]}}\nrules: [{{match: {{rule: '{pattern}'}}, action: block}}]\n"
    load_policy(write(tmp_path, text)).check(*known())


def test_first_party_detectors_may_be_required_before_they_are_installed(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path, "version: 1\nname: x\ndetectors: {required: [neural-cleanse, abs]}\n"))
    policy.check({"MG0101"}, {"format-integrity": None})
    with pytest.raises(PolicyError, match="'neural-clense'"):
        policy.requiring(["neural-clense"]).check({"MG0101"}, {"format-integrity": None})
    with pytest.raises(PolicyError, match="'neural-cleanse-typo'"):
        policy.requiring(["neural-cleanse-typo"]).check({"MG0101"}, dict.fromkeys(("format-integrity", "neural-cleanse")))


OPTIONS = [
    ("neural-cleanse: {steps: 500}", "option neural-cleanse.steps: there is no such option; neural-cleanse has: alpha, area"),
    ("neural-cleanse: {samples: 3}", "option neural-cleanse.samples: 3 is out of range; it must be >= 10"),
    ("neural-cleanse: {samples: many}", "option neural-cleanse.samples: 'many' is not a whole number"),
    ("neural-cleanse: {schedule: fast}", "option neural-cleanse.schedule: 'fast' is not one of batched, paper"),
    ("remote-code: {max_bytes: 0}", "option remote-code.max_bytes: 0 is out of range"),
    ("neural-cleanse: {quick: perhaps}", "option neural-cleanse.quick: 'perhaps' is not true or false"),
]


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "in the catalogue"])
@pytest.mark.parametrize(("option", "words"), OPTIONS)
def test_an_option_that_a_scan_would_refuse_is_refused_at_once(tmp_path: Path, option: str, words: str, installed: bool) -> None:
    from modelguard._plugins import load

    policy = load_policy(write(tmp_path, f"version: 1\nname: x\ndetectors: {{required: [format-integrity], options: {{{option}}}}}\n"))
    with pytest.raises(PolicyError) as caught:
        policy.check({"MG0101"}, load().detectors if installed else {})
    assert str(caught.value).startswith("policy x: detectors.options: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "in the catalogue"])
def test_options_that_exist_are_taken(tmp_path: Path, installed: bool) -> None:
    from modelguard._plugins import load

    text = "version: 1\nname: x\ndetectors:\n  required: [format-integrity]\n  options: {neural-cleanse: {samples: 600, schedule: paper}}\n"
    load_policy(write(tmp_path, text)).check({"MG0101"}, load().detectors if installed else {})


def test_of_a_detector_known_from_a_stored_report_alone_any_option_is_taken(tmp_path: Path) -> None:
    text = "version: 1\nname: x\ndetectors: {required: [format-integrity], options: {acme-squares: {size: 3}}}\n"
    load_policy(write(tmp_path, text)).check({"MG0101"}, {"acme-squares": None})


def test_rules_of_the_judgement_are_declared_once_and_in_order() -> None:
    ids = [rule.id for rule in JUDGEMENT_RULES]
    assert ids == sorted(set(ids))
    assert all(rule.severity >= Severity.HIGH and rule.remedy for rule in JUDGEMENT_RULES)


# Shipping


@pytest.mark.parametrize("name", builtin_names())
def test_the_policies_folder_holds_what_the_package_ships(name: str) -> None:
    path = ROOT / "policies" / f"{name}.yaml"
    assert path.read_bytes() == (ROOT / "modelguard" / "_policies" / f"{name}.yaml").read_bytes()
    assert load_policy(str(path)).sha256 == load_policy(f"builtin:{name}").sha256
    first = path.read_text().splitlines()
    assert first[0].startswith(f"# {name}: ")
    assert any("A pass guarantees" in line for line in first[:4])


def test_the_digest_is_that_of_what_the_policy_says(tmp_path: Path) -> None:
    one = load_policy(write(tmp_path, MINIMAL))
    two = load_policy(write(tmp_path, "# comment\ndetectors: {required: [format-integrity]}\nname: mine\nversion: 1\nmode: enforce\n"))
    other = load_policy(write(tmp_path, MINIMAL.replace("mine", "other")))
    assert one.sha256 == two.sha256 != other.sha256
    assert one.info.sha256 == one.sha256
    assert one.requiring(["weight-diff"]).sha256 != one.sha256
    assert one.requiring(["weight-diff"]).required_for(reference=True, samples=True) == ("weight-diff",)


# Inheritance


PARENT = """
version: 1
name: org
locked: [{locked}]
sources:
  allow: ["hf://acme/*", "hf://base/bert"]
  pinned: true
  digests: true
  formats: [safetensors, onnx]
  remote_code: deny
  left_out: incomplete
  licences: [apache-2.0, mit]
provenance: {{locked: true, base_model: check, signature: {{identity: acme, issuer: i}}}}
detectors:
  required: [format-integrity]
  options: {{neural-cleanse: {{samples: 500}}}}
  timeouts: {{neural-cleanse: 15m}}
rules:
  - {{match: {{severity: ">=high"}}, action: block}}
default: warn
plugins: {{allow: ["modelguard-*"], failures: incomplete}}
"""

WEAKENING = [
    ("mode", "mode: report"),
    ("sources.allow", 'sources: {allow: ["hf://*"]}'),
    ("sources.allow", 'sources: {allow: ["hf://acme/*", "hf://evil/x"]}'),
    ("sources.allow", "sources: {allow: null}"),
    ("sources.pinned", "sources: {pinned: false}"),
    ("sources.digests", "sources: {digests: false}"),
    ("sources.formats", "sources: {formats: [safetensors, torch-zip]}"),
    ("sources.remote_code", "sources: {remote_code: allow}"),
    ("sources.left_out", "sources: {left_out: allow}"),
    ("sources.licences", "sources: {licences: [mit, gpl-3.0]}"),
    ("provenance.locked", "provenance: {locked: false}"),
    ("provenance.signature", "provenance: {signature: null}"),
    ("provenance.signature", "provenance: {signature: {identity: mallory, issuer: i}}"),
    ("provenance.base_model", "provenance: {base_model: allow}"),
    ("detectors.options", "detectors: {options: {neural-cleanse: {samples: 50}}}"),
    ("detectors.options", "detectors: {options: {neural-cleanse: {restarts: 0}}}"),
    ("detectors.timeouts", "detectors: {timeouts: {neural-cleanse: 1s}}"),
    ("detectors.budget", "detectors: {budget: 1s}"),
    ("rules", 'rules: [{match: {rule: "MG3*"}, action: warn}]'),
    ("rules", 'rules: [{match: {rule: "MG3*"}, action: incomplete}]'),
    ("default", "default: allow"),
    ("waivers", "waivers:\n" + WAIVER.format(rule="MG1104", reason="r", expires="2027-03-31")),
    ("baseline", "baseline: allow"),
    ("plugins.allow", 'plugins: {allow: ["*"]}'),
    ("plugins.allow", 'plugins: {allow: ["modelguard-rome"]}'),
    ("plugins.failures", "plugins: {failures: report}"),
    ("detectors.optional", "detectors: {optional: [abs]}"),
]
TIGHTENING = [
    ("mode", "mode: enforce"),
    ("sources.allow", 'sources: {allow: ["hf://acme/bert-*"]}'),
    ("sources.allow", 'sources: {allow: ["hf://base/bert"]}'),
    ("sources.pinned", "sources: {pinned: true}"),
    ("sources.formats", "sources: {formats: [safetensors]}"),
    ("detectors", "detectors: {required: [weight-diff]}"),
    ("detectors.options", "detectors: {options: {neural-cleanse: {samples: 500}}}"),
    ("rules", 'rules: [{match: {rule: "MG3*"}, action: block}]'),
    ("default", "default: block"),
]


def child_of(folder: Path, locked: str, body: str) -> str:
    write(folder, PARENT.format(locked=locked), "org.yaml")
    return write(folder, f"version: 1\nname: team\nextends: [org.yaml]\n{body}\n")


@pytest.mark.parametrize(("key", "body"), WEAKENING)
def test_what_a_parent_locked_cannot_be_weakened(tmp_path: Path, key: str, body: str) -> None:
    with pytest.raises(PolicyError, match=r"weakens what .*org\.yaml locks") as caught:
        load_policy(child_of(tmp_path, key, body))
    assert "policy.yaml" in caught.value.thing


@pytest.mark.parametrize(("key", "body"), WEAKENING)
def test_locking_a_section_locks_its_keys(tmp_path: Path, key: str, body: str) -> None:
    with pytest.raises(PolicyError, match="weakens"):
        load_policy(child_of(tmp_path, key.split(".")[0], body))


@pytest.mark.parametrize(("key", "body"), WEAKENING)
def test_what_is_not_locked_may_be_changed(tmp_path: Path, key: str, body: str) -> None:
    load_policy(child_of(tmp_path, "", body))


@pytest.mark.parametrize(("key", "body"), TIGHTENING)
def test_what_is_locked_may_be_tightened(tmp_path: Path, key: str, body: str) -> None:
    load_policy(child_of(tmp_path, key, body))


@pytest.mark.parametrize(
    "body",
    [
        # What a project has to say itself: whom it trusts, and what it may use.
        *(body for key, body in WEAKENING if not key.startswith(("sources.allow", "sources.formats", "sources.licences", "provenance"))),
        "detectors: {optional: [weight-diff]}",
        "plugins: {allow: [modelguard-core]}",
        "detectors: {timeouts: {weight-diff: 1s}}",
    ],
)
def test_nothing_takes_away_from_strict(tmp_path: Path, body: str) -> None:
    with pytest.raises(PolicyError, match="weakens what builtin:strict locks"):
        load_policy(write(tmp_path, f"version: 1\nname: team\nextends: [builtin:strict]\n{body}\n"))


def test_a_grandchild_is_held_by_the_lock_too(tmp_path: Path) -> None:
    child_of(tmp_path, "mode", "")
    grandchild = write(tmp_path, "version: 1\nname: app\nextends: [policy.yaml]\nmode: report\n", "app.yaml")
    with pytest.raises(PolicyError, match="weakens"):
        load_policy(grandchild)


def test_a_lock_of_an_earlier_parent_holds_against_a_later_one(tmp_path: Path) -> None:
    write(tmp_path, PARENT.format(locked="sources.pinned"), "org.yaml")
    write(tmp_path, MINIMAL + "sources: {pinned: false}\n", "lax.yaml")
    with pytest.raises(PolicyError, match="weakens"):
        load_policy(write(tmp_path, "version: 1\nname: x\nextends: [org.yaml, lax.yaml]\n"))


BESIDE_STRICT = [
    "mode: report",
    "waivers: [{rule: MG1104, fingerprint: 'modelguard/v1:0123456789abcdef0123456789abcdef', reason: r, owner: o, expires: 2999-01-01}]",
    "detectors: {required: [weight-diff], optional: [remote-code]}",
    "detectors: {required: [weight-diff], options: {weight-diff: {max_rank: 1}}}",
    "detectors: {required: [weight-diff], timeouts: {weight-diff: 1s}}",
    "plugins: {allow: [modelguard-core]}",
    "rules: [{match: {severity: low}, action: allow}]",
]


@pytest.mark.parametrize("body", BESIDE_STRICT)
def test_a_parent_named_before_strict_takes_nothing_away_either(tmp_path: Path, body: str) -> None:
    required = "" if "detectors" in body else "detectors: {required: [weight-diff]}\n"
    write(tmp_path, f"version: 1\nname: lax\n{required}{body}\n", "lax.yaml")
    for order in ("[lax.yaml, builtin:strict]", "[builtin:strict, lax.yaml]"):
        with pytest.raises(PolicyError, match="weakens what builtin:strict locks"):
            load_policy(write(tmp_path, f"version: 1\nname: x\nextends: {order}\n"))


def test_a_parent_named_before_strict_may_add(tmp_path: Path) -> None:
    body = "rules: [{match: {rule: MG1110}, action: block}, {match: {severity: low}, action: warn}]\nsources: {allow: ['hf://acme/*']}\n"
    write(tmp_path, f"version: 1\nname: more\ndetectors: {{required: [remote-code]}}\n{body}", "more.yaml")
    policy = load_policy(write(tmp_path, "version: 1\nname: x\nextends: [more.yaml, builtin:strict]\n"))
    assert policy.sources.allow == ("hf://acme/*",)
    assert "remote-code" in policy.required
    load_policy(write(tmp_path, "version: 1\nname: x\nextends: [builtin:hub-download, builtin:strict]\n"))


def test_what_a_file_locks_for_its_children_it_may_have_from_its_parents(tmp_path: Path) -> None:
    write(tmp_path, "version: 1\nname: lax\ndetectors: {required: [weight-diff]}\nmode: report\n", "lax.yaml")
    assert load_policy(write(tmp_path, "version: 1\nname: x\nextends: [lax.yaml]\nlocked: [mode]\n")).mode == "report"


def test_merging_keeps_what_both_say(tmp_path: Path) -> None:
    body = """
detectors: {required: [weight-diff], options: {neural-cleanse: {ratio: 0.5}}, timeouts: {abs: 2h}}
rules: [{match: {rule: "MG11*"}, action: warn}]
sources: {pinned: false}
"""
    merged = resolve(child_of(tmp_path, "waivers", body))
    policy, origins = merged.policy, merged.origins
    assert policy.name == "team"
    assert policy.required == ("format-integrity", "weight-diff")
    assert policy.detectors.options == {"neural-cleanse": {"samples": 500, "ratio": 0.5}}
    assert policy.detectors.timeouts == {"neural-cleanse": 900, "abs": 7200}
    assert [str(rule.match) for rule in policy.rules] == ["rule MG11*", "severity >=high"]
    assert policy.sources.pinned is False
    assert policy.sources.digests is True
    assert policy.default == "warn"
    assert tuple(policy.document["locked"]) == ("waivers",)
    team, org = str(tmp_path / "policy.yaml"), str(tmp_path / "org.yaml")
    assert origins["rules[0]"] == team
    assert origins["rules[1]"] == org
    assert origins["sources.pinned"] == team
    assert origins["sources.digests"] == org
    assert origins["detectors.required.weight-diff"] == team
    assert origins["detectors.required.format-integrity"] == org
    assert origins["detectors.options.neural-cleanse.samples"] == org


def test_parents_are_found_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", MINIMAL, "parent.yaml")
    write(tmp_path / "sub", "version: 1\nname: middle\nextends: [./parent.yaml]\n", "middle.yaml")
    assert load_policy(write(tmp_path, "version: 1\nname: x\nextends: [sub/middle.yaml]\n")).required == ("format-integrity",)


@pytest.mark.parametrize("parent", ["/etc/policy.yaml", "https://example.org/p.yaml", "missing.yaml", "builtin:missing"])
def test_a_parent_that_cannot_be_used_is_an_error(tmp_path: Path, parent: str) -> None:
    assert "policy.yaml" in refused(tmp_path, f"version: 1\nname: x\nextends: ['{parent}']\n") or "missing" in parent


def test_a_policy_cannot_be_its_own_ancestor(tmp_path: Path) -> None:
    write(tmp_path, "version: 1\nname: a\nextends: [b.yaml]\n", "a.yaml")
    write(tmp_path, "version: 1\nname: b\nextends: [a.yaml]\n", "b.yaml")
    with pytest.raises(PolicyError, match="extends itself"):
        load_policy(str(tmp_path / "a.yaml"))


def test_parents_cannot_multiply_without_end(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL, "0.yaml")
    for n in range(1, 12):
        write(tmp_path, f"version: 1\nname: x\nextends: [{n - 1}.yaml, {n - 1}.yaml]\n", f"{n}.yaml")
    with pytest.raises(PolicyError, match="more than 32 policies"):
        load_policy(str(tmp_path / "11.yaml"))


def test_a_child_without_detectors_needs_a_parent_that_requires_one(tmp_path: Path) -> None:
    assert load_policy(write(tmp_path, "version: 1\nname: x\nextends: [builtin:baseline]\n")).required == ("format-integrity",)


@pytest.mark.parametrize("name", [*builtin_names(), "all"])
def test_the_resolved_policy_is_shown_as_a_policy_that_says_the_same(tmp_path: Path, name: str) -> None:
    from modelguard._policies.show import render_resolved

    body = """
detectors: {required: [weight-diff], options: {neural-cleanse: {"odd # name": "a: b", layers: [1, 2]}}, timeouts: {abs: 2h}}
waivers:
""" + WAIVER.format(rule="MG1104", reason="'x # y'", expires="2027-03-31")
    source = child_of(tmp_path, "sources", body) if name == "all" else f"builtin:{name}"
    resolved = resolve(source)
    shown = render_resolved(resolved)
    again = load_policy(write(tmp_path, shown, "shown.yaml"))
    assert again == resolved.policy
    assert shown.startswith(f"# sha256 {again.sha256}\n")


def test_a_file_with_parents_is_no_policy_before_they_are_merged() -> None:
    with pytest.raises(PolicyError, match="not resolved"):
        PolicyFile.model_validate({"version": 1, "name": "x", "extends": ["builtin:strict"]}).policy()


def test_the_built_in_policies_are_merged_as_their_files_say() -> None:
    for name in builtin_names():
        assert resolve(f"builtin:{name}") == from_file(f"builtin:{name}")


def test_the_published_schema_accepts_what_is_read_and_refuses_the_rest() -> None:
    import jsonschema  # type: ignore[import-untyped]
    from ruamel.yaml import YAML

    from modelguard._schemas import policy_schema

    schema = policy_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name in builtin_names():
        text = (ROOT / "policies" / f"{name}.yaml").read_text()
        document = json.loads(json.dumps(YAML(typ="safe", pure=True).load(text), default=str))
        validator.validate(document)
        assert list(validator.iter_errors({**document, "modus": "report"}))
        assert list(validator.iter_errors({**document, "locked": ["everything"]}))
        assert list(validator.iter_errors({**document, "rules": [{"match": {"severity": ">high"}, "action": "block"}]}))
