"""The rules of ``reference-files``: what differs from the reference beside the weights."""

from __future__ import annotations

from modelguard.findings import Rule, Severity

RULES = (
    Rule(
        "MG0201", "FileChanged", "file that is not the reference's", Severity.MEDIUM,
        "A file beside the weights differs from the file of its path in the reference: a configuration, generation settings, labels, data. "
        "JSON and YAML are compared by keys and values, so order and white space do not count; the evidence has places and both values. "
        "High for code and for chat templates, whose text is run. Equal weights under another configuration are another model: "
        "`rope_theta`, `hidden_act` or `id2label` change every answer.",
        "Read the places in the evidence and ask what they are for; put the reference's file back where nobody can say.",
        "A file written again by another version of a library, which spells out new defaults.",
    ),
    Rule(
        "MG0202", "FileMissing", "file of the reference that the artifact lacks", Severity.MEDIUM,
        "The reference has a file that the artifact does not. Loaders fall back to something else: without tokenizer.json or "
        "special_tokens_map.json text is cut into other tokens, without generation_config.json other settings apply. Low for "
        "documentation, for weights in a second format, and for weights that are there under another file name.",
        "Add the reference's file, or compare with a reference that lacks it.",
        "A download of only some of the files.",
    ),
    Rule(
        "MG0203", "FileAdded", "file that the reference lacks", Severity.MEDIUM,
        "The artifact has a file that the reference does not, so it was compared with nothing. Many loaders act on files merely because "
        "they are there: added_tokens.json, adapter_config.json, chat_template.jinja, modeling code. High for code and templates.",
        "Remove it, or say what needs it. Where its bytes are those of another file of the reference, the evidence names that one.",
        "Documentation, pictures and logs that were added later; these are low.",
    ),
    Rule(
        "MG0204", "TokenizerChanged", "tokenizer that is not the reference's", Severity.MEDIUM,
        "A file of the tokenizer differs: ids were swapped, tokens or merges added or removed, special tokens given another meaning. The "
        "same text then reaches the model as other tokens: words exchange their meanings, filters are passed by, and a swapped end token "
        "keeps answers from ending.",
        "Put the reference's tokenizer back; explain every token in the evidence.",
        "Chat tokens added by a fine-tune, together with a grown embedding.",
    ),
    Rule(
        "MG0205", "DescriptionChanged", "documentation or a note that is not the reference's", Severity.LOW,
        "What differs is read by people or says who wrote a file: a model card, a licence, a picture, `transformers_version`, "
        "`_name_or_path` (both set anew on loading), `torch_dtype` among float32, float16 and bfloat16 (also spelled `dtype`; weights are "
        "compared up to such rounding), the index of a sharded checkpoint, whose tensors weight-diff compares, metadata of a "
        "safetensors file other than `format`, and the producer and documentation in an ONNX file. Nothing that computes depends on it.",
        "Nothing, if the change is expected. A licence that changed is a question for whoever is responsible for licences.",
        "Edited model cards, and files written by a newer library.",
    ),
    Rule(
        "MG0206", "FileNotCompared", "file that could not be compared with the reference's", Severity.MEDIUM,
        "The file, or the reference's, was not fetched or could not be read, and no digest says whether they are equal. Or the reference "
        "is a single file, and the artifact holds others beside the weights. Not having looked is never a pass.",
        "Compare complete artifacts: name folders on both sides, and download them whole (`--download`).",
    ),
    Rule(
        "MG0207", "DeclarationChanged", "weight file that says something else of itself than the reference's", Severity.MEDIUM,
        "Both sides are of one format, and beside the tensors something differs: names, element types or shapes of the inputs and outputs "
        "of an ONNX file, initializers that a caller may replace because they are inputs too, its metadata_props (some programs read "
        "labels and sizes there), or the `format` in the metadata of a safetensors file, by which transformers chooses how to load it. "
        "Symbols for sizes may have any name.",
        "Export the reference with the tool and settings that made the artifact and compare again.",
        "Another version of the exporter; a batch size fixed on purpose.",
    ),
)  # fmt: skip
