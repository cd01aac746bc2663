"""Configurations that are neither JSON, YAML nor TOML: spaCy's, Triton's, Ollama's."""

from __future__ import annotations

import configparser
import re

from modelguard import Severity
from modelguard_serialization._format_rules import CONFIGURED_CODE, CUSTOM_OP, OUTSIDE_FILE
from modelguard_serialization._paths import outside
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader, whole_text


class SpacyConfig(Reader):
    """Source: https://spacy.io/usage/training#config; a name with ``@`` is looked up in a registry that installed packages fill."""

    what = "a spaCy configuration"
    rules = (CUSTOM_OP,)

    _PACKAGES = re.compile(r"(?:spacy|spacy-\w[\w-]*|thinc|catalogue|[A-Z]\w*)(?:\.[\w.-]+)?")

    def recognise(self, blob: Blob) -> bool:
        head = blob.head(65536)
        return blob.ending == ".cfg" and b"[nlp]" in head

    def read(self, blob: Blob, look: Look) -> None:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(whole_text(blob))
        except configparser.Error:
            raise NotReadError("is no valid spaCy configuration") from None
        for section in parser.sections():
            look.check()
            for key, value in parser.items(section):
                name = value.strip().strip('"')
                if key.startswith("@") and not self._PACKAGES.fullmatch(name):
                    look.find(
                        "MG0333",
                        blob,
                        f"[{section[:100]}] needs {name[:100]!r}, which a package other than spaCy must register",
                        key=name[:100],
                    )


class TritonConfig(Reader):
    """Source: triton-inference-server/common/protobuf/model_config.proto, and the Python backend's README."""

    what = "a Triton model configuration"
    rules = (CONFIGURED_CODE, OUTSIDE_FILE)

    def recognise(self, blob: Blob) -> bool:
        return blob.name.rsplit("/", 1)[-1].lower() == "config.pbtxt"

    def read(self, blob: Blob, look: Look) -> None:
        text = whole_text(blob)
        if match := re.search(r"\b(?:backend|runtime)\s*:\s*[\"']([^\"']*(?:python|model\.py)[^\"']*)", text):
            look.find("MG0334", blob, f"Triton runs Python beside it (backend {match[1][:100]!r})", severity=Severity.MEDIUM, key="python")
        if match := re.search(r"\bop_library_filename\s*:\s*[\"']([^\"']*)", text):
            look.find("MG0334", blob, f"Triton loads the native library {match[1][:200]!r}", severity=Severity.HIGH, key=match[1][:200])
        if match := re.search(r"EXECUTION_ENV_PATH[\s\S]{0,200}?string_value\s*:\s*[\"']([^\"']*)", text):
            look.find(
                "MG0334", blob, f"Triton unpacks and uses the environment {match[1][:200]!r}", severity=Severity.HIGH, key=match[1][:200]
            )
        for name in re.findall(r"\b(?:default_model_filename|model_filename)\s*:\s*[\"']([^\"']*)", text):
            if outside(name):
                look.find("MG0336", blob, f"Triton loads the model {name[:200]!r}", severity=Severity.CRITICAL, key=name[:200])


class Modelfile(Reader):
    """Source: https://github.com/ollama/ollama, docs/modelfile.md."""

    what = "an Ollama Modelfile"
    rules = (OUTSIDE_FILE,)

    def recognise(self, blob: Blob) -> bool:
        return (
            blob.name.rsplit("/", 1)[-1].lower().partition(".")[0] == "modelfile"
            and re.search(rb"(?im)^\s*FROM\s", blob.head(65536)) is not None
        )

    def read(self, blob: Blob, look: Look) -> None:
        text = whole_text(blob)
        for kind, path in re.findall(r"(?im)^\s*(FROM|ADAPTER)\s+[\"']?([^\s\"']+)", text):
            if path.startswith(("/", "~", "\\")) or ".." in path.split("/"):
                look.find("MG0336", blob, f"{kind} takes the file {path[:200]!r}", key=path[:200])
