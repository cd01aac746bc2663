"""``--attest`` and ``--sign-key``: what is written for others beside the report."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelguard._cli._options import check_file, grouped
from modelguard._cli._streams import complain
from modelguard.errors import OutputError, UsageError

if TYPE_CHECKING:
    from modelguard.report import Decision, Report


@dataclass(frozen=True, slots=True)
class AttestOptions:
    """Where the attestation goes, and the private key that signs it."""

    attest: str | None = None
    sign_key: str | None = None


attest_options = grouped(
    "attestation",
    lambda: AttestOptions,
    click.option("--attest", metavar="FILE", help="Write an in-toto statement (SLSA verification summary: PASSED or FAILED) to a file."),
    click.option("--sign-key", metavar="KEY.pem", help="Sign the statement with this private key, in a DSSE envelope."),
)


@dataclass(frozen=True, slots=True)
class Attester:
    """Writes attestations; made before a scan, so that what the user got wrong is refused then."""

    path: str | None
    key: Any

    @classmethod
    def of(cls, options: AttestOptions, inputs: Iterable[str | None], alone: tuple[str, ...] = ()) -> Attester:
        """Raises :class:`UsageError`; ``inputs`` are what the scan reads, ``alone`` the detectors that it was narrowed to."""
        if options.attest is None:
            if options.sign_key is not None:
                raise UsageError("--sign-key", "has no effect without --attest", "give --attest FILE as well")
            return cls(None, None)
        if alone:
            raise UsageError("--attest", "says whether a policy as a whole was met, and the scan is narrowed", "leave --detector out")
        check_file(f"--attest {options.attest}", Path(options.attest), (*inputs, options.sign_key))
        from modelguard._provenance.attest import read_key

        return cls(options.attest, None if options.sign_key is None else read_key(Path(options.sign_key)))

    def write(self, report: Report, decision: Decision, name: str = "") -> bool:
        """Write the attestation, if one was asked for; whether that was possible. ``name`` stands for ``{name}`` in the path."""
        if self.path is None:
            return True
        from modelguard._provenance.attest import statement, text
        from modelguard._reporters.output import write_atomically

        try:
            made = statement(report, decision, datetime.datetime.now(datetime.UTC))
            write_atomically(Path(self.path.replace("{name}", name)), text(made, self.key))
        except OutputError as error:
            complain(error)
            return False
        return True
