"""What a file would be, going by its name alone: what people and programs do with files of that name."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Literal

Matter = Literal["inert", "weights", "code", "archive", "unknown"]


@dataclass(frozen=True, slots=True)
class Kind:
    """``what`` completes the sentence "the file is ..."; ``matter`` says what it can do to somebody who uses the model.

    ``end`` is where a picture, recording or document ends if something else lies behind it in the file, else 0.
    """

    what: str
    matter: Matter
    end: int = 0


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WEIGHTS = _words(
    ".bin .pt .pth .ckpt .pkl .pickle .joblib .dill .h5 .hdf5 .keras .gguf .ggml .msgpack .npz .npy .pb .tflite .mlmodel .ort .ot "
    ".params .caffemodel .engine .plan .trt .pdparams .pdmodel .nemo .mar .dat .data .weights .onnx_data .llamafile .skops .ubj .cbm "
    ".pmml .distcp .mlpackage .rds .rdata"
)
"""Endings under which weights, or whole pickled objects, are kept."""
CODE = _words(
    ".py .pyc .pyo .pyw .pyd .pyx .pxd .pyz .ipy .ipynb .so .dll .dylib .exe .com .scr .msi .o .a .ko .sys .node .ptx .cubin .fatbin "
    ".sh .bash .zsh .fish .ksh .csh .command .bat .cmd .ps1 .psm1 .psd1 .vbs .vbe .wsf .wsh .hta .js .mjs .cjs .jse .ts .jsx .tsx "
    ".php .phtml .phar .asp .aspx .jsp .cgi .rb .pl .pm .lua .tcl .awk .r .jl .groovy .gradle .scpt .applescript "
    ".jar .class .dex .apk .whl .egg .wasm .wat .c .cc .cpp .cxx .cu .cuh .h .hpp .rs .go .java .kt .scala .swift .mk .cmake "
    ".desktop .lnk .url .webloc .service .reg .dockerfile .xsl .xslt"
)
"""Endings of what is run, compiled, installed or opened as a link to something that is."""
ARCHIVES = _words(".zip .tar .tgz .tbz2 .txz .tzst .gz .bz2 .xz .lzma .zst .lz4 .7z .rar .cab .iso .deb .rpm .pex .conda .squashfs")
INERT = _words(
    ".md .txt .json .jsonl .yaml .yml .toml .ini .cfg .csv .tsv .xml .html .htm .rst .jinja .jinja2 .license .model .spm .vocab .tiktoken "
    ".merges .png .jpg .jpeg .gif .webp .svg .bmp .ico .wav .mp3 .ogg .flac .mp4 .pdf .parquet .arrow .bib .cff .log "
    ".gitattributes .gitignore .prototxt .proto .pbtxt"
)
"""Endings of files that are read as text, looked at or listened to."""

_CODE_NAMES = _words(
    "makefile gnumakefile dockerfile containerfile jenkinsfile vagrantfile rakefile gemfile justfile snakefile procfile sconstruct "
    "sconscript cmakelists.txt build.bazel crontab .bashrc .bash_profile .bash_login .bash_logout .profile .zshrc .zshenv "
    ".zprofile .envrc .npmrc .yarnrc .yarnrc.yml .pypirc pip.conf pip.ini .condarc .gitmodules .gitconfig .pre-commit-config.yaml "
    ".pre-commit-hooks.yaml .gitlab-ci.yml .travis.yml azure-pipelines.yml bitbucket-pipelines.yml cloudbuild.yaml docker-compose.yml "
    "docker-compose.yaml compose.yml compose.yaml devcontainer.json tox.ini"
)
"""Names without such an ending of what build tools, shells, package managers and editors run of themselves or are told by what to."""
_CODE_PATHS = re.compile(
    r"(?:^|/)(?:\.github/(?:workflows|actions)/|\.circleci/|\.husky/|\.devcontainer/|\.vscode/(?:tasks|launch|settings)\.json$"
    r"|\.idea/|\.config/|\.ssh/|dockerfile\.[^/]*$|makefile\.[^/]*$)"
)


def extension(path: str) -> str:
    """The lower-case ending of a file name with its dot; the whole name of a dot file; empty when there is none."""
    name = posixpath.basename(path).lower()
    return name if name.startswith(".") and name.count(".") == 1 else posixpath.splitext(name)[1]


def by_name(path: str) -> Kind:
    """What a file that is not here would be, going by its name alone."""
    ending = extension(path)
    if ending in CODE or posixpath.basename(path).lower() in _CODE_NAMES or _CODE_PATHS.search(path.lower()):
        return Kind("code by its name", "code")
    if ending in INERT or not ending:
        return Kind("text or a picture by its name", "inert")
    if ending in ARCHIVES:
        return Kind("an archive by its name", "archive")
    if ending in WEIGHTS:
        return Kind("weights by its name", "weights")
    return Kind("of an unknown kind", "unknown")
