"""``modelguard fetch``: a model from the Hub into a folder, only if it passes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelguard._cli._attest import Attester, AttestOptions, attest_options
from modelguard._cli._looking import ended, looked
from modelguard._cli._options import (
    OutputOptions,
    deliver,
    output_options,
    parse_outputs,
    plugin_option,
    policy_option,
    quick_option,
    run_options,
)
from modelguard._cli._streams import complain, telling
from modelguard.errors import OutputError, UsageError

if TYPE_CHECKING:
    from modelguard._scanner.prepare import RunOptions


@click.command("fetch", short_help="Download a model, scan it, and put it in place only if it passes.")
@click.argument("uri", metavar="hf://ORG/NAME[@REV]")
@click.argument("folder", metavar="DIR")
@click.option("--reference", metavar="R", help="A trusted artifact to compare with: path or hf://org/name@revision.")
@policy_option
@quick_option
@click.option("--budget", metavar="TIME", help="Time that all searches for backdoors may take together, such as 5m [policy's].")
@run_options
@output_options
@attest_options
@plugin_option
def command(
    uri: str,
    folder: str,
    reference: str | None,
    policy: str | None,
    quick: bool,
    budget: str | None,
    run: RunOptions,
    quiet: bool,
    output: OutputOptions,
    attestation: AttestOptions,
    without: tuple[str, ...],
) -> int:
    """Download a model into quarantine beside DIR, scan it there, and make DIR of it only if it passes.

    DIR must not exist, or be empty: it comes to be with all files at once, or not at all. The whole repository is fetched, or the folder
    or file that the URI names. What the Hub cache has is not downloaded again.

    Exit codes: 0 DIR is there, 1 blocked by policy (in `mode: report` too), 2 usage or policy-file error, 3 no verdict. After any but 0
    DIR is as it was.
    """
    from modelguard._guard.guard import decided, of_quarantine
    from modelguard._guard.quarantine import Quarantine
    from modelguard._reporters.view import count
    from modelguard._scanner.prepare import ScanArguments, prepare
    from modelguard.report import Verdict

    _check(uri, folder)
    place = Path(os.path.realpath(folder))
    prepared = prepare(ScanArguments(target=uri, reference=reference, policy=policy, quick=quick, budget=budget, run=run, without=without))
    inputs = (reference, policy, folder)
    attester = Attester.of(attestation, inputs)
    files = parse_outputs(output, prepared.registry, inputs, attester.path)
    from huggingface_hub import constants

    lost = False
    with Quarantine(place.parent, Path(constants.HF_HUB_CACHE)) as quarantine:
        report, interrupted = looked(of_quarantine(prepared, quarantine), quiet)
        decision = decided(prepared, report)
        said = f"nothing was written to {folder}"
        if decision.verdict is Verdict.PASS:
            try:
                placed = quarantine.to_folder(place)
                said = f"{folder}: {count(placed.files, 'file')}, {placed.size / 1e6:,.1f} MB, commit {report.target.revision}"
            except OutputError as error:
                lost = True
                complain(error)
    lost |= not attester.write(report, decision)
    code = deliver(report, decision, prepared.registry, files, output)
    with telling():
        print(f"modelguard: {said}", file=sys.stderr)
    return ended(3 if lost and code == 0 else code, interrupted=interrupted)


def _check(uri: str, folder: str) -> None:
    """Refuse what cannot be fetched, or could not be put into place, before anything is fetched."""
    from modelguard._sources.hub_uri import HubUri

    if not uri.startswith("hf://"):
        raise UsageError(uri, "is not on the Hub, so there is nothing to fetch", "write hf://org/name[@revision], or use `modelguard scan`")
    HubUri.parse(uri)
    try:
        place = Path(os.path.realpath(folder))
        taken = place.is_dir() and any(place.iterdir())
        if os.path.ismount(place):
            raise UsageError(folder, "is a mount point, which cannot be put into place at once", "name a folder in it")
        if not place.parent.is_dir():
            raise UsageError(folder, f"the folder {Path(folder).parent} does not exist", "create it first")
    except (OSError, ValueError) as error:
        raise UsageError(folder, f"cannot be used ({getattr(error, 'strerror', None) or error})", "name another folder") from error
    if taken:
        raise UsageError(folder, "exists and is not empty", "name a new folder, or remove it first")
    if place.exists() and not place.is_dir():
        raise UsageError(folder, "exists and is no folder", "name a new folder")
