"""Signatures made with keys of the test by the library, verified through a scan: what holds passes, and everything else does not."""

from __future__ import annotations

import datetime
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guarding import BAD, GOOD, quick_policy
from sigstore_material import Sigstore
from support import Ran

signing: Any = pytest.importorskip("model_signing.signing", reason="the extra `signing` is not installed")
hashes_of: Any = pytest.importorskip("model_signing.hashing")
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes  # noqa: E402
from cryptography.hazmat.primitives import serialization as encoding  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.x509.oid import NameOID  # noqa: E402

pytestmark = pytest.mark.usefixtures("in_process")

Scan = Callable[..., tuple[Ran, dict[str, Any]]]
LATER = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
EARLIER = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def key(folder: Path, name: str) -> ec.EllipticCurvePrivateKey:
    """A key pair in ``name.key`` and ``name.pub``."""
    made = ec.generate_private_key(ec.SECP256R1())
    (folder / f"{name}.key").write_bytes(made.private_bytes(encoding.Encoding.PEM, encoding.PrivateFormat.PKCS8, encoding.NoEncryption()))
    public = made.public_key().public_bytes(encoding.Encoding.PEM, encoding.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return made


def authority(folder: Path, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate authority in ``name.pem``."""
    made = key(folder, name)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = _certificate(subject, subject, made.public_key(), made, ca=True)
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(encoding.Encoding.PEM))
    return certificate, made


def _certificate(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(EARLIER)
        .not_valid_after(LATER)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True)
        .sign(signer, hashes.SHA256())
    )


def sign(model: Path, with_key: Path, **hashing: Any) -> None:
    (model / "model.sig").unlink(missing_ok=True)
    config = signing.Config().use_elliptic_key_signer(private_key=with_key)
    if hashing:
        made = hashes_of.Config().set_ignored_paths(paths=[model / "model.sig"], ignore_git_paths=True)
        config.set_hashing_config(getattr(made, hashing.pop("method"))(**hashing))
    config.sign(model, model / "model.sig")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a good model, signed by ``publisher.key``."""
    folder = tmp_path / "model"
    for path, body in GOOD.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    key(tmp_path, "publisher")
    key(tmp_path, "mallory")
    sign(folder, tmp_path / "publisher.key")
    return folder


@pytest.fixture
def scan(model: Path, tmp_path: Path, mg: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> Scan:
    """Scan under a policy that expects ``signature`` (YAML), and return how that ended and the report."""
    monkeypatch.chdir(tmp_path)

    def run(signature: str = "key: publisher.pub", *argv: object) -> tuple[Ran, dict[str, Any]]:
        policy = quick_policy(tmp_path, f"provenance: {{signature: {{{signature}}}}}\n")
        Path("r.json").unlink(missing_ok=True)
        ran = mg("scan", "model", "-q", "--policy", policy, "-o", "json=r.json", *argv)
        assert "Traceback" not in ran.err
        return ran, json.loads(Path("r.json").read_text()) if Path("r.json").exists() else {}

    return run


def found(report: dict[str, Any]) -> dict[str, str]:
    """Rule of each finding of the detector by the file it is in."""
    outcome = next(item for item in report["outcomes"] if item["detector"] == "signature")
    return {item["location"]["file"] or "": item["rule"] for item in outcome["findings"]}


def test_a_signature_that_holds_passes(scan: Scan) -> None:
    ran, report = scan()
    assert (ran.code, found(report)) == (0, {})
    outcome = next(item for item in report["outcomes"] if item["detector"] == "signature")
    assert (outcome["status"], outcome["summary"]["covered"]) == ("completed", len(GOOD))
    assert "model.sig" not in report["target"]["unread"]


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (lambda model: (model / "config.json").write_text('{"a": 1}'), {"config.json": "MG0223"}),
        (lambda model: (model / "e.txt").unlink(), {"e.txt": "MG0223"}),
        (lambda model: (model / "extra.json").write_text("{}"), {"extra.json": "MG0224"}),
        (lambda model: (model / "config.json").rename(model / "other.json"), {"config.json": "MG0223", "other.json": "MG0224"}),
        (lambda model: (model / "model.sig").unlink(), {"": "MG0221"}),
        (lambda model: (model / "model.sig").write_text("{}"), {"model.sig": "MG0222"}),
        (lambda model: (model / "model.sig").write_bytes(b"\xff" * 100), {"model.sig": "MG0222"}),
    ],
)
def test_whatever_is_not_as_it_was_signed_blocks(scan: Scan, model: Path, change: Callable[[Path], object], rules: dict[str, str]) -> None:
    change(model)
    ran, report = scan()
    assert (ran.code, found(report)) == (1, rules)


def forged(model: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the signed statement and leave the signature."""
    bundle = json.loads((model / "model.sig").read_text())
    statement = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    edit(statement)
    bundle["dsseEnvelope"]["payload"] = b64encode(json.dumps(statement).encode()).decode()
    (model / "model.sig").write_text(json.dumps(bundle))


def test_a_forged_statement_and_another_signer_are_refused(scan: Scan, model: Path, tmp_path: Path) -> None:
    (model / "extra.pkl").write_bytes(BAD["extra.pkl"])
    forged(model, lambda statement: statement["predicate"]["serialization"]["ignore_paths"].append("extra.pkl"))
    ran, report = scan()
    assert (ran.code, found(report)) == (1, {"model.sig": "MG0222"})
    sign(model, tmp_path / "mallory.key")
    ran, report = scan()
    assert (ran.code, found(report)) == (1, {"model.sig": "MG0222"})
    ran, report = scan("key: mallory.pub")
    assert found(report) == {}, "the same signature, and somebody who trusts mallory"


def test_what_the_signer_left_out_is_told(scan: Scan, model: Path, tmp_path: Path) -> None:
    (model / ".gitattributes").write_text("*.bin binary\n")
    ran, report = scan()
    assert (ran.code, found(report)) == (0, {".gitattributes": "MG0224"})
    (finding,) = next(item for item in report["outcomes"] if item["detector"] == "signature")["findings"]
    assert (finding["severity"], finding["evidence"]) == ("low", {"left_out_by_signer": True})


@pytest.mark.parametrize(
    "hashing",
    [
        {"method": "use_file_serialization", "hashing_algorithm": "blake2"},
        {"method": "use_file_serialization", "hashing_algorithm": "blake3"},
        {"method": "use_shard_serialization", "hashing_algorithm": "sha256", "shard_size": 500},
    ],
    ids=["blake2", "blake3", "shards"],
)
def test_the_other_ways_to_sign(scan: Scan, model: Path, tmp_path: Path, hashing: dict[str, Any]) -> None:
    for empty in ("e.txt", "vocab/empty.txt"):
        (model / empty).write_text("not empty: a file without bytes has no shard")
    sign(model, tmp_path / "publisher.key", **hashing)
    ran, report = scan()
    assert (ran.code, found(report)) == (0, {})
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    ran, report = scan()
    assert (ran.code, found(report)) == (1, {"model.safetensors": "MG0223"})
    (model / "model.safetensors").write_bytes(GOOD["model.safetensors"] + b"more")
    assert "MG0223" in found(scan()[1]).values()


def test_certificates(scan: Scan, model: Path, tmp_path: Path) -> None:
    (model / "model.sig").unlink()
    ca, ca_key = authority(tmp_path, "authority")
    authority(tmp_path, "stranger")
    signer = key(tmp_path, "signer")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "publisher")])
    leaf = _certificate(subject, ca.subject, signer.public_key(), ca_key, ca=False)
    (tmp_path / "signer.pem").write_bytes(leaf.public_bytes(encoding.Encoding.PEM))
    config = signing.Config().use_certificate_signer(
        private_key=tmp_path / "signer.key", signing_certificate=tmp_path / "signer.pem", certificate_chain=[tmp_path / "authority.pem"]
    )
    config.sign(model, model / "model.sig")
    assert scan("certificate: authority.pem")[0].code == 0
    ran, report = scan("certificate: stranger.pem")
    assert (ran.code, found(report)) == (1, {"model.sig": "MG0222"})
    (model / "config.json").write_text("[]")
    assert found(scan("certificate: authority.pem")[1]) == {"config.json": "MG0223"}


WHO = "identity: a@acme.example, issuer: 'https://accounts.example', trust_root: root.json"


@pytest.fixture
def sigstore(tmp_path: Path, model: Path) -> Sigstore:
    """``a@acme.example`` has signed the model."""
    made = Sigstore()
    (tmp_path / "root.json").write_text(made.trust_root)
    made.resign(model / "model.sig", "a@acme.example", "https://accounts.example")
    return made


def test_an_identity_that_sigstore_vouches_for(scan: Scan, sigstore: Sigstore, model: Path) -> None:
    assert scan(WHO)[0].code == 0
    (model / "config.json").write_text("[]")
    (model / "extra.json").write_text("{}")
    ran, report = scan(WHO)
    assert ran.code == 1
    assert found(report) == {"config.json": "MG0223", "extra.json": "MG0224"}


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        (WHO.replace("a@acme", "b@acme"), "b@acme.example"),
        (WHO.replace("//accounts", "//others"), "others.example"),
        (WHO.rpartition(", trust_root")[0], "a@acme.example"),
    ],
    ids=["another identity", "another issuer", "another sigstore"],
)
def test_another_identity_than_the_policys_is_refused(scan: Scan, sigstore: Sigstore, signature: str, says: str) -> None:
    ran, report = scan(signature)
    assert (ran.code, found(report)) == (1, {"model.sig": "MG0222"})
    assert says in ran.out


def test_a_statement_that_no_log_has_seen_is_refused(scan: Scan, sigstore: Sigstore, model: Path) -> None:
    bundle = json.loads((model / "model.sig").read_text())
    entry = bundle["verificationMaterial"]["tlogEntries"][0]
    entry["inclusionProof"]["rootHash"] = b64encode(bytes(32)).decode()
    (model / "model.sig").write_text(json.dumps(bundle))
    assert found(scan(WHO)[1]) == {"model.sig": "MG0222"}


def test_a_signature_that_is_not_sigstores_is_no_identity(scan: Scan) -> None:
    ran, report = scan("identity: a@acme.example, issuer: 'https://accounts.example'")
    assert (ran.code, found(report)) == (1, {"model.sig": "MG0222"})


def test_a_required_signature_that_cannot_be_checked_is_incomplete(scan: Scan, tmp_path: Path) -> None:
    ran, report = scan("key: publisher.pub", "--detector", "format-integrity")
    assert (ran.code, "NO OBJECTION" in ran.out) == (0, True), "narrowed to another detector, the policy is not judged"
    (tmp_path / "publisher.pub").write_text("-----BEGIN PUBLIC KEY-----\nbm8ga2V5\n-----END PUBLIC KEY-----\n")
    ran, report = scan()
    assert (ran.code, {item["rule"] for item in report["decision"]["violations"]}) == (3, {"MG9001"})
    assert "cannot be read" in report["decision"]["violations"][0]["message"]


@pytest.mark.parametrize(
    ("signature", "cause"),
    [
        ("file: model.sig", "names nobody"),
        ("key: publisher.pub, certificate: x.pem", "names key, certificate"),
        ("identity: someone", "identity and issuer go together"),
        ("key: publisher.pub, trust_root: '{}'", "trust_root is for an identity"),
        ("key: none.pub", "cannot be read"),
        ("key: publisher.key", "is a private key"),
        ("key: gate.yaml", "is neither PEM nor JSON"),
        ("keys: publisher.pub", "did you mean key"),
    ],
)
def test_a_policy_that_does_not_say_who_is_refused(scan: Scan, signature: str, cause: str) -> None:
    ran, report = scan(signature)
    assert (ran.code, report, ran.err.count("\n")) == (2, {}, 1), ran.err
    assert cause in ran.err


def test_a_policys_digest_is_over_the_key(scan: Scan, tmp_path: Path) -> None:
    _, first = scan()
    (tmp_path / "publisher.pub").write_bytes((tmp_path / "mallory.pub").read_bytes())
    _, second = scan()
    assert first["policy"]["sha256"] != second["policy"]["sha256"]
