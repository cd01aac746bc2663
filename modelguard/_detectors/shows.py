"""What the numbers of the core's detectors of files are called and mean."""

from __future__ import annotations

from modelguard.display import Measure

INTEGRITY = (
    Measure("score", "score", "The worst severity found: 0 for none, 1 low, 2 medium, 3 high, 4 critical."),
    Measure("files", "files", "How many files the artifact has."),
    Measure("bytes", "bytes", "The size of what this is about.", "bytes"),
    Measure("bytes_in_tensors", "bytes in tensors", "How much of that is weights.", "bytes"),
    Measure("files_not_looked_at", "files not looked at", "Files that nobody has read to their end."),
    Measure("inert_files", "inert files", "Files that can hold neither weights nor code."),
    Measure("findings", "findings", "How many findings there are."),
    Measure("formats", "formats", "For each format its checkpoints, tensors and bytes."),
    Measure("kind", "kind", "Which of the forms of this problem it is."),
    Measure("count", "count", "How often it occurs."),
    Measure("fatal", "unreadable", "Whether the file could not be opened for it."),
    Measure("size", "size", "The size that is stated.", "bytes"),
    Measure("digest", "digest", "The digest that is stated."),
    Measure("missing", "missing", "How much is missing."),
    Measure("tensors", "tensors", "How many tensors it concerns."),
    Measure("names", "names", "The names it concerns, or how many they are."),
    Measure("places", "places", "In how many places of the file it occurs."),
    Measure("base_model", "base model", "The model that the adapter says it was made for."),
)
FILES = (
    Measure("score", "score", "How bad the worst difference would be, from 0 to 1."),
    Measure("count", "differences", "In how many places the file says something else than the reference's."),
    Measure("differences", "differences", "The first of those places, with what each side says."),
    Measure("place", "place", "Where in the file: keys, or a line."),
    Measure("reference", "reference", "What the reference says there."),
    Measure("value", "artifact", "What the artifact says there."),
    Measure("same_as", "same as", "The file of the reference that holds the same under another name."),
    Measure("equal", "equal", "How many files are the reference's byte for byte."),
    Measure("restated", "restated", "How many say the same in other words."),
    Measure("weights", "weights", "How many hold weights, which weight-diff compares."),
    Measure("added", "added", "How many the reference does not have."),
    Measure("changed", "changed", "How many differ."),
    Measure("missing", "missing", "How many only the reference has."),
    Measure("not_compared", "not compared", "How many could not be compared."),
)
REMOTE = (
    Measure("score", "score", "How many configurations ask for code of their own."),
    Measure("configurations_read", "configurations read", "How many configuration files were read."),
    Measure("auto_map", "code it names", "The classes that loading takes from the artifact's, or another repository's, Python files."),
    Measure("elsewhere", "code elsewhere", "The repositories, or pipelines, that code is taken from and that are not in the artifact."),
)
