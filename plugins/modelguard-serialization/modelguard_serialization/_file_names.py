"""Names and endings by which programs know what they run, install or render, whatever the content says."""

from __future__ import annotations

import re

from modelguard_serialization._words import words

PYTHON = words(".py .pyw .pyi .py3")
PROGRAMS = words(".exe .dll .pyd .pyc .pyo .com .scr .msi .ocx .cpl .dylib")
SHORTCUTS = words(".lnk .desktop .url .webloc")
SHELL = words(".sh .bash .zsh .ksh .fish .bat .cmd .ps1 .psm1 .command .slurm .sbatch .mk .make")
SHELL_NAMES = re.compile(
    r"(?:gnu)?makefile|(?:\w+\.)?dockerfile(?:\.\w+)?|containerfile|jenkinsfile|procfile|justfile|vagrantfile|\.envrc|\.bashrc|\.profile"
    r"|crontab|\.bash_(?:profile|login|logout)|\.z(?:shrc|shenv|profile)|\.gitmodules|\.gitconfig|tox\.ini|"
    r"cmakelists\.txt|meson\.build|\.gitlab-ci\.yml|\.travis\.yml|azure-pipelines\.yml|bitbucket-pipelines\.yml|cloudbuild\.yaml"
    r"|\.pre-commit-(?:config|hooks)\.yaml|(?:docker-)?compose[\w.-]*\.ya?ml|cog\.yaml|devcontainer\.json"
)
"""Base names in lower case, as a whole."""
COMMANDS = re.compile(
    r"(?:^|/)(?:\.github/(?:workflows|actions)/.*\.ya?ml|\.circleci/.*\.ya?ml|\.husky/[^/]+|\.devcontainer/[^/]+"
    r"|\.vscode/(?:tasks|launch|settings)\.json)$"
)
"""Paths in lower case of what services and editors take commands from: some run them when a folder is opened."""
PACKAGES = re.compile(
    r"(?:[\w.-]*(?:requirements?|constraints?)[\w.-]*\.(?:txt|in|pip))|pyproject\.toml|setup\.cfg|pipfile|pip\.(?:conf|ini)"
    r"|uv\.toml"
    r"|(?:[\w.-]*environment[\w.-]*|conda[\w.-]*)\.ya?ml|package\.json|\.npmrc|\.condarc"
)
"""Base names in lower case, as a whole, of lists of packages."""
TEMPLATES = re.compile(r"(?:^|[._-])(?:chat_?template|jinja2?|j2|prompt)(?:$|[._-])", re.I)
"""What is in the base name of a template."""
NOT_TEMPLATES = words(
    ".md .rst .tex .html .htm .css .js .mjs .ts .tsx .jsx .vue .svg .py .pyi .ipynb .c .cc .cpp .h .cu .cuh .rs .go .java"
)
_LANGUAGES = {
    "JavaScript": ".js .mjs .cjs .jsx .ts .tsx .vue .svelte",
    "Cython": ".pyx .pxd .pxi",
    "C or C++": ".c .cc .cpp .cxx .h .hh .hpp .hxx .m .mm .ino",
    "CUDA or a language of shaders": ".cu .cuh .cl .metal .glsl .hlsl .wgsl .comp .ptx",
    "Java or a language on its machine": ".java .kt .kts .scala .groovy .gradle .clj",
    "PHP": ".php .phtml .php5 .phar",
    "Ruby": ".rb .gemspec .rake",
    "Perl": ".pl .pm",
    "Lua": ".lua",
    "Go": ".go",
    "Rust": ".rs",
    "C#": ".cs .csx .fs",
    "Swift": ".swift",
    "R": ".r .rmd",
    "Julia": ".jl",
    "a script of Windows": ".vbs .vbe .jse .wsf .wsh .hta .sct .scf .reg .inf .msh .psc1",
    "AppleScript": ".scpt .applescript",
    "WebAssembly text": ".wat",
    "Tcl": ".tcl",
    "Lisp": ".el .lisp .scm .rkt",
    "Haskell or ML": ".hs .ml .mli",
    "Zig, Nim, D or Mojo": ".zig .nim .d .mojo",
    "assembly": ".s .asm",
}
LANGUAGES = {ending: name for name, endings in _LANGUAGES.items() for ending in endings.split()}
"""The language by the ending, of those that are not looked into."""
