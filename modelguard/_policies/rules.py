"""The rules a policy itself gives out: what was not looked at (MG90xx), and what it refuses whatever the detectors say (MG029x).

They are declared like any detector's, so that every line of a decision can be looked up and shown in SARIF.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelguard.findings import Rule, Severity
from modelguard.report import Status

EXECUTABLE_CONTENT = "MG03"
NOT_LOOKED_AT = "MG9"
BLOCKS = ("MG01", "MG02", EXECUTABLE_CONTENT, "MG1", "MG2", "MG3", "MG4", "MG5", NOT_LOOKED_AT)
"""The documented blocks of modelguard's rule ids; a pattern that names one is meant, even before a detector has rules in it."""

SKIPPED = Rule(
    "MG9001",
    "DetectorSkipped",
    "a required detector was skipped",
    Severity.HIGH,
    "The policy requires this detector, and it could not look: the target lacks what it needs. What it would find is unknown.",
    "Give it what the reason names (a reference, samples, a runnable model), or use a policy that does not require it.",
)
ERRORED = Rule(
    "MG9002",
    "DetectorErrored",
    "a detector failed",
    Severity.HIGH,
    "The detector began to look, and ended with an error. The policy requires it, or does not list it in detectors.optional. Findings it "
    "made before are kept; what it did not reach is unknown.",
    "Read the reason; an artifact that crashes a detector deserves suspicion. Repeat the scan, then tell the detector's authors.",
)
TIMED_OUT = Rule(
    "MG9003",
    "DetectorTimedOut",
    "a detector ran out of time",
    Severity.HIGH,
    "The detector's time was up before it was done. The policy requires it, or does not list it in detectors.optional. Findings it made "
    "before are kept; the rest is unknown.",
    "Raise what its reason names, --timeout or --budget (in the policy detectors.timeouts or detectors.budget), or give the scan a faster "
    "machine.",
)
MISSING = Rule(
    "MG9005",
    "DetectorMissing",
    "a required detector did not run",
    Severity.HIGH,
    "The policy requires this detector, and the report has no outcome of it: not installed, not allowed, failed to load, or left out.",
    "Install the distribution that brings it and make sure that the policy's plugins.allow lists it.",
)
SOURCE_UNREAD = Rule(
    "MG9006",
    "SourceNotRead",
    "the artifact, or part of it, could not be read or checked",
    Severity.HIGH,
    "The artifact could not be fetched or opened, holds nothing that can be scanned, or lacks a digest the policy asks for.",
    "Follow the message; nothing is known about an artifact that was not read.",
)
PLUGIN_FAILED = Rule(
    "MG9007",
    "PluginFailed",
    "a plugin could not be used",
    Severity.HIGH,
    "A plugin failed to load and the policy does not tolerate that (plugins.failures: incomplete).",
    "Repair or uninstall the plugin, or switch it off with -p no:NAME.",
)
SOURCE_REFUSED = Rule(
    "MG0291",
    "SourceRefused",
    "the policy does not accept where the artifact comes from or what it is",
    Severity.HIGH,
    "The policy's sources section refuses the artifact: its origin, a revision that can move, its format, or code that comes with it.",
    "Use an artifact that the policy accepts, or have the policy's owner change the sources section.",
    cwe=829,
)
REVISION_MOVED = Rule(
    "MG0211",
    "RevisionMoved",
    "a branch or tag no longer means the commit that was locked",
    Severity.HIGH,
    "The lock pins a branch or tag to the commit that it meant. On the Hub it means another commit now: whoever uses the name gets another "
    "model. Branches move by themselves; a tag that moves was moved by somebody.",
    "Look at what changed with `modelguard lock diff`, and take it over with `modelguard lock update` if it is as it should be.",
    cwe=494,
)
LOCKED_FILE_CHANGED = Rule(
    "MG0212",
    "LockedFileChanged",
    "a file is not the one that was locked",
    Severity.CRITICAL,
    "The file has another size or sha256 than the lock says. At one commit of a repository that cannot happen: the bytes, the Hub's "
    "listing or the lock were tampered with, or the repository was replaced.",
    "Do not use the model before somebody has explained it; compare the lock with its history in your repository.",
    cwe=353,
)
FILE_NOT_LOCKED = Rule(
    "MG0213",
    "FileNotLocked",
    "a file of the model that the lock has no entry for",
    Severity.HIGH,
    "The model has a file that the lock does not name. Loaders act on files merely because they are there (code, templates, adapters).",
    "Remove the file, or take the model as it is now with `modelguard lock update`.",
    cwe=353,
)
LOCKED_FILE_GONE = Rule(
    "MG0214",
    "LockedFileGone",
    "a file that the lock names and the model lacks",
    Severity.HIGH,
    "The lock has an entry for a file that the model does not have. Loaders fall back to something else when a file is not there.",
    "Find out where it went, or take the model as it is now with `modelguard lock update`.",
    cwe=353,
)
LOCK_NOT_CHECKED = Rule(
    "MG0215",
    "LockNotChecked",
    "something that a lock pins could not be compared with it",
    Severity.HIGH,
    "Whether a branch or tag still means the commit that was locked, or whether a file is the one that was locked, could not be found out. "
    "Offline nobody can say what a tag means now.",
    "Follow the message: scan online, or let the lock name a commit (`modelguard lock add hf://org/name@<40 hex>`).",
)
BASE_MODEL_FALSE = Rule(
    "MG0231",
    "BaseModelFalse",
    "the weights do not come from the base model that the model card claims",
    Severity.HIGH,
    "The model card names a base model, and weight-diff found the weights unrelated to it. The card is wrong, or the weights are not what "
    "the card is about: a name and a licence were borrowed.",
    "Ask the model's owner where the weights come from. Nothing that the card says can be relied on until then.",
    cwe=345,
)
BASE_MODEL_NOT_COMPARED = Rule(
    "MG0232",
    "BaseModelNotCompared",
    "a base model that the model card claims was not compared with",
    Severity.HIGH,
    "The policy asks whether the weights come from the base model that the model card names (provenance.base_model: check), and nobody "
    "compared them.",
    "Give the base model as --reference, or add it to the lock, whose entries `modelguard scan --lock` compares with by themselves.",
)
PLUGIN_REFUSED = Rule(
    "MG0292",
    "PluginRefused",
    "a plugin took part that the policy does not allow",
    Severity.HIGH,
    "A plugin is trusted code and can change what a scan says. This one is not in the policy's plugins.allow.",
    "Uninstall the plugin, or have the policy's owner allow it.",
    cwe=829,
)
WAIVER_EXPIRED = Rule(
    "MG0293",
    "WaiverExpired",
    "a finding's waiver has expired",
    Severity.HIGH,
    "Somebody accepted this finding until a date that has passed. It blocks, whatever the policy's rules would say of it.",
    "Fix what was found, or have the waiver's owner review the finding and set a new date.",
)

UNRELATED = "MG1215"
"""What weight-diff calls a model that does not come from its reference."""

JUDGEMENT_RULES: tuple[Rule, ...] = (
    REVISION_MOVED,
    LOCKED_FILE_CHANGED,
    FILE_NOT_LOCKED,
    LOCKED_FILE_GONE,
    LOCK_NOT_CHECKED,
    BASE_MODEL_FALSE,
    BASE_MODEL_NOT_COMPARED,
    SOURCE_REFUSED,
    PLUGIN_REFUSED,
    WAIVER_EXPIRED,
    SKIPPED,
    ERRORED,
    TIMED_OUT,
    MISSING,
    SOURCE_UNREAD,
    PLUGIN_FAILED,
)
"""In order of id. ``MG9004`` (a file that was not looked at) is a detector's finding and is declared there."""

STATUS_RULES: Mapping[Status, Rule] = {Status.SKIPPED: SKIPPED, Status.ERRORED: ERRORED, Status.TIMED_OUT: TIMED_OUT}
"""What it is called that a required detector did not complete."""
