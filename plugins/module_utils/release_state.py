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
from .host.state import read_activation, read_pending
from .manifest import ManifestError
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
    facts = {"release": release_id, **({"signer": bundle_signer} if bundle_signer else {})}
    require_python(python, expect)
    before: dict[str, Any] = {"release": release_id, "state": "absent"}
    problems: list[str] = []
    if host.release_dir(release_id).exists():
        problems = staged_tree.verify_tree(host.release_dir(release_id))
        if not problems:
            return {"changed": False, **facts}
        if reason := _reason_to_keep(host, release_id):
            raise MobiusError(
                "tree_damaged",
                f"{release_id} is staged but damaged ({staged_tree.summary(problems)}), and {reason}.",
                do_next="Roll back or promote to another release, then deploy this one's bundle again.",
            )
        before = {"release": release_id, "state": "damaged", "differences": problems}
    require_space(tree_need(host, expect))
    after = {"release": release_id, "state": "staged"}
    result = {"changed": True, **facts, "diff": {"before": before, "after": after}}
    if problems:
        result["repaired"] = problems
    if check:
        return result
    if source is None:
        return {"changed": False, **facts, "transfer": True}
    with hold_lock(host, _ACTOR) if problems else contextlib.nullcontext():
        if problems and (reason := _reason_to_keep(host, release_id)):
            raise MobiusError("tree_damaged", f"{release_id} is staged but damaged, and {reason} by now.")
        with _as_failure(host):
            staged_tree.stage(
                source, host.releases_dir, expect["sha256"], service=host.service, replace_damaged=bool(problems)
            )
    return result


def remove_release(host: Host, release: str, *, check: bool) -> dict[str, Any]:
    """Remove a release with its byte code and logs; the result is that of the module `release`.

    Raises:
        MobiusError: `release_in_use`, when something needs it; or removing failed.
    """
    require_release_id(release)
    with contextlib.nullcontext() if check else hold_lock(host, _ACTOR):
        is_staged, leftovers = host.release_dir(release).exists(), host.leftovers(release)
        if not is_staged and not leftovers:
            return {"changed": False, "release": release}
        if reason := _reason_to_keep(host, release):
            do_next = "Stop its instance first (module instance, state stopped)." if "instance" in reason else None
            raise MobiusError("release_in_use", f"{release} is not removed: {reason}.", do_next=do_next)
        if not check:
            with _as_failure(host):
                if is_staged:
                    staged_tree.unstage(release, host.releases_dir)
                for path in leftovers:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    state = "staged" if is_staged else "absent"
    before = {"release": release, "state": state, "leftovers": [str(path) for path in leftovers]}
    after = {"release": release, "state": "absent", "leftovers": []}
    return {"changed": True, "release": release, "diff": {"before": before, "after": after}}


def _reason_to_keep(host: Host, release: str) -> str | None:
    """Why the release must stay, as the end of a sentence; None when nothing needs it."""
    activation = read_activation(host)
    pending = read_pending(host)
    if release == activation.confirmed:
        return "it is the confirmed release"
    if pending is not None and release in (pending.release, pending.previous):
        return "a pending promotion needs it"
    if release in activation.pinned:
        return "it is pinned"
    if release == activation.previous(path.name for path in host.releases_dir.iterdir()):
        return "it is the release that a rollback would go to"
    try:
        request_instance(host, release, "GET", host.health_path, timeout=_ANSWER_TIMEOUT_SECONDS)
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
