"""What the numbers of executable-content are called and mean."""

from __future__ import annotations

from modelguard import Measure

SHOWS = (
    Measure("score", "score", "The worst severity found: 0 for none, 1 low, 2 medium, 3 high, 4 critical."),
    Measure("kinds", "kinds of files", "How many files of each kind were looked through."),
    Measure("name", "name", "What it names."),
    Measure("arguments", "arguments", "What it would be called with."),
    Measure("count", "times", "How often it occurs in the file."),
    Measure("line", "line", "The line of the source or template."),
    Measure("key", "key", "Where in the document, as a path of keys."),
    Measure("at", "place", "Where in the document, as a path of keys."),
    Measure("text", "text", "What it says, in part."),
    Measure("literal", "compared with", "The text that a condition compares with."),
    Measure("says", "says", "What the template then says."),
    Measure("imports", "imports", "The modules that the code imports."),
    Measure("operators", "operators", "The operators, and how often each occurs."),
    Measure("domain", "domain", "The operator set that the operators belong to."),
    Measure("node", "node", "The node of the graph."),
    Measure("packed", "packed", "The size in the archive.", "bytes"),
    Measure("unpacked", "unpacked", "The size once it is unpacked.", "bytes"),
    Measure("names", "names", "The names it concerns."),
    Measure("beside", "beside", "What stands beside it."),
    Measure("bytes", "bytes", "The size of what this is about.", "bytes"),
)
