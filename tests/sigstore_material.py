"""A sigstore of the test's own: authority, certificate log and transparency log with keys made here, and bundles that they vouch for.

What it makes is what the public one makes (a Fulcio certificate with an embedded SCT, a Rekor v1 entry of type dsse with inclusion proof,
signed checkpoint and signed entry timestamp), so that the real verifier verifies it, without a network.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import struct
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as encoding
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER_OF_IDENTITY = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
SHA256, ECDSA = 4, 3  # RFC 5246, section 7.4.1.4.1
PRECERTIFICATE = 1  # RFC 6962, section 3.4


class Sigstore:
    """``trust_root`` is what a verifier is to be given."""

    def __init__(self) -> None:
        self._now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        self._authority, self._certificates, self._log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fulcio")])
        self._root = self._builder(name, name, self._authority, days=3650, ca=True).sign(self._authority, hashes.SHA256())
        since = {"start": (self._now - datetime.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            about = {"rawBytes": _text(_spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since}
            return {"baseUrl": "https://log.example", "hashAlgorithm": "SHA2_256", "publicKey": about, "logId": {"keyId": _text(_id(key))}}

        root = _text(self._root.public_bytes(encoding.Encoding.DER))
        self.trust_root = json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
                "trustedRoot": {
                    "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                    "tlogs": [log(self._log)],
                    "certificateAuthorities": [
                        {
                            "subject": {"organization": "example", "commonName": "fulcio"},
                            "uri": "https://fulcio.example",
                            "certChain": {"certificates": [{"rawBytes": root}]},
                            "validFor": since,
                        }
                    ],
                    "ctlogs": [log(self._certificates)],
                },
                "signingConfig": {
                    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                    "caUrls": [],
                    "oidcUrls": [],
                    "rekorTlogUrls": [],
                    "tsaUrls": [],
                    "rekorTlogConfig": {"selector": "ANY"},
                    "tsaConfig": {"selector": "ANY"},
                },
            }
        )

    def resign(self, signature: Path, identity: str, issuer: str) -> None:
        """Let ``identity``, whom ``issuer`` vouches for, sign what ``signature``, a file in the format of Model Signing, states."""
        bundle = json.loads(signature.read_text())
        envelope = bundle["dsseEnvelope"]
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._leaf(key, identity, issuer)
        payload, kind = b64decode(envelope["payload"]), envelope["payloadType"].encode()
        # DSSE's pre-authentication encoding.
        signed = _sign(key, b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
        envelope["signatures"] = [{"sig": _text(signed)}]
        body = {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(json.dumps(envelope).encode()).hexdigest()},
                "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
                "signatures": [{"signature": _text(signed), "verifier": _text(certificate.public_bytes(encoding.Encoding.PEM))}],
            },
        }
        bundle["verificationMaterial"] = {
            "certificate": {"rawBytes": _text(certificate.public_bytes(encoding.Encoding.DER))},
            "tlogEntries": [self._entry(json.dumps(body).encode())],
        }
        signature.write_text(json.dumps(bundle))

    def _entry(self, body: bytes) -> dict[str, Any]:
        """The entry of a log that has no other (RFC 6962, section 2.1), and what the log signs of it."""
        root, when = hashlib.sha256(b"\0" + body).digest(), int(self._now.timestamp())
        note = f"log.example - 1\n1\n{_text(root)}\n"
        checkpoint = f"{note}\n\u2014 log.example {_text(_id(self._log)[:4] + _sign(self._log, note.encode()))}\n"
        # Canonical JSON (RFC 8785) of these values: sorted, no blanks.
        promised = {"body": _text(body), "integratedTime": when, "logID": _id(self._log).hex(), "logIndex": 0}
        promise = _sign(self._log, json.dumps(promised, sort_keys=True, separators=(",", ":")).encode())
        return {
            "logIndex": "0",
            "logId": {"keyId": _text(_id(self._log))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(when),
            "inclusionPromise": {"signedEntryTimestamp": _text(promise)},
            "inclusionProof": {
                "logIndex": "0", "rootHash": _text(root), "treeSize": "1", "hashes": [], "checkpoint": {"envelope": checkpoint},
            },
            "canonicalizedBody": _text(body),
        }  # fmt: skip

    def _leaf(self, key: ec.EllipticCurvePrivateKey, identity: str, issuer: str) -> x509.Certificate:
        """A certificate for ten minutes, with the promise of the certificate log (RFC 6962, section 3.2) in it."""
        builder = (
            self._builder(x509.Name([]), self._root.subject, key, days=0, ca=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._authority.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(identity)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(ISSUER_OF_IDENTITY, issuer.encode()), critical=False)
        )
        body = builder.sign(self._authority, hashes.SHA256()).tbs_certificate_bytes
        when = int(self._now.timestamp() * 1000)
        entry = _id(self._authority) + len(body).to_bytes(3, "big") + body
        promise = _sign(self._certificates, struct.pack("!BBQH", 0, 0, when, PRECERTIFICATE) + entry + struct.pack("!H", 0))
        sct = struct.pack("!B32sQHBBH", 0, _id(self._certificates), when, 0, SHA256, ECDSA, len(promise)) + promise
        listed = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        octets = x509.UnrecognizedExtension(SCT_LIST, b"\x04" + _der_length(len(listed)) + listed)
        return builder.add_extension(octets, critical=False).sign(self._authority, hashes.SHA256())

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int, ca: bool
    ) -> x509.CertificateBuilder:
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")
        usage = x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **dict.fromkeys(others, False))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - datetime.timedelta(minutes=5))
            .not_valid_after(self._now + datetime.timedelta(days=days, minutes=5))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )


def _text(value: bytes) -> str:
    return b64encode(value).decode()


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(encoding.Encoding.DER, encoding.PublicFormat.SubjectPublicKeyInfo)


def _id(key: ec.EllipticCurvePrivateKey) -> bytes:
    """What logs and issuers are named by: the digest of their public key."""
    return hashlib.sha256(_spki(key)).digest()


def _sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def _der_length(length: int) -> bytes:
    if length < 128:
        return bytes([length])
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(digits)]) + digits
