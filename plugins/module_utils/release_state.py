# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stages a release on a host, or removes one: what the module `release` does."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from . import durable, staged_tree
from .disk_space import require_space
from .errors import MobiusError
from .host.config import Host
from .host.instance import request_instance
from .host.lock import hold_lock
from .host.plan import Actor
from .host.recovery import require_release_id
from .host.revision import health_path_of, keep_configuration, remove_revision, revision_of
from .host.state import read_activation, read_pending, staged_releases
from .manifest import ManifestError, release_of
from .staging import require_python, require_signer, tree_need

_ANSWER_TIMEOUT_SECONDS = 2.0
_ACTOR = Actor("ansible")  # so that no release comes into use while one is replaced or removed


def stage_release(
    host: Host, expect: Mapping[str, Any], *, release: str | None, python: str, source: str | None, check: bool
) -> dict[str, Any]:
    """Stage the release of a bundle; the result is that of the module `release`.

    Args:
        expect: what the bundle holds (`EXPECT`).
        release: the release id that the bundle must hold; None for any.
        python: the Python that will run the release.
        source: the bundle on this host; None when it was not transferred yet, which the result then requests.
        check: predict only.

    Raises:
        MobiusError: a check failed, or staging did.
    """
    release_id = expect["release"]
    require_release_id(release_id)
    if release not in (None, release_id):
        raise MobiusError("bundle_invalid", f"The bundle holds {release_id}, not {release}.")
    if expect["service"] != host.service:
        raise MobiusError("bundle_invalid", f"The bundle is of the service {expect['service']}, not of {host.service}.")
    bundle_signer = require_signer(host, expect)
    revision = revision_of(host, release_id)
    facts = {"release": release_id, "revision": revision, **({"signer": bundle_signer} if bundle_signer else {})}
    require_python(python, expect)
    before: dict[str, Any] = {"release": release_id, "state": "absent"}
    problems: list[str] = []
    if host.release_dir(release_id).exists():
        problems = staged_tree.verify_tree(host.release_dir(release_id))
        if not problems:
            with _as_failure(host):
                is_new = keep_configuration(host, revision, check=check)
            diff = {
                "before": {"revision": revision, "state": "absent"},
                "after": {"revision": revision, "state": "staged"},
            }
            return {"changed": is_new, **facts, **({"diff": diff} if is_new else {})}
        if reason := _reason_to_keep_tree(host, release_id):
            raise MobiusError(
                "tree_damaged",
                f"{release_id} is staged but damaged ({staged_tree.summary(problems)}), and {reason}.",
                do_next="Roll back or promote to another release, then deploy this one's bundle again.",
            )
        before = {"release": release_id, "state": "damaged", "differences": problems}
    require_space(tree_need(host, expect))
    after = {"release": release_id, "state": "staged", **({"revision": revision} if revision != release_id else {})}
    result = {"changed": True, **facts, "diff": {"before": before, "after": after}}
    if problems:
        result["repaired"] = problems
    if check:
        return result
    if source is None:
        return {"changed": False, **facts, "transfer": True}
    with hold_lock(host, _ACTOR) if problems else contextlib.nullcontext():
        if problems and (reason := _reason_to_keep_tree(host, release_id)):
            raise MobiusError("tree_damaged", f"{release_id} is staged but damaged, and {reason} by now.")
        with _as_failure(host):
            staged_tree.stage(
                source, host.releases_dir, expect["sha256"], service=host.service, replace_damaged=bool(problems)
            )
            keep_configuration(host, revision, check=False)
    return result


def remove_release(host: Host, release: str, *, check: bool) -> dict[str, Any]:
    """Remove a release with its byte code and logs; the result is that of the module `release`.

    With a release go its revisions; a revision alone leaves the tree of its release.

    Raises:
        MobiusError: `release_in_use`, when something needs it; or removing failed.
    """
    require_release_id(release)
    with contextlib.nullcontext() if check else hold_lock(host, _ACTOR):
        names = _names_to_remove(host, release)
        is_staged = any(host.revision_dir(name).exists() for name in names)
        leftovers = [path for name in names for path in host.leftovers(name)]
        if not is_staged and not leftovers:
            return {"changed": False, "release": release}
        if reason := next(filter(None, (_reason_to_keep(host, name) for name in names)), None):
            do_next = "Stop its instance first (module instance, state stopped)." if "instance" in reason else None
            raise MobiusError("release_in_use", f"{release} is not removed: {reason}.", do_next=do_next)
        if not check:
            with _as_failure(host):
                for name in names:
                    remove_staged(host, name)
                for path in leftovers:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    state = "staged" if is_staged else "absent"
    before = {"release": release, "state": state, "leftovers": [str(path) for path in leftovers]}
    after = {"release": release, "state": "absent", "leftovers": []}
    return {"changed": True, "release": release, "diff": {"before": before, "after": after}}


def _reason_to_keep_tree(host: Host, release: str) -> str | None:
    """Why the tree of a release must stay: it, or one of its revisions, is needed."""
    reasons = (_reason_to_keep(host, name) for name in _names_to_remove(host, release))
    return next((reason for reason in reasons if reason), None)


def _names_to_remove(host: Host, release: str) -> list[str]:
    """The release last, after its revisions, which lead to its tree; a revision has no others."""
    if release_of(release) != release:
        return [release]
    return [*(name for name in staged_releases(host) if release_of(name) == release and name != release), release]


def remove_staged(host: Host, name: str) -> None:
    """Remove the folder of a release or revision, if there is one; the caller checks that nothing needs it."""
    if release_of(name) == name:
        staged_tree.unstage(name, host.releases_dir)
    elif host.revision_dir(name).exists():
        remove_revision(host, name)


def _reason_to_keep(host: Host, release: str) -> str | None:
    """Why the release must stay, as the end of a sentence; None when nothing needs it."""
    activation = read_activation(host)
    pending = read_pending(host)

    def needs(name: str | None) -> bool:
        # a revision needs the tree of its release, also when its own folder is gone
        return name is not None and release in (name, release_of(name))

    if needs(activation.confirmed):
        return "it is the confirmed release"
    if pending is not None and (needs(pending.release) or needs(pending.previous)):
        return "a pending promotion needs it"
    if any(needs(name) for name in activation.pinned):
        return "it is pinned"
    if needs(activation.previous(staged_releases(host))):
        return "it is the release that a rollback would go to"
    try:
        request_instance(host, release, "GET", health_path_of(host, release), timeout=_ANSWER_TIMEOUT_SECONDS)
    except ConnectionRefusedError:
        return None
    except OSError:
        return "its instance is running, though it does not answer"
    return "its instance is running"


@contextlib.contextmanager
def _as_failure(host: Host) -> Iterator[None]:
    """Turn the errors of staging and removing into failures."""
    try:
        yield
    except ManifestError as error:
        raise MobiusError("bundle_invalid", str(error)) from None
    except OSError as error:
        if error.errno in durable.DISK_FULL_ERRNOS:
            raise MobiusError(
                "disk_full", f"{host.releases_dir} became full while the release was written; it is not staged."
            ) from None
        reason = f"{error.filename or host.releases_dir}: {error.strerror or error}."
        raise MobiusError("environment_failed", reason) from None
