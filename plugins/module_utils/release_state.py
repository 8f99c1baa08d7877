# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stages the release of a bundle on a host, or removes one that nothing needs. Standard library only."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.mobius.dhash.plugins.module_utils import durable, manifest, staged_tree, staging
from ansible_collections.mobius.dhash.plugins.module_utils.disk_space import require_space
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import LOCK_TIMEOUT_SECONDS
from ansible_collections.mobius.dhash.plugins.module_utils.host.instance import admin_request
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import read_activation, read_pending


def ensure_staged(host: Host, params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Stage the release of a bundle unless it is there, complete and undamaged.

    Args:
        params: the arguments of the module `release`.

    Returns:
        the result of the module; with `transfer` when the bundle has to be copied to the host first.
    """
    expect = params["expect"]
    release = expect["release"]
    if not manifest.RELEASE_ID.fullmatch(release):
        raise MobiusError("invalid_input", f"{release!r} is not a release id.")
    if params["release"] not in (None, release):
        raise MobiusError("bundle_invalid", f"The bundle holds {release}, not {params['release']}.")
    if expect["service"] != host.service:
        raise MobiusError("bundle_invalid", f"The bundle is of the service {expect['service']}, not of {host.service}.")
    by = staging.require_signer(host, expect)
    known = {"release": release, **({"signer": by} if by else {})}
    staging.check_python(params["python"], expect)
    before = {"release": release, "state": "absent"}
    problems: list[str] = []
    if (host.releases_dir / release).exists():
        problems = staged_tree.verify_tree(host.releases_dir / release)
        if not problems:
            return {"changed": False, **known}
        if user := _user_of(host, release):
            raise MobiusError(
                "tree_damaged",
                f"{release} is staged but damaged ({staged_tree.summary(problems)}), and {user}.",
                do_next="Roll back or promote to another release, then deploy this one's bundle again.",
            )
        before = {"release": release, "state": "damaged", "differences": problems}
    require_space(staging.tree_need(host, expect))
    after = {"release": release, "state": "staged"}
    result = {"changed": True, **known, "diff": {"before": before, "after": after}}
    if problems:
        result["repaired"] = problems
    if check_mode:
        return result
    if params["src"] is None:
        return {"changed": False, **known, "transfer": True}
    with _locked(host) if problems else contextlib.nullcontext():
        if problems and (user := _user_of(host, release)):
            raise MobiusError("tree_damaged", f"{release} is staged but damaged, and {user} by now.")
        try:
            staged_tree.stage(
                params["src"],
                host.releases_dir,
                expect["sha256"],
                service=host.service,
                replace_damaged=bool(problems),
            )
        except manifest.ManifestError as e:
            raise MobiusError("bundle_invalid", str(e)) from None
        except OSError as e:
            raise _from_oserror(e, host) from None
    return result


def ensure_absent(host: Host, params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Remove a release that nothing needs, with its leftovers.

    Args:
        params: the arguments of the module `release`.

    Returns:
        the result of the module.
    """
    release = params["release"]
    if not manifest.RELEASE_ID.fullmatch(release):
        raise MobiusError("invalid_input", f"{release!r} is not a release id.")
    with contextlib.nullcontext() if check_mode else _locked(host):
        staged, leftovers = (host.releases_dir / release).exists(), host.leftovers(release)
        if not staged and not leftovers:
            return {"changed": False, "release": release}
        if user := _user_of(host, release):
            stop = "Stop its instance first (module instance, state stopped)." if "instance" in user else None
            raise MobiusError("release_in_use", f"{release} is not removed: {user}.", do_next=stop)
        if not check_mode:
            try:
                if staged:
                    staged_tree.unstage(release, host.releases_dir)
                for path in leftovers:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            except OSError as e:
                raise _from_oserror(e, host) from None
    before = {"release": release, "state": "staged" if staged else "absent", "leftovers": [str(p) for p in leftovers]}
    after = {"release": release, "state": "absent", "leftovers": []}
    return {"changed": True, "release": release, "diff": {"before": before, "after": after}}


def _user_of(host: Host, release: str) -> str | None:
    """What needs the release, as the end of a sentence; None when nothing does."""
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
        admin_request(host, release, "GET", "/admin/state", timeout=2.0)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError:
        return "its instance is running, though it does not answer"
    return "its instance is running"


def _from_oserror(error: OSError, host: Host) -> MobiusError:
    if error.errno in durable.DISK_FULL_ERRNOS:
        return MobiusError(
            "disk_full", f"{host.releases_dir} became full while the release was written; it is not staged."
        )
    return MobiusError("environment_failed", f"{error.filename or host.releases_dir}: {error.strerror or error}.")


@contextlib.contextmanager
def _locked(host: Host) -> Iterator[None]:
    """Nothing is promoted or rolled back while it is decided whether a release is in use."""
    try:
        with durable.locked(host.lock_path, LOCK_TIMEOUT_SECONDS):
            yield
    except TimeoutError as e:
        raise MobiusError("timeout", f"{e}.") from None
