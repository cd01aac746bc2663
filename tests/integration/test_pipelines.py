"""What users copy: the README's snippets, docs/pipelines.md and the files for CI systems, run in a folder outside the repository."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from safetensors.numpy import load_file, save
from snippets import blocks, commands, lay_out, under
from support import ROOT, Ran, tool

from modelguard.testing.hub import LoopbackHub

pytestmark = pytest.mark.usefixtures("in_process")

Run = Callable[..., Ran]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PIPELINES = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
ACTION: dict[str, Any] = YAML(typ="safe").load(ROOT / "action.yml")
HOSTILE = ["$(touch pwned)", "`touch pwned`", '"; touch pwned; "', "a\ntouch pwned", "--help"]


def yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


@pytest.fixture
def here(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the demo's models in small, and those that the README scans; `modelguard` is on the PATH."""
    lay_out(tmp_path, load_file(tiny_model / "model.safetensors"))
    program = tmp_path / "bin" / "modelguard"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from modelguard._cli import main; main()" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_scans_are_what_they_say(mg: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks(under(README, "Scan"), "sh")
    with LoopbackHub() as hub:
        hub.commit("org/name", {"model.safetensors": save({"w": np.ones((4, 4), np.float32)})}, branch="revision")
        for name, value in hub.env(here / "home", "hf_loopback").items():
            monkeypatch.setenv(name, value)
        for (program, *argv), code in commands(block):
            assert program == "modelguard"
            planned = ["--plan"] if "--samples" in argv else []  # a search takes long, and finds nothing in noise
            if any(word.startswith("hf://") for word in argv):  # the client has read the environment already
                ran = subprocess.run(["modelguard", *argv], capture_output=True, text=True, check=False)
                assert ran.returncode == code, ran.stderr
                continue
            answered = mg(*argv, *planned)
            assert answered.code == code, (argv, answered.err)
    assert (here / "r.sarif").is_file()


def test_the_readmes_gate_opens_and_closes(mg: Run, here: Path) -> None:
    ran = [(argv, code, mg(*argv[1:])) for block in blocks(under(README, "Gate a pipeline"), "sh") for argv, code in commands(block)]
    for argv, code, done in ran:
        assert done.code == code, (argv, done.out, done.err)
    said = {tuple(argv[1:3]): done.out.split()[0] for argv, _, done in ran if "--baseline" not in argv}
    assert said["scan", "demo/clean"] == "PASS"
    assert said["scan", "demo/tampered"] == "BLOCKED"


def test_the_readmes_policy_is_valid(mg: Run, here: Path) -> None:
    text = next(block for block in blocks(under(README, "Gate a pipeline"), "yaml") if "version: 1" in block)
    (here / "p.yaml").write_text(text)
    assert mg("policy", "validate", "p.yaml").code == 0


def action_steps() -> Iterator[dict[str, Any]]:
    for text in (under(README, "Gate a pipeline"), under(PIPELINES, "GitHub Actions")):
        workflow = next(yaml(block) for block in blocks(text, "yaml") if "jobs:" in block)
        yield next(step for step in workflow["jobs"]["gate"]["steps"] if "/modelguard@" in step["uses"])


@pytest.mark.parametrize("step", list(action_steps()), ids=["README", "pipelines"])
def test_workflows_give_the_action_what_it_takes(step: dict[str, Any]) -> None:
    assert set(step["with"]) <= set(ACTION["inputs"])
    assert {name for name, item in ACTION["inputs"].items() if item.get("required")} <= set(step["with"])


def shell(script: str, here: Path, environment: dict[str, str], *, sh: str = "sh") -> int:
    ran = subprocess.run([sh, "-e", "-c", script], cwd=here, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert not list(here.rglob("pwned")), script
    return ran.returncode


class Component:
    """GitLab's component, its inputs put in as GitLab does it: into each value of the parsed file."""

    def __init__(self) -> None:
        self.spec, self.jobs = list(YAML(typ="safe").load_all(ROOT / "templates" / "scan.yml"))

    def job(self, **given: str) -> dict[str, Any]:
        inputs = {
            name: str(given.get(name.replace("-", "_"), item.get("default", ""))) for name, item in self.spec["spec"]["inputs"].items()
        }

        def put(value: Any) -> Any:
            if isinstance(value, str):
                return re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", lambda match: inputs[match[1]], value)
            if isinstance(value, list):
                return [put(item) for item in value]
            return {put(key): put(item) for key, item in value.items()} if isinstance(value, dict) else value

        (job,) = put(self.jobs).values()
        return dict(job)


def gitlab(here: Path, **given: str) -> int:
    job = Component().job(image="image", **given)
    return shell("\n".join(job["script"]), here, {name: item["value"] for name, item in job["variables"].items()})


def test_the_gitlab_component_passes_and_blocks(here: Path) -> None:
    assert gitlab(here, target="demo/clean", reference="demo/reference") == 0
    assert gitlab(here, target="demo/tampered", reference="demo/reference", output_dir="out") == 1
    for folder in ("modelguard-report", "out"):
        written = {path.name for path in (here / folder).iterdir()}
        assert written == {"report.json", "report.sarif", "report.html", "report.xml", "sast.json", "codequality.json"}
        reports = Component().job(image="image", target="x", output_dir=folder)["artifacts"]["reports"]
        assert {Path(path).name for path in reports.values()} <= written
    assert gitlab(here, target="demo/tampered", reference="demo/reference", baseline="out/report.json") == 0


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_inputs_of_the_gitlab_component_are_only_text(here: Path, value: str) -> None:
    assert gitlab(here, target=value) == 2
    assert gitlab(here, target="demo/clean", policy=value) == 2


def test_the_gitlab_component_uses_every_input_and_expands_none() -> None:
    component = Component()
    text = (ROOT / "templates" / "scan.yml").read_text()
    assert all(f"inputs.{name} ]]" in text for name in component.spec["spec"]["inputs"])
    job = component.job(image="image", target="x")
    assert "$[[" not in "".join(component.jobs["$[[ inputs.job-name ]]"]["script"])
    assert all(item["expand"] is False for item in job["variables"].values())
    (included,) = [yaml(block) for block in blocks(under(PIPELINES, "GitLab"), "yaml")]
    assert set(included["include"][0]["inputs"]) <= set(component.spec["spec"]["inputs"])


def azure() -> tuple[str, dict[str, str]]:
    (block,) = blocks(under(PIPELINES, "Azure Pipelines"), "yaml")
    step = next(item for item in yaml(block)["steps"] if "script" in item)
    return step["script"], step["env"]


def jenkins() -> tuple[str, dict[str, str]]:
    (block,) = blocks(under(PIPELINES, "Jenkins"), "groovy")
    assert block.count("{") == block.count("}")
    (script,) = re.findall(r"sh '''\n(.*?)'''", block, re.DOTALL)
    return script, dict(re.findall(r"^    (\w+) = '([^']*)'$", block, re.MULTILINE))


@pytest.mark.parametrize("system", [azure, jenkins])
def test_the_scripts_of_other_systems_pass_block_and_take_nothing_for_a_command(here: Path, system: Any) -> None:
    script, environment = system()
    assert set(environment) == {"TARGET", "POLICY"}
    assert "$(" not in script
    assert shell(script, here, {**environment, "TARGET": "demo/clean"}) == 0
    assert (here / "report" / "report.sarif").is_file()
    (here / "strict.yaml").write_text("version: 1\nname: x\nextends: [builtin:baseline]\ndetectors: {required: [weight-diff]}\n")
    assert shell(script, here, {**environment, "TARGET": "demo/clean", "POLICY": "strict.yaml"}) == 3
    for value in HOSTILE[2:]:
        assert shell(script, here, {**environment, "TARGET": value}) == 2


HOOKS: list[dict[str, Any]] = yaml((ROOT / ".pre-commit-hooks.yaml").read_text())


def test_the_hooks_run_as_pre_commit_would_run_them(here: Path) -> None:
    (here / "modelguard-policy.yaml").write_text("version: 1\nname: x\nextends: [builtin:baseline]\n")
    (here / "policies").mkdir()
    (here / "policies" / "bad.yml").write_text("version: 1\nname: x\nmdoe: report\n")
    validate, scan = HOOKS
    files = {path for path in ("modelguard-policy.yaml", "policies/bad.yml", "README.md") if re.search(validate["files"], path)}
    assert files == {"modelguard-policy.yaml", "policies/bad.yml"}
    assert subprocess.run([*shlex.split(validate["entry"]), "modelguard-policy.yaml"], check=False).returncode == 0
    assert subprocess.run([*shlex.split(validate["entry"]), *sorted(files)], check=False, capture_output=True).returncode == 2
    assert scan["pass_filenames"] is False
    assert re.search(scan["files"], "demo/clean/model.safetensors")
    assert subprocess.run([*shlex.split(scan["entry"]), "demo/clean"], check=False, capture_output=True).returncode == 0
    (here / "demo" / "clean" / "model.safetensors").write_bytes(b"\xff" * 100)
    assert subprocess.run([*shlex.split(scan["entry"]), "demo/clean"], check=False, capture_output=True).returncode != 0


def test_the_hooks_that_the_page_names_are_there() -> None:
    (block,) = blocks(under(PIPELINES, "pre-commit"), "yaml")
    assert {hook["id"] for hook in yaml(block)["repos"][0]["hooks"]} == {hook["id"] for hook in HOOKS}
    assert all(hook["language"] == "python" and hook["name"] and hook["description"] for hook in HOOKS)


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """The Dockerfile's stages by name: what each is made from, and its instructions."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    arguments: dict[str, str] = {}
    name = ""
    for line in filter(None, (line.strip() for line in text.splitlines() if not line.startswith("#"))):
        word, _, rest = line.partition(" ")
        if word == "ARG" and not name:
            key, _, value = rest.partition("=")
            arguments[key] = value
        elif word == "FROM":
            image, _, name = rest.partition(" AS ")
            found[name] = (re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], image), [])
        else:
            found[name][1].append((word, rest))
    return found


def chain(name: str) -> list[tuple[str, str]]:
    """All instructions of a stage, those of the stages it is made from first."""
    image, own = stages()[name]
    return [*(chain(image) if image in stages() else []), *own]


def test_every_image_comes_from_a_digest_and_runs_as_nobody_in_particular() -> None:
    found = stages()
    for image, _ in found.values():
        assert image in found or re.fullmatch(r"[\w./:-]+@sha256:[0-9a-f]{64}", image)
    for target in ("cpu", "cuda"):
        instructions = chain(target)
        users = [rest for word, rest in instructions if word == "USER"]
        assert users[-1].isdigit(), "a number, which Kubernetes can tell from root"
        assert int(users[-1]) > 0
        assert ("ENTRYPOINT", '["modelguard"]') in instructions
        assert not [word for word, _ in instructions if word in ("ADD", "EXPOSE")]
        installs = [rest for word, rest in instructions if word == "RUN" and "pip install" in rest]
        assert installs
        assert all("-c /usr/share/modelguard/constraints.txt" in rest for rest in installs)
    built = {match for word, rest in [*chain("cpu"), *chain("cuda")] if word == "RUN" for match in re.findall(r"from=(\w+)", rest)}
    assert built == {"wheels"}


def test_what_the_image_is_built_from_is_there_and_not_ignored() -> None:
    sources = [path for name in stages() for word, rest in stages()[name][1] if word == "COPY" for path in rest.split()[:-1]]
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) == allowed
    assert all((ROOT / path).exists() for path in sources)


@pytest.mark.slow
def test_the_wheels_of_the_image_are_built_from_what_it_copies(tmp_path: Path) -> None:
    """The instructions of the stage that builds them, with this machine's folder in the place of the image's."""
    source, wheels = tmp_path / "src", tmp_path / "wheels"
    source.mkdir()
    for word, rest in stages()["wheels"][1]:
        if word == "COPY":
            *names, _ = rest.split()
            for name in names:
                ignored = shutil.ignore_patterns("__pycache__", "tests", "build", "*.egg-info")
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
                else:
                    shutil.copy(ROOT / name, source / name)
        elif word == "RUN":
            command = rest.replace("/wheels", str(wheels)).replace(
                "pip wheel", f"{sys.executable} -m pip wheel -q --no-build-isolation --no-index"
            )
            ran = subprocess.run(["sh", "-e", "-c", command], cwd=source, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stderr
    built = {path.name.split("-")[0].replace("_", "-") for path in wheels.glob("*.whl")}
    assert built == {"modelguard-core", *(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))}


@pytest.mark.skipif(tool("hadolint") is None, reason="hadolint is not installed")
def test_the_dockerfile_is_clean() -> None:
    ran = subprocess.run([str(tool("hadolint")), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_the_targets_that_the_page_builds_are_there() -> None:
    targets = set(re.findall(r"--target (\w+)", under(PIPELINES, "Containers")))
    assert targets == {"cpu", "cuda"}
    assert targets <= set(stages())
