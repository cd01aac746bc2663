"""What requirements, package files and install commands fetch, and from where."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from modelguard import Severity
from modelguard_serialization._code import shell
from modelguard_serialization._words import words


@dataclass(frozen=True, slots=True)
class Fetch:
    """``what`` completes "the file ..."."""

    what: str
    severity: Severity
    line: int


_INDEXES = words(
    "pypi.org files.pythonhosted.org test.pypi.org download.pytorch.org pypi.nvidia.com pypi.ngc.nvidia.com developer.download.nvidia.com "
    "storage.googleapis.com data.pyg.org data.dgl.ai huggingface.co wheels.vllm.ai conda.anaconda.org repo.anaconda.com modelscope.cn "
    "pypi.tuna.tsinghua.edu.cn mirrors.aliyun.com mirrors.ustc.edu.cn pypi.douban.com repo.huaweicloud.com mirror.baidu.com "
    "pypi.mirrors.ustc.edu.cn "
    "modelscope.oss-cn-beijing.aliyuncs.com flashinfer.ai docs.sglang.ai repo.radeon.com paddlepaddle.org.cn www.paddlepaddle.org.cn "
    "tf.novaal.de abetlen.github.io jllllll.github.io npmjs.org registry.npmjs.org registry.yarnpkg.com registry.npmmirror.com"
)
"""Indexes of packages, their mirrors at universities and large providers, and wheels of frameworks and hardware makers."""
_FORGES = words("github.com gitlab.com huggingface.co hf.co bitbucket.org codeberg.org gitee.com modelscope.cn")
_KNOWN = words(
    "huggingface pytorch openai facebookresearch nvidia microsoft google google-research google-deepmind deepmind tensorflow keras-team "
    "numpy "
    "scipy scikit-learn dao-ailab vllm-project sgl-project unslothai tridao mlfoundations salesforce allenai deepspeedai eleutherai qwenlm "
    "deepseek-ai thudm mistralai state-spaces lm-sys haotian-liu opengvlab timdettmers bitsandbytes-foundation casper-hansen autogptq "
    "modelcloud modelscope pytorch-labs apple jax-ml ggml-org ggerganov abetlen ml-explore rwightman"
)
"""Owners of repositories on the forges that requirements of models name, by the forge's own account: a name in an address over https."""
_LOCAL = re.compile(r"^(?:localhost|127\.0\.0\.1|::1|10\.\d+\.\d+\.\d+)$")
_URL = re.compile(
    r"(?P<scheme>(?:(?:git|hg|svn|bzr)\+)?(?:https?|ssh|git|ftp|file))://(?:[^\s/@'\"]*@)?(?P<host>\[[0-9a-fA-F:]+\]"
    r"|[\w.-]+)(?P<rest>[^\s'\"#;,>)\]]*)",
    re.I,
)
_OPTION = re.compile(
    r"(?:--(?:extra-)?index-url|--find-links|--trusted-host|(?<![\w-])-[if](?=[\s=])|\bindex[-_]url\b|\bfind[-_]links\b"
    r"|\bdependency_links\b)",
    re.I,
)
_TRUSTED = re.compile(r"--trusted-host|\btrusted-host\b", re.I)
_COMMIT = re.compile(r"@[0-9a-f]{40}\b")


def requirements(text: str) -> Iterator[Fetch]:
    """Options of pip and addresses in requirements, package files or commands that install."""
    for number, line in enumerate(text.splitlines()[:100_000], 1):
        bare = line.split(" #", 1)[0].strip()[:2000]
        if not bare or bare.startswith("#"):
            continue
        option = _OPTION.search(bare)
        if _TRUSTED.search(bare):
            yield Fetch(f"switches off the check of an index's certificate: {bare[:120]!r}", Severity.HIGH, number)
        for url in _URL.finditer(bare):
            yield _address(url, option is not None, bare, number)


def addresses(text: str) -> Iterator[Fetch]:
    """As :func:`requirements`, of the lines that install with pip, uv, conda or npm alone."""
    for number, line in enumerate(text.splitlines()[:100_000], 1):
        if re.search(r"\b(?:pip[\d.]*|uv|conda|mamba|npm|yarn)\b[^\n]{0,100}\b(?:install|add|i)\b", line[:2000]):
            for fetch in requirements(line):
                yield Fetch(fetch.what, fetch.severity, number)


def _address(url: re.Match[str], option: bool, line: str, number: int) -> Fetch:
    scheme, host, rest = url["scheme"].lower(), url["host"].lower().strip("."), url["rest"]
    raw = bool(re.fullmatch(r"\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:]+\]", host)) and not _LOCAL.match(host)
    plain = scheme.rpartition("+")[2] in ("http", "ftp", "git")
    shown = f"{scheme}://{host}{rest}"[:150]
    what = "names another index of packages" if option else "installs from a repository" if "+" in scheme else "installs from an address"
    if raw or (plain and not _LOCAL.match(host)):
        return Fetch(f"{what}, {'a bare network address' if raw else 'without encryption'}: {shown!r}", Severity.HIGH, number)
    owner = rest.strip("/").split("/", 1)[0]
    known = (
        host in _INDEXES or (host in _FORGES and owner in _KNOWN) or (option and host.endswith(tuple("." + index for index in _INDEXES)))
    )
    if host in _FORGES and "+" in scheme and _COMMIT.search(line):
        known = True
    return Fetch(f"{what}: {shown!r}", Severity.LOW if known or _LOCAL.match(host) else Severity.MEDIUM, number)


def package_json(text: str) -> Iterator[Fetch]:
    """Scripts of a package for node that run when it is installed. Raises ``ValueError`` and ``RecursionError`` for what is no JSON."""
    document = json.loads(text)
    scripts = document.get("scripts") if isinstance(document, dict) else None
    for name, command in scripts.items() if isinstance(scripts, dict) else ():
        if isinstance(command, str):
            bad = max((severity for _, severity in shell.tricks(command)), default=Severity.INFO)
            on_install = name in ("preinstall", "install", "postinstall", "prepare", "prepublish")
            severity = max(bad, Severity.MEDIUM if on_install else Severity.INFO)
            if severity > Severity.INFO:
                yield Fetch(f"runs {command[:100]!r} {'on install' if on_install else 'as ' + name}", severity, 1)
