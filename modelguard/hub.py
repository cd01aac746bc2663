"""Guarded downloads from Python: huggingface_hub's ``snapshot_download`` and ``hf_hub_download``, which scan before they return a path.

    from modelguard.hub import snapshot_download

    path = snapshot_download("org/name", revision="v1.0")

The arguments are the client's, and so are its environment, token and cache. Files come into quarantine, are scanned there, and are
moved into the cache (or ``local_dir``) only if the policy passes them; otherwise :class:`ModelRefused` has the report, and nothing is
left. ``docs/fetch.md`` says what differs from the client.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from modelguard.errors import ModelguardError, UsageError

if TYPE_CHECKING:
    from modelguard._guard.quarantine import Quarantine
    from modelguard._scanner.prepare import Prepared, StrPath
    from modelguard.policy import Policy
    from modelguard.report import Decision, Report

__all__ = ["ModelRefused", "hf_hub_download", "snapshot_download"]


class ModelRefused(ModelguardError):
    """A model did not pass, and was not put into place. ``report`` is the whole scan, ``decision`` what the policy made of it."""

    def __init__(self, report: Report, decision: Decision) -> None:
        from modelguard._reporters.view import answer, reasons

        first, *others = [item.message for item in reasons(report, decision)]
        more = f" (and {len(others)} more)" if others else ""
        cause = f"{answer(report, decision).lower()} by policy {report.policy.name}: {first}{more}"
        super().__init__(report.target.uri, cause, "nothing was put into place; the exception's `report` has all of it")
        self.report = report
        self.decision = decision


def snapshot_download(
    repo_id: str,
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    user_agent: dict[str, Any] | str | None = None,
    etag_timeout: float = 10,
    force_download: bool = False,
    token: bool | str | None = None,
    local_files_only: bool = False,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    max_workers: int = 8,
    tqdm_class: type[Any] | None = None,
    headers: dict[str, str] | None = None,
    endpoint: str | None = None,
    dry_run: bool = False,
    policy: Policy | StrPath | None = None,
) -> Any:
    """As huggingface_hub's, of models that ``policy`` passes (``builtin:baseline`` by default). See its documentation for the arguments.

    Returns the folder, all of whose files were scanned. ``local_dir`` must not exist, be empty, or hold the very files of the commit.
    ``library_name``, ``library_version``, ``user_agent``, ``etag_timeout``, ``max_workers`` and ``tqdm_class`` have no effect. With
    ``dry_run`` nothing is fetched, and the client answers.

    Raises :class:`ModelRefused`; :class:`~modelguard.UsageError` for a dataset or space, ``headers``, and a ``local_dir`` that holds other
    files; :class:`~modelguard.OutputError` where the files cannot be written.
    """
    if dry_run:
        import huggingface_hub

        return huggingface_hub.snapshot_download(
            repo_id, repo_type=repo_type, revision=revision, cache_dir=cache_dir, local_dir=local_dir, token=token,
            allow_patterns=allow_patterns, ignore_patterns=ignore_patterns, headers=headers, endpoint=endpoint, dry_run=True,
        )  # fmt: skip
    from modelguard._guard.quarantine import by_patterns

    asked = by_patterns(_listed(allow_patterns), _listed(ignore_patterns))
    call = _Call(repo_id, revision, repo_type, cache_dir, local_dir, token, endpoint, local_files_only, force_download, headers, policy)
    if local_dir is None:
        return str(call.passed(asked, lambda quarantine: quarantine.to_cache(), whole=True))
    folder = Path(local_dir).expanduser().resolve()

    def deliver(quarantine: Quarantine) -> Path:
        if not quarantine.is_in(folder):
            quarantine.to_folder(folder)
        return folder

    return str(call.passed(asked, deliver))


def hf_hub_download(
    repo_id: str,
    filename: str,
    *,
    subfolder: str | None = None,
    repo_type: str | None = None,
    revision: str | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    user_agent: dict[str, Any] | str | None = None,
    force_download: bool = False,
    etag_timeout: float = 10,
    token: bool | str | None = None,
    local_files_only: bool = False,
    headers: dict[str, str] | None = None,
    endpoint: str | None = None,
    tqdm_class: type[Any] | None = None,
    dry_run: bool = False,
    policy: Policy | StrPath | None = None,
) -> Any:
    """As huggingface_hub's, of a model's file that ``policy`` passes. See its documentation for the arguments.

    A checkpoint is scanned with the files that it refers to. Any other file (a configuration, a tokenizer) is scanned with the whole
    repository, because it cannot be judged without the model that it belongs to; what was fetched for that stays in the cache.
    Otherwise as :func:`snapshot_download`.
    """
    if dry_run:
        import huggingface_hub

        return huggingface_hub.hf_hub_download(
            repo_id, filename, subfolder=subfolder, repo_type=repo_type, revision=revision, cache_dir=cache_dir, local_dir=local_dir,
            token=token, headers=headers, endpoint=endpoint, dry_run=True,
        )  # fmt: skip
    path = f"{subfolder}/{filename}" if subfolder else filename
    call = _Call(repo_id, revision, repo_type, cache_dir, local_dir, token, endpoint, local_files_only, force_download, headers, policy)

    def deliver(quarantine: Quarantine) -> Path:
        if local_dir is None:
            return quarantine.to_cache() / path
        folder = Path(local_dir).expanduser().resolve()
        quarantine.to_place(path, folder)
        return folder / path

    return str(call.passed(lambda item: item == path, deliver))


class _Call:
    """What both functions are asked for, checked."""

    def __init__(
        self,
        repo_id: str,
        revision: str | None,
        repo_type: str | None,
        cache_dir: str | Path | None,
        local_dir: str | Path | None,
        token: bool | str | None,
        endpoint: str | None,
        local_files_only: bool,
        force_download: bool,
        headers: dict[str, str] | None,
        policy: Policy | StrPath | None,
    ) -> None:
        from huggingface_hub import constants

        from modelguard._sources.hub_uri import HubUri

        if repo_type not in (None, "model"):
            raise UsageError(repo_id, f"is a {repo_type}, and only models can be scanned", "call huggingface_hub itself for it")
        if headers:
            raise UsageError("headers", "cannot be sent by a guarded download", "leave them out")
        self.uri = f"hf://{repo_id}" + (f"@{quote(str(revision), safe='')}" if revision is not None else "")
        HubUri.parse(self.uri)
        self._cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()
        self._parent = self._cache if local_dir is None else Path(local_dir).expanduser().resolve().parent
        self._token = token
        self._endpoint = endpoint
        self._offline = local_files_only
        self._lend = not force_download
        self._policy = policy

    def passed(self, asked: Callable[[str], bool], deliver: Callable[[Quarantine], Path], *, whole: bool = False) -> Path:
        """Bring, scan, and move what passed into place. Raises :class:`ModelRefused`."""
        from modelguard._guard.guard import decided, of_quarantine
        from modelguard._guard.quarantine import Quarantine
        from modelguard._scanner.run import Silent
        from modelguard.report import Verdict

        prepared = self._prepared()
        os.makedirs(self._parent, exist_ok=True)
        with Quarantine(
            self._parent, self._cache, asked=asked, endpoint=self._endpoint, token=self._token, lend=self._lend, whole=whole
        ) as quarantine:
            report = of_quarantine(prepared, quarantine).scan(Silent())
            decision = decided(prepared, report)
            if decision.verdict is not Verdict.PASS:
                raise ModelRefused(report, decision)
            return deliver(quarantine)

    def _prepared(self) -> Prepared:
        from modelguard._scanner.prepare import RunOptions, ScanArguments, prepare

        return prepare(ScanArguments(target=self.uri, policy=self._policy, run=RunOptions(offline=self._offline)))


def _listed(patterns: list[str] | str | None) -> list[str] | None:
    return [patterns] if isinstance(patterns, str) else patterns
