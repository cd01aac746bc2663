"""The rules on pickles: MG0310 to MG0315."""

from __future__ import annotations

from modelguard import Rule, Severity

DANGEROUS, UNKNOWN, HOSTILE, SHADOWED, BROKEN, TRICKS = "MG0310", "MG0311", "MG0312", "MG0313", "MG0314", "MG0315"

RULES = (
    Rule(
        DANGEROUS,
        "DangerousCall",
        "a pickle that names what runs code, commands, or reaches files and the network",
        Severity.CRITICAL,
        "Loading a pickle imports the names in it and calls what it says with the arguments it says. One of these names is known to run "
        "code or commands, to open files or connections, or to look such things up. Models need none of them.",
        "Do not load it, and treat the whole artifact and its author as hostile.",
        "Training scripts that pickled a function or a whole environment along with the model.",
        cwe=502,
    ),
    Rule(
        UNKNOWN,
        "UnknownCallable",
        "a pickle that names something no list knows",
        Severity.HIGH,
        "Loading the file imports a module and uses a class or function of it that is not among those that frameworks are known to write. "
        "What it does is up to the module, which may come with the artifact or be installed by whoever follows its instructions.",
        "Ask for the weights as safetensors or ONNX. If you know the class and trust its module, waive the finding.",
        "Whole models pickled by their training code name classes of that code.",
        cwe=502,
    ),
    Rule(
        HOSTILE,
        "HostileArguments",
        "a pickle that uses a harmless name in a harmful way",
        Severity.HIGH,
        "The name is one that frameworks write, and it is not used as they use it: called with arguments that make it do something else, "
        "called though it is only referred to, or changed itself, which changes it for the whole program.",
        "Do not load it. Ask the author what wrote it.",
        "A file written by an unusual version of its framework.",
        cwe=502,
    ),
    Rule(
        SHADOWED,
        "ShadowedModule",
        "a file of the artifact that takes the place of a module the pickle names",
        Severity.HIGH,
        "The pickle names a harmless class of a known module, and a file of the artifact has the name of that module. Python finds it "
        "first when the program runs in the artifact's folder or has it on its path, and runs that file instead.",
        "Do not load it. Remove the file, or keep code apart from weights.",
        "A repository that carries a copy of the library it needs.",
        cwe=427,
    ),
    Rule(
        BROKEN,
        "BrokenPickle",
        "a pickle that breaks off",
        Severity.MEDIUM,
        "The file is a pickle up to a place where no unpickler can go on. What stands before it has run by then: attacks on scanners end "
        "this way on purpose. What stands behind it was not looked at.",
        "Do not load it. Download or export it again.",
        "A truncated download.",
        cwe=20,
    ),
    Rule(
        TRICKS,
        "PickleTricks",
        "a pickle with instructions that no pickler writes",
        Severity.MEDIUM,
        "The pickle does something that only hand-made ones do: names computed while loading, extension codes, frames that overlap, memo "
        "entries that are overwritten, a payload in an encoding. They mislead scanners.",
        "Do not load it unless you know what wrote it.",
        "Persistent ids and buffers handed over beside the pickle are written by programs that load their own files only.",
        cwe=502,
    ),
)
