"""The rules of ``format-integrity``: MG01, files that are not what they claim, and MG9004, files nobody looked at."""

from __future__ import annotations

from modelguard.findings import Rule, Severity

NOT_LOOKED_AT = "MG9004"

RULES: tuple[Rule, ...] = (
    Rule(
        "MG0101",
        "ContentNotAsNamed",
        "a file that is not what its name says",
        Severity.HIGH,
        "The name promises a checkpoint format that cannot carry code, and the first bytes are those of another kind of file. Scanners "
        "that go by the name skip it, and loaders that go by the content unpickle or unpack it.",
        "Do not load it. Find out who renamed it and why; get the file from its source again.",
        "A failed download leaves an HTML page or an archive under the name of the weights.",
        cwe=646,
    ),
    Rule(
        "MG0102",
        "MalformedFile",
        "a file that breaks the rules of its format",
        Severity.HIGH,
        "The file claims to be a checkpoint, and its header or structure is not valid. Its tensors are not available to any detector. "
        "Lenient loaders may still read something out of it, and not all of them the same.",
        "Download or export it again. If it stays this way, do not use it: it was made by hand or by a broken tool.",
        "An interrupted download, or a full disk while saving, truncates files.",
        cwe=20,
    ),
    Rule(
        "MG0103",
        "WrongExtension",
        "a checkpoint under another format's file name",
        Severity.MEDIUM,
        "The content is a valid checkpoint, and the file name ends in something that belongs to another format. It was "
        "opened by its content.",
        "Rename the file to the ending that the message names.",
        "Some tools save safetensors under .bin or .ckpt for the sake of old loaders.",
        cwe=646,
    ),
    Rule(
        "MG0104",
        "ParserLimitExceeded",
        "a file that asks for more than the parsers' limits allow",
        Severity.HIGH,
        "The file declares a header, nesting, rank, name or number of tensors beyond what modelguard will follow. The limits are far "
        "above what real models need; files past them exhaust the memory or the stack of loaders. Nothing in the file was looked at.",
        "Do not load it. If the model is real, split it or report the limit to modelguard's authors.",
        "A model with millions of tiny tensors in one file.",
        cwe=770,
    ),
    Rule(
        "MG0105",
        "TensorBytesMismatch",
        "a tensor whose declared shape, type or place does not fit its bytes",
        Severity.HIGH,
        "What the header says of a tensor and the bytes it points to contradict each other: a wrong size, an overlap with another tensor, "
        "an end past the end of the file, or an overflow. Loaders without these checks read memory that is not theirs or share "
        "bytes between tensors.",
        "Do not load it. Download or export the model again.",
        "A truncated download ends before its last tensors do.",
        cwe=1284,
    ),
    Rule(
        "MG0106",
        "UnclaimedBytes",
        "bytes in a checkpoint that belong to no tensor",
        Severity.HIGH,
        "The format forbids bytes between or after its tensors. They are a place to hide a payload, or a second file for another parser.",
        "Do not load it. Export the model again with the format's own library.",
        "Two files joined by mistake; padding written by a non-conforming exporter.",
        cwe=506,
    ),
    Rule(
        "MG0107",
        "AmbiguousContent",
        "a file that two parsers read differently",
        Severity.HIGH,
        "Something that may be there once is there twice: a key, a tensor name, a field, the values of a tensor. Which one counts "
        "depends on the parser, so a scanner and a loader can see different models.",
        "Do not load it. Export the model again.",
        "A model saved twice into the same folder leaves a tensor in two shards; so does an index that replaces a tensor by a file beside "
        "the shards.",
        cwe=436,
    ),
    Rule(
        "MG0108",
        "FilesMissing",
        "shards or external data that the artifact does not have",
        Severity.HIGH,
        "The model is stored in several files, and some that the others name are missing (or a set has more shards than it says). What "
        "they hold was not looked at, and whoever supplies them later decides what the model is.",
        "Scan the folder with all files of the model; download what is missing.",
        "Scanning one ONNX file alone when its weights lie in a file beside it.",
    ),
    Rule(
        "MG0109",
        "IndexMismatch",
        "an index that contradicts the shards",
        Severity.HIGH,
        "The index maps tensors to files, and the files' own headers say otherwise. Loaders that follow the index and loaders that read "
        "whole shards get different models.",
        "Export the model again, so that index and shards are written together.",
        "An index edited by hand after shards were renamed or merged.",
        cwe=436,
    ),
    Rule(
        "MG0110",
        "PathEscape",
        "a reference to a file outside the artifact",
        Severity.CRITICAL,
        "External data or an index entry names an absolute path, climbs out with '..', or uses another trick to make the loader read a "
        "file of the machine it runs on, such as credentials, into a tensor. Nobody writes such a path by accident.",
        "Do not load it, and treat the whole artifact and its author as hostile.",
        "An exporter that wrote an absolute path of the author's machine.",
        cwe=22,
    ),
    Rule(
        "MG0111",
        "Polyglot",
        "a file that is valid in two formats at once",
        Severity.HIGH,
        "The file is a checkpoint, and at the same time an archive or a checkpoint of another format. What is loaded depends on who "
        "loads it.",
        "Do not load it. Ask the author for a file that is one thing.",
        "Tensor bytes that happen to contain a complete archive: a model does not.",
        cwe=436,
    ),
    Rule(
        "MG0112",
        "DeceptiveName",
        "a name with invisible or control characters",
        Severity.MEDIUM,
        "A tensor or file name contains control, formatting or text-direction characters. They drive terminals, make two names look the "
        "same, or reverse what is shown.",
        "Do not trust how any tool displays the name; ask the author to rename it.",
        "File names copied out of documents with zero-width spaces in them.",
        cwe=451,
    ),
    Rule(
        "MG0113",
        "GitLfsPointer",
        "a Git LFS pointer in place of the file",
        Severity.HIGH,
        "The repository was cloned without Git LFS, so a small text file stands where the weights should be. The weights were not "
        "looked at.",
        "Run `git lfs pull` in the repository and scan again.",
    ),
    Rule(
        "MG0114",
        "UnreadableFile",
        "a file that could not be read",
        Severity.HIGH,
        "The file is gone, is not a regular file, may not be read, or changed while it was scanned. Its content was not looked at.",
        "Scan a copy that nothing writes to, with permission to read every file.",
        "A download or a training run still writing into the folder.",
        cwe=367,
    ),
    Rule(
        "MG0115",
        "UnknownFields",
        "data in an ONNX file that ONNX does not define",
        Severity.LOW,
        "The file has protobuf fields that no ONNX message has. ONNX libraries skip them silently, so they can carry anything.",
        "Ask the author what writes them, or strip them by loading and saving the model with the onnx library.",
        "A model written by an ONNX release newer than this modelguard knows; vendor extensions.",
    ),
    Rule(
        "MG0116",
        "UnclaimedExternalBytes",
        "bytes in external data that no tensor claims",
        Severity.MEDIUM,
        "A file that holds the values of ONNX tensors has other bytes too, and they are not zero, so they are not padding. No loader reads "
        "them by way of this model.",
        "Ask the author what they are, or save the model with its external data into an empty folder.",
        "Older onnx libraries append to an external data file that exists, and leave the previous weights in front.",
        cwe=506,
    ),
    Rule(
        "MG0117",
        "TextTensors",
        "tensors that hold text",
        Severity.INFO,
        "Class labels and vocabularies are stored as tensors of strings. They are not weights, and detectors of weights do not "
        "look at them.",
        "Nothing, unless the texts themselves matter to you.",
    ),
    Rule(
        "MG0118",
        "IndexOutOfDate",
        "an index that describes other files than these",
        Severity.LOW,
        "The index gives another total size than the shards have, or names none of the files that are here. Most loaders ignore both.",
        "Remove the index, or write it again together with the shards.",
        "Quantised copies keep the index of the model they were made from; tied weights are counted once or twice.",
    ),
    Rule(
        "MG0119",
        "AdapterBesideModel",
        "an adapter that loaders apply to the model beside it",
        Severity.MEDIUM,
        "The folder holds a whole model and an adapter (adapter_config.json). Where peft is installed transformers applies the adapter by "
        "itself; fetched from the Hub by name it loads the base model that the adapter's configuration names, and not the model beside "
        "it. What runs is neither of the files alone, and nothing that runs was measured.",
        "Keep adapter and model in folders of their own, and scan the base model; or merge the adapter and scan the result.",
        "A repository that offers a merged model and its adapter side by side.",
        cwe=829,
    ),
    Rule(
        "MG0120",
        "AdapterAlone",
        "an adapter whose base model is elsewhere",
        Severity.INFO,
        "The artifact is an adapter: a change of a model that its configuration names and that is not in the artifact. What runs is the "
        "two together, and the base model was not looked at.",
        "Scan the base model too, at a pinned revision.",
        "Every adapter that PEFT saves.",
    ),
    Rule(
        NOT_LOOKED_AT,
        "FileNotLookedAt",
        "a file that may hold weights or code, and that no format reads",
        Severity.MEDIUM,
        "The file is a pickle, an archive, a program, or weights in a format that no installed plugin reads, or it was not fetched. "
        "Nothing is known about what is in it, and a passing scan says nothing about it.",
        "Remove the file from what is deployed, convert it to safetensors or ONNX, or install a plugin that reads it.",
        "Checkpoints of other frameworks beside the one you use; training state; example scripts.",
    ),
)
