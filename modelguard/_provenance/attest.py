"""Attestations: an in-toto Statement v1 (in-toto/attestation, spec/v1) with a SLSA verification summary (slsa.dev, v1.1).

It says of the very bytes of every file, by sha256, and of the model as a whole, whether they passed which policy.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from modelguard.errors import OutputError, UsageError
from modelguard.report import Decision, Report, Verdict

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/verification_summary/v1"
PAYLOAD = "application/vnd.in-toto+json"
VERIFIER = "https://pypi.org/project/modelguard-core/"
LEVEL = "MODELGUARD_POLICY"
"""The one level there is; names of levels that are not SLSA's must not begin with SLSA_."""


def statement(report: Report, decision: Decision, now: datetime.datetime) -> dict[str, Any]:
    """The statement about ``report``, made at ``now`` (UTC). Anything but a pass is FAILED, ``mode: report`` or not.

    The first subject is the model: sha256 over the digests of its files in order of path, as OpenSSF Model Signing has it. Raises
    :class:`OutputError` where there is no file with a digest to say anything about.
    """
    target = report.target
    files = [file for file in target.files if file.sha256 is not None]
    if not files or len(files) != len(target.files):
        raise OutputError("the attestation", "cannot be made: the model's files have no digests", "read why in the report")
    whole = hashlib.sha256(b"".join(bytes.fromhex(file.sha256 or "") for file in files)).hexdigest()
    passed = decision.verdict is Verdict.PASS
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": target.identity or target.uri, "digest": {"sha256": whole}},
            *({"name": file.path, "digest": {"sha256": file.sha256}} for file in files),
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "verifier": {"id": VERIFIER, "version": {"modelguard": report.tool_version}},
            "timeVerified": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "resourceUri": resource_uri(report),
            "policy": {"uri": report.policy.name, "digest": {"sha256": report.policy.sha256}},
            "inputAttestations": [],
            "verificationResult": "PASSED" if passed else "FAILED",
            "verifiedLevels": [LEVEL] if passed else [],
            "slsaVersion": "1.1",
        },
    }


def resource_uri(report: Report) -> str:
    """The model as a package URL where it is on the Hub, else as it was named."""
    target = report.target
    if target.identity.startswith("hf:") and target.revision is not None:
        return f"pkg:huggingface/{target.identity.removeprefix('hf:')}@{target.revision}"
    return target.uri


def read_key(path: Path) -> Any:
    """A private key (PEM: ECDSA, Ed25519 or RSA) that signs. Raises :class:`UsageError`."""
    try:
        serialization: Any = import_module("cryptography.hazmat.primitives.serialization")
        signer: Any = import_module("securesystemslib.signer")
    except ImportError as error:
        raise UsageError("--sign-key", f"cannot be used here ({error})", "install the extra `signing` of modelguard-core") from error
    try:
        return signer.CryptoSigner(serialization.load_pem_private_key(path.read_bytes(), password=None))
    except OSError as error:
        raise UsageError(f"--sign-key {path}", f"cannot be read ({error.strerror})", "check the path") from error
    except (ValueError, TypeError) as error:
        cause = f"is no private key that signs here ({' '.join(str(error).split())[:120]})"
        raise UsageError(f"--sign-key {path}", cause, "give an unencrypted PEM of ECDSA, Ed25519 or RSA") from error


def text(document: dict[str, Any], key: Any = None) -> str:
    """The statement as a line of JSON, in a DSSE envelope signed by ``key`` if there is one."""
    body = json.dumps(document, sort_keys=True)
    if key is None:
        return body + "\n"
    dsse: Any = import_module("securesystemslib.dsse")
    envelope = dsse.Envelope(body.encode(), PAYLOAD, {})
    envelope.sign(key)
    return json.dumps(envelope.to_dict(), sort_keys=True) + "\n"
