"""`--attest`: what the statement says of which bytes, and that a signed one is verified by somebody else's code."""

from __future__ import annotations

import datetime
import hashlib
import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guarding import BAD, GOOD, below, quick_policy
from support import Ran

from modelguard.testing.hub import LoopbackHub

pytestmark = pytest.mark.usefixtures("in_process")

Scan = Callable[..., tuple[Ran, dict[str, Any]]]


@pytest.fixture
def scan(tmp_path: Path, mg: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> Scan:
    """Scan ``m``, and return how that ended and the attestation."""
    monkeypatch.chdir(tmp_path)
    for folder, files in (("m", GOOD), ("bad", BAD)):
        for path, body in files.items():
            (tmp_path / folder / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / path).write_bytes(body)
    quick_policy(tmp_path)

    def run(target: str = "m", *argv: object) -> tuple[Ran, dict[str, Any]]:
        Path("a.json").unlink(missing_ok=True)
        ran = mg("scan", target, "-q", "--policy", "gate.yaml", "--attest", "a.json", "-o", "json=r.json", *argv)
        assert "Traceback" not in ran.err
        return ran, json.loads(Path("a.json").read_text()) if Path("a.json").exists() else {}

    return run


def test_what_passed_is_said_of_every_byte(scan: Scan) -> None:
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    ran, statement = scan()
    report = json.loads(Path("r.json").read_text())
    assert (ran.code, statement["_type"], statement["predicateType"]) == (
        0,
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/verification_summary/v1",
    )
    digests = {path: hashlib.sha256(body).hexdigest() for path, body in below(Path("m")).items()}
    whole = hashlib.sha256(b"".join(bytes.fromhex(digests[path]) for path in sorted(digests))).hexdigest()
    assert {item["name"]: item["digest"] for item in statement["subject"]} == {
        "local:m": {"sha256": whole},
        **{path: {"sha256": digest} for path, digest in digests.items()},
    }
    said = statement["predicate"]
    assert (said["verificationResult"], said["verifiedLevels"], said["resourceUri"]) == ("PASSED", ["MODELGUARD_POLICY"], "m")
    assert said["policy"] == {"uri": "gate", "digest": {"sha256": report["policy"]["sha256"]}}
    assert before <= datetime.datetime.fromisoformat(said["timeVerified"]) <= datetime.datetime.now(datetime.UTC)


@pytest.mark.parametrize("more", ["", "mode: report\n", "detectors: {required: [neural-cleanse]}\n"])
def test_anything_but_a_pass_is_failed(scan: Scan, tmp_path: Path, more: str) -> None:
    quick_policy(tmp_path, more)
    ran, statement = scan("m" if "required" in more else "bad")
    assert ran.code == (3 if "required" in more else 0 if more else 1)
    assert (statement["predicate"]["verificationResult"], statement["predicate"]["verifiedLevels"]) == ("FAILED", [])


def test_of_what_could_not_be_read_nothing_is_said(scan: Scan, tmp_path: Path) -> None:
    (tmp_path / "m" / "out").symlink_to("/etc/hostname")
    ran, statement = scan()
    assert (ran.code, statement) == (3, {})
    assert "the model's files have no digests" in ran.err
    assert json.loads(Path("r.json").read_text())["decision"]["verdict"] == "incomplete"


def test_a_model_from_the_hub_is_named_by_its_package_url(scan: Scan, own_hub: LoopbackHub, mg: Callable[..., Ran], tmp_path: Path) -> None:
    commit = own_hub.commit("org/name", GOOD)
    assert scan("hf://org/name")[1]["predicate"]["resourceUri"] == f"pkg:huggingface/org/name@{commit}"
    ran = mg("fetch", "hf://org/name", "there", "-q", "--policy", "gate.yaml", "--attest", "f.json")
    assert ran.code == 0
    said = {item["name"]: item["digest"]["sha256"] for item in json.loads(Path("f.json").read_text())["subject"]}
    assert {path: hashlib.sha256(body).hexdigest() for path, body in below(tmp_path / "there").items()}.items() <= said.items()
    assert mg("lock", "add", "hf://org/name", "--name", "one").code == 0
    assert mg("scan", "--lock", "-q", "--policy", "gate.yaml", "--attest", "{name}.json").code == 0
    assert json.loads(Path("one.json").read_text())["predicate"]["verificationResult"] == "PASSED"


def test_a_signed_statement_is_verified_with_the_public_key(scan: Scan, tmp_path: Path) -> None:
    dsse: Any = pytest.importorskip("securesystemslib.dsse", reason="the extra `signing` is not installed")
    from cryptography.hazmat.primitives import serialization as encoding
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    signer: Any = pytest.importorskip("securesystemslib.signer")
    for name, private in (("ec", ec.generate_private_key(ec.SECP256R1())), ("ed", ed25519.Ed25519PrivateKey.generate())):
        pem = private.private_bytes(encoding.Encoding.PEM, encoding.PrivateFormat.PKCS8, encoding.NoEncryption())
        (tmp_path / f"{name}.pem").write_bytes(pem)
        ran, written = scan("m", "--sign-key", f"{name}.pem")
        assert ran.code == 0
        envelope = dsse.Envelope.from_dict(written)
        public: Any = signer.SSlibKey.from_crypto(private.public_key())
        assert envelope.verify([public], 1)
        statement = json.loads(b64decode(written["payload"]))
        assert (written["payloadType"], statement["predicate"]["verificationResult"]) == ("application/vnd.in-toto+json", "PASSED")
        forged = {**statement, "predicate": {**statement["predicate"], "verificationResult": "FAILED"}}
        envelope.payload = json.dumps(forged).encode()
        with pytest.raises(Exception, match="signatures"):
            envelope.verify([public], 1)


@pytest.mark.parametrize(
    ("argv", "cause"),
    [
        (("--attest", "no/a.json"), "does not exist"),
        (("--attest", "m"), "m is read by this command"),
        (("--attest", "a.json", "--detector", "remote-code"), "says whether a policy as a whole was met"),
        (("--sign-key", "k.pem"), "has no effect without --attest"),
        (("--attest", "a.json", "--sign-key", "none.pem"), "cannot be read"),
        (("--attest", "a.json", "--sign-key", "gate.yaml"), "is no private key"),
    ],
)
def test_wrong_arguments(scan: Scan, mg: Callable[..., Ran], argv: tuple[str, ...], cause: str) -> None:
    if "--sign-key" in argv:
        pytest.importorskip("securesystemslib")
    ran = mg("scan", "m", "-q", "--policy", "gate.yaml", *argv)
    assert (ran.code, ran.err.count("\n"), Path("a.json").exists()) == (2, 1, False), ran.err
    assert cause in ran.err


def test_an_attestation_that_cannot_be_written_is_no_success(scan: Scan) -> None:
    ran, _ = scan("m", "--attest", "/dev/full")
    assert ran.code == 3
    assert "/dev/full: cannot be written (No space left on device)" in ran.err
