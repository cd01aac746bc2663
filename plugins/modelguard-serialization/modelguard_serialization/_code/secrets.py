"""Credentials in text, by their form and, where the kind has one, their checksum."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Secret:
    """``shown`` is the value with all but its ends hidden."""

    what: str
    shown: str
    at: int


_ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_EXAMPLE = re.compile(
    rb"EXAMPLE|example|xxxx|XXXX|1234567|abcdefg|ABCDEFG|0000000|your|YOUR|dummy|fake|test|FAKE|TEST|placeholder|\*\*\*", re.S
)


def _checksum(value: bytes) -> bool:
    """The last six signs are the CRC-32 of those between the prefix and them, in base 62 (GitHub, "Behind GitHub's new authentication
    token formats", April 2021; npm's tokens likewise)."""
    body, check = value.rpartition(b"_")[2][:-6], value[-6:]
    number, digits = zlib.crc32(body), bytearray()
    while number:
        number, digit = divmod(number, 62)
        digits.insert(0, _ALPHABET[digit])
    return bytes(digits).rjust(6, b"0") == check


def _random(least: float) -> Callable[[bytes], bool]:
    """Whether the bits a sign of the value reach ``least``: words and patterns do not."""

    def check(value: bytes) -> bool:
        counts = Counter(value[4:])
        total = sum(counts.values())
        return -sum(count / total * math.log2(count / total) for count in counts.values()) >= least

    return check


_KINDS: tuple[tuple[bytes, str, bytes, Callable[[bytes], bool]], ...] = (
    (b"AKIA", "an access key of AWS", rb"(?<![A-Za-z0-9+/_-])A(?:KIA|SIA)[A-Z2-7]{16}(?![A-Za-z0-9+/=_-])", _random(2.8)),
    (b"ASIA", "an access key of AWS", rb"(?<![A-Za-z0-9+/_-])ASIA[A-Z2-7]{16}(?![A-Za-z0-9+/=_-])", _random(2.8)),
    (b"hf_", "a token of Hugging Face", rb"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{34}(?![A-Za-z0-9_])", _random(3.8)),
    (b"ghp_", "a token of GitHub", rb"(?<![A-Za-z0-9_])ghp_[A-Za-z0-9]{36}(?![A-Za-z0-9_])", _checksum),
    (b"gho_", "a token of GitHub", rb"(?<![A-Za-z0-9_])gho_[A-Za-z0-9]{36}(?![A-Za-z0-9_])", _checksum),
    (b"ghs_", "a token of GitHub", rb"(?<![A-Za-z0-9_])ghs_[A-Za-z0-9]{36}(?![A-Za-z0-9_])", _checksum),
    (b"ghu_", "a token of GitHub", rb"(?<![A-Za-z0-9_])ghu_[A-Za-z0-9]{36}(?![A-Za-z0-9_])", _checksum),
    (b"ghr_", "a token of GitHub", rb"(?<![A-Za-z0-9_])ghr_[A-Za-z0-9]{36}(?![A-Za-z0-9_])", _checksum),
    (b"github_pat_", "a token of GitHub", rb"(?<![A-Za-z0-9_])github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}(?![A-Za-z0-9_])", _random(4.2)),
    (b"npm_", "a token of npm", rb"(?<![A-Za-z0-9_])npm_[A-Za-z0-9]{36}(?![A-Za-z0-9_])", _checksum),
    (b"xox", "a token of Slack", rb"(?<![A-Za-z0-9_])xox[abprs]-[0-9]{9,14}-[0-9A-Za-z-]{20,200}", _random(3.2)),
    (
        b"hooks.slack.com",
        "a webhook of Slack",
        rb"https://hooks\.slack\.com/services/T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{24}",
        _random(3.5),
    ),
    (b"T3BlbkFJ", "a key of OpenAI", rb"(?<![A-Za-z0-9_-])sk-[A-Za-z0-9_-]{16,120}T3BlbkFJ[A-Za-z0-9_-]{16,120}", _random(4.0)),
    (b"sk-ant-", "a key of Anthropic", rb"(?<![A-Za-z0-9_-])sk-ant-(?:api|admin)[0-9]{2}-[A-Za-z0-9_-]{80,120}", _random(4.5)),
    (b"AIza", "a key of Google", rb"(?<![A-Za-z0-9_-])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])", _random(4.0)),
    (b"sk_live_", "a key of Stripe", rb"(?<![A-Za-z0-9_])[rs]k_live_[A-Za-z0-9]{24,99}", _random(3.8)),
    (b"glpat-", "a token of GitLab", rb"(?<![A-Za-z0-9_-])glpat-[A-Za-z0-9_-]{20}(?![A-Za-z0-9_-])", _random(3.5)),
    (b"pypi-AgE", "a token of PyPI", rb"(?<![A-Za-z0-9_-])pypi-AgE[A-Za-z0-9_-]{80,250}", _random(4.2)),
    (
        b"PRIVATE KEY",
        "a private key",
        rb"-----BEGIN (?:RSA |EC |DSA |OPENSSH |ENCRYPTED |PGP )?PRIVATE KEY(?: BLOCK)?-----(?:\\[nr]"
        rb"|[\s\"',])+[A-Za-z0-9+/=\\\s:,\"'-]{100,}",
        _random(4.0),
    ),
    (
        b"aws_secret_access_key",
        "a secret key of AWS",
        rb"aws_secret_access_key['\"]?\s{0,10}[=:]\s{0,10}['\"]?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
        _random(4.3),
    ),
)
_SEARCH = tuple((prefix, what, re.compile(pattern), check) for prefix, what, pattern, check in _KINDS)


def suspected(data: bytes) -> bool:
    """Whether any of the beginnings is in the bytes. Fast."""
    return any(prefix in data for prefix, *_ in _SEARCH)


def secrets(data: bytes) -> Iterator[Secret]:
    """Every credential in the bytes, in the order of the kinds."""
    for prefix, what, pattern, check in _SEARCH:
        if prefix in data:
            for hit in pattern.finditer(data):
                value = hit[0]
                if what == "a secret key of AWS":
                    value = value[-40:]
                if not _EXAMPLE.search(value) and check(value):
                    yield Secret(what, masked(value, what), hit.start())


def masked(value: bytes, what: str) -> str:
    """Enough to know it by, and not enough to use it."""
    if what == "a private key":
        return value[:40].decode("ascii", "replace").split("\n")[0].split("\\n")[0]
    text = value.decode("ascii", "replace")
    return f"{text[:6]}…{text[-2:]} ({len(text)} characters)"
