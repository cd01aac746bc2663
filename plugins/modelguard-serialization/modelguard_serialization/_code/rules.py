"""The rules of source code, programs and secrets."""

from __future__ import annotations

from modelguard import Rule, Severity

CODE = Rule(
    "MG0350",
    "RepositoryCode",
    "code beside the model",
    Severity.LOW,
    "The file is source code. Python is parsed and judged by what it does and when: commands, text run as code and the network on import "
    "or when a model's class is built are high; what hides (names put together from pieces, decoded text that is run, shells on sockets) "
    "is "
    "high or critical; what only happens when somebody calls it is low. Low alone means: this is code, and nothing of the kind was seen.",
    "Read it at a pinned commit, or use a class that ships with the library. A policy with `sources: {remote_code: deny}` refuses code "
    "that "
    "the configuration points to.",
    "Scripts that convert or demonstrate a model download files and run tools.",
    cwe=829,
)
PROGRAM = Rule(
    "MG0351",
    "NativeProgram",
    "a program of machine code or byte code",
    Severity.HIGH,
    "The file is a program or library (ELF, PE, Mach-O, WebAssembly, Java, compiled Python, ...), which a model does not need. What it "
    "does "
    "cannot be seen from outside, so its content counts as not looked at.",
    "Remove it, or build it from source you have read.",
    "Engines compiled for one device (TensorRT plans, compiled kernels) come as libraries.",
    cwe=506,
)
SECRET = Rule(
    "MG0352",
    "Secret",
    "a password, token or private key",
    Severity.MEDIUM,
    "The text holds what looks like a credential: the form, and where the kind has one the checksum, fit, and it is no example of the "
    "documentation. Whoever downloads the artifact has it too. The value is shown only in part.",
    "Revoke it, then remove it from the repository and its history.",
    "Random identifiers can have the same form.",
    cwe=798,
)
INSTALL = Rule(
    "MG0353",
    "InstallInstruction",
    "an instruction to install from elsewhere",
    Severity.MEDIUM,
    "Requirements name another package index, a direct address or a repository, or a script runs what it downloads. Whoever follows the "
    "model's instructions runs code from there. High for addresses without encryption and bare network addresses. Known indexes of "
    "hardware makers and frameworks, and commits of repositories of well-known organisations, are low.",
    "Install from an index you trust, with versions and hashes pinned.",
    "Frameworks document such addresses for nightly builds.",
    cwe=494,
)
HIDDEN = Rule(
    "MG0354",
    "CodeInData",
    "a program inside data",
    Severity.HIGH,
    "In a file that is no program lies the valid header of one. Nothing that reads the data needs it; a small loader elsewhere can cut "
    "it out "
    "and start it.",
    "Do not use the file. Get it from its source again, and look for what refers to it.",
    "Archives without compression hold their members as they are.",
    cwe=506,
)
NOTEBOOK = Rule(
    "MG0355",
    "NotebookCode",
    "a notebook with code",
    Severity.LOW,
    "The notebook's cells hold code, which runs when somebody runs the notebook. Commands in cells are low; what hides, or runs what it "
    "downloads, is reported as in any other script.",
    "Read it before you run it.",
    "Nearly every notebook installs packages in its first cell.",
    cwe=829,
)
RULES = (CODE, PROGRAM, SECRET, INSTALL, HIDDEN, NOTEBOOK)
