"""``signature``: does the model carry the signature of whom it should, and does that cover every file? (OpenSSF Model Signing)"""

from __future__ import annotations

import hashlib
import json
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from modelguard import _limits
from modelguard._formats.named import by_name
from modelguard.artifact import HASH_BLOCK, Artifact, ArtifactFile, sha256_file
from modelguard.detector import Capability, Detector, ScanContext, Skip, Target, option
from modelguard.errors import ArtifactError
from modelguard.findings import Confidence, Finding, Location, Rule, Severity

INSTALL = "install model-signing (the extra `signing` of modelguard-core)"
MISSING = Rule(
    "MG0221", "SignatureMissing", "a model without the signature that it should have", Severity.HIGH,
    "The policy says who must have signed the model, and there is no signature at the path where it is looked for.",
    "Ask the publisher for the signature, or correct `provenance.signature.file`.",
    cwe=347,
)  # fmt: skip
REFUSED = Rule(
    "MG0222", "SignatureRefused", "a signature that is not of whom it should be", Severity.CRITICAL,
    "The signature does not verify with the key, authority or identity that the policy names: somebody else signed, it was altered, or it "
    "is no signature.",
    "Do not use the model. Ask the publisher, another way than the one the model came, who signs it now.",
    lookalikes="A key that the publisher replaced.",
    cwe=347,
)  # fmt: skip
BROKEN = Rule(
    "MG0223", "SignedFileChanged", "a file that is not as it was signed", Severity.CRITICAL,
    "The signature is good, and the file has other bytes than were signed, or is not there.",
    "Do not use the model; take it again from the publisher.",
    cwe=345,
)  # fmt: skip
UNSIGNED = Rule(
    "MG0224", "FileNotSigned", "a file that the signature does not cover", Severity.HIGH,
    "The file lies among signed ones and was not signed, so anybody may have put it there. Loaders act on files merely because they are "
    "there. Medium where the signer listed the path as ignored, low where that is a file that only git or people read.",
    "Remove the file, or have the publisher sign it.",
    lookalikes="Files that a download tool or a reader of the model added.",
    cwe=345,
)  # fmt: skip


@dataclass(frozen=True)
class Signature(Detector):
    """Verifies a signature over the whole model by the library model-signing, offline, and compares every file with what was signed.

    The score is 4 for a signature that is missing or does not hold, 1 where files are not covered, else 0.
    """

    id = "signature"
    requires = frozenset({Capability.FILES})
    rules = (MISSING, REFUSED, BROKEN, UNSIGNED)
    keeps_with_options = False  # certificates expire, trusted roots change

    file: str = option("model.sig", "path of the signature in the artifact")
    key: str | None = option(None, "public key (PEM) that must have signed")
    certificate: str | None = option(None, "certificates (PEM) of the authority that must vouch for who signed")
    identity: str | None = option(None, "who must have signed, exactly as in sigstore's certificate")
    issuer: str | None = option(None, "OpenID Connect issuer that vouched for the identity")
    trust_root: str | None = option(None, "trusted root (JSON) of another sigstore than the public one")

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        artifact = target.artifact
        signature = artifact.file(self.file)
        if self.key is None and self.certificate is None and self.identity is None:
            there = f"{self.file} is there, and nothing" if signature is not None else "nothing"
            raise Skip(f"{there} says who should have signed the model (policy: provenance.signature)")
        context.summary(score=0.0, covered=0)
        if signature is None:
            context.summary(score=4.0)
            missing = any(item.path == self.file for item in artifact.unfetched)
            if missing:
                raise Skip(f"{self.file} was not fetched")
            yield Finding(MISSING.id, f"there is no {self.file}, and {self._who()} must have signed the model", Confidence.HIGH)
            return
        try:
            statement = _statement(signature)
            ignored = self._verify(signature, statement)
        except _Refused as error:
            context.summary(score=4.0)
            message = f"{self.file} is no signature by {self._who()}: {error}"
            yield Finding(REFUSED.id, message, Confidence.HIGH, location=Location(self.file))
            return
        context.looked_at(self.file, "a signature")
        yield from self._compared(artifact, statement, ignored, context)

    def _compared(self, artifact: Artifact, statement: _Statement, ignored: tuple[str, ...], context: ScanContext) -> Iterator[Finding]:
        changed, covered = 0, set()
        for done, (path, resources) in enumerate(statement.by_file().items()):
            context.check_deadline()
            context.progress(done, len(statement.resources), path)
            file = artifact.file(path)
            if file is None:
                if any(item.path == path for item in artifact.unfetched):
                    raise Skip(f"{path} is signed and was not fetched, so it could not be compared")
                said = f"{path} was signed and is not there"
            elif all(item.holds(file) for item in resources) and _whole(file, resources):
                covered.add(path)
                continue
            else:
                said = f"{path} is not the file that was signed"
            covered.add(path)
            changed += 1
            context.summary(score=4.0)
            yield Finding(BROKEN.id, said, Confidence.HIGH, location=Location(path))
        paths = [*(item.path for item in artifact.files), *(item.path for item in artifact.unfetched)]
        others = [path for path in paths if path not in covered and path != self.file]
        context.summary(score=4.0 if changed else 1.0 if others else 0.0, covered=len(covered), not_covered=len(others))
        for path in others:
            left_out = any(path == item or path.startswith(item.rstrip("/") + "/") for item in ignored)
            inert = by_name(path).matter == "inert"
            severity = (Severity.LOW if inert else Severity.MEDIUM) if left_out else None
            said = f"{path} is not covered by {self.file}" + (", whose signer left it out" if left_out else "")
            yield Finding(UNSIGNED.id, said, Confidence.HIGH, severity, Location(path), {"left_out_by_signer": left_out})

    def _who(self) -> str:
        if self.key is not None:
            return f"the key {hashlib.sha256(self.key.encode()).hexdigest()[:16]}"
        return f"{self.identity} ({self.issuer})" if self.identity is not None else "the holder of a certificate of the given authority"

    def _verify(self, signature: ArtifactFile, statement: _Statement) -> tuple[str, ...]:
        """Have the library verify the signature, and return the paths that the signer left out.

        Raises :class:`_Refused`; :class:`Skip` where that cannot be done.
        """
        try:
            verifying: Any = import_module("model_signing.verifying")
        except ImportError as error:
            raise Skip(f"signatures cannot be verified here: {INSTALL} ({type(error).__name__}: {error})") from error
        signed = _Signed(statement)
        with tempfile.TemporaryDirectory() as folder:
            config = verifying.Config()
            try:
                self._expect(config, Path(folder))
            except Exception as error:
                raise Skip(
                    f"what should have signed cannot be read ({_said(error)}); correct provenance.signature in the policy"
                ) from error
            copied = Path(folder) / "model.sig"
            copied.write_bytes(signature.head(_limits.SIGNATURE))
            try:
                config.set_hashing_config(signed).verify(Path(folder), copied)
            except Exception as error:
                raise _Refused(_said(error)) from error
        return signed.ignored

    def _expect(self, config: Any, folder: Path) -> None:
        def written(name: str, text: str) -> Path:
            (folder / name).write_text(text, encoding="utf-8")
            return folder / name

        if self.key is not None:
            config.use_elliptic_key_verifier(public_key=written("key.pem", self.key))
        elif self.certificate is not None:
            config.use_certificate_verifier(certificate_chain=[written("authority.pem", self.certificate)])
        else:
            root = self.trust_root or _public_root()
            config.use_sigstore_verifier(identity=self.identity, oidc_issuer=self.issuer, trust_config=written("root.json", root))


class _Refused(Exception):
    """The signature does not hold."""


@dataclass(frozen=True)
class _Resource:
    """A file, or part of one, that was signed: bytes ``start`` to ``end`` of ``path``, or all where ``end`` is None."""

    name: str
    path: str
    start: int
    end: int | None
    algorithm: str
    hex: str

    def digest(self) -> Any:
        hashing: Any = import_module("model_signing._hashing.hashing")
        return hashing.Digest(self.algorithm, bytes.fromhex(self.hex))

    def holds(self, file: ArtifactFile) -> bool:
        """Whether the file has these bytes."""
        if self.end is None and self.algorithm == "sha256":
            return (file.sha256 or sha256_file(file).sha256) == self.hex
        hasher = _hasher(_plain(self.algorithm))
        left = file.size - self.start if self.end is None else self.end - self.start
        if self.end is not None and not 0 <= self.start < self.end <= file.size:
            return False
        with file.open() as handle:
            handle.seek(self.start)
            while left and (block := handle.read(min(left, HASH_BLOCK))):
                hasher.update(block)
                left -= len(block)
        return left == 0 and str(hasher.hexdigest()) == self.hex


@dataclass(frozen=True)
class _Statement:
    """What the signature says was signed. Nothing in it counts before the signature is verified."""

    serialization: Mapping[str, Any]
    resources: tuple[_Resource, ...]

    def by_file(self) -> dict[str, list[_Resource]]:
        found: dict[str, list[_Resource]] = {}
        for item in self.resources:
            found.setdefault(item.path, []).append(item)
        return found


class _Signed:
    """In the place of the library's hashing: gives it the files that this module took out of the statement.

    The library compares them with what it verified itself, so the two have read the same; the bytes are compared here, with the digests
    that the scan made.
    """

    def __init__(self, statement: _Statement) -> None:
        self.ignored: tuple[str, ...] = ()
        self._statement = statement

    def hash(self, model_path: Path, *, files_to_hash: Any = None) -> Any:
        manifest: Any = import_module("model_signing.manifest")
        made = manifest.SerializationType.from_args(dict(self._statement.serialization))
        return manifest.Manifest("model", [made.new_item(item.name, item.digest()) for item in self._statement.resources], made)

    def add_ignored_paths(self, *, model_path: Path, paths: Any) -> None:
        self.ignored = tuple(map(str, paths))


def _statement(signature: ArtifactFile) -> _Statement:
    """The statement in a signature's envelope. Raises :class:`_Refused` for what is none."""
    try:
        body = signature.head(_limits.SIGNATURE + 1)
        if len(body) > _limits.SIGNATURE:
            raise _Refused(f"it is larger than {_limits.SIGNATURE} bytes")
        statement = json.loads(b64decode(json.loads(body)["dsseEnvelope"]["payload"]))
        predicate = statement["predicate"]
        sharded = predicate["serialization"]["method"] == "shards"
        resources = tuple(_resource(item, sharded) for item in predicate["resources"])
        return _Statement(predicate["serialization"], resources)
    except ArtifactError as error:
        raise _Refused(str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Refused("it is no signature in the format of OpenSSF Model Signing 1.0") from error


def _resource(item: Mapping[str, str], sharded: bool) -> _Resource:
    name = item["name"]
    path, start, end = name.rsplit(":", 2) if sharded else (name, "0", "")
    if bytes.fromhex(item["digest"]).hex() != item["digest"] or _plain(item["algorithm"]) not in ("sha256", "blake2b", "blake3"):
        raise ValueError(item["algorithm"])
    return _Resource(name, PurePosixPath(path).as_posix(), int(start), int(end) if end else None, item["algorithm"], item["digest"])


def _whole(file: ArtifactFile, resources: list[_Resource]) -> bool:
    """Whether the parts that were signed are all of the file."""
    at = 0
    for item in sorted(resources, key=lambda item: item.start):
        if item.end is None:
            return True
        if item.start != at:
            return False
        at = item.end
    return at == file.size


def _plain(algorithm: str) -> str:
    """``sha256`` of ``sha256-sharded-1000``."""
    return algorithm.partition("-sharded-")[0]


def _hasher(algorithm: str) -> Any:
    if algorithm == "blake3":
        blake3: Any = import_module("blake3")
        return blake3.blake3()
    return hashlib.new(algorithm)


def _public_root() -> str:
    """The trusted root of the public sigstore that comes with the library sigstore, as model-signing takes it; nothing is asked."""
    from importlib import resources

    store = resources.files("sigstore._store").joinpath("https%3A%2F%2Ftuf-repo-cdn.sigstore.dev")
    parts = {
        "trustedRoot": json.loads(store.joinpath("trusted_root.json").read_text(encoding="utf-8")),
        "signingConfig": json.loads(store.joinpath("signing_config.v0.2.json").read_text(encoding="utf-8")),
    }
    return json.dumps({"mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json", **parts})


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
