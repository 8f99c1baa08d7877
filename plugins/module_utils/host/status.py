# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What serves on this host, which releases it keeps, and whether the staged files are what was built."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from .. import staged_tree
from ..errors import MobiusError
from ..manifest import ManifestError, release_of
from . import lock
from .config import Host, read_regular_file
from .executor import Executor
from .journal import journal_problems
from .plan import Observation
from .problems import find_problems
from .recovery import find_revision
from .revision import revision_of, revision_problems
from .state import staged_releases

_QUIET_POLL_SECONDS = 0.1  # from one try to observe a host on which no command is at work to the next


def status(executor: Executor) -> dict[str, Any]:
    """The status that `release_info` returns and `mobius-host status --json` prints.

    While a command is at work the host is between two states, so no `problems` are looked for then.
    """
    observed, is_quiet = _observe(executor)
    problems = find_problems(executor.host, observed) if is_quiet else []
    return {
        **_describe(executor.host, observed),
        "at_work": not is_quiet,
        "problems": [dataclasses.asdict(item) for item in problems],
    }


def revision_to_promote(executor: Executor, release: str) -> str:
    """What a promotion means that names a release: its revision with the present configuration, if that is staged.

    Raises:
        MobiusError: `state_damaged`.
    """
    observed = executor.observe()
    if release_of(release) == release and (present := revision_of(executor.host, release)) in observed.staged:
        return present
    return find_revision(observed, release)


def _observe(executor: Executor) -> tuple[Observation, bool]:
    """The host, and whether no command was at work while it was observed."""
    before = lock.work_stamp(executor.host)
    observed = executor.observe()
    return observed, before is not None and before == lock.work_stamp(executor.host)


def _describe(host: Host, observed: Observation) -> dict[str, Any]:
    pending, window, lease = observed.live_promotion, observed.open_window, observed.lease
    is_held = lease is not None and lease.is_live(observed.at, observed.boot)
    releases = []
    known = {entry.release for entry in observed.activation.history}
    for release in sorted(observed.staged | known | {name for name, item in observed.instances.items() if item.exists}):
        if not _is_shown(observed, release):
            continue
        entry = observed.activation.latest(release)
        record = _read_release_record(host, release)
        word = observed.instance(release).word
        if word in ("stopped", "stopping"):
            bad = entry is not None and entry.bad
            word = "bad" if bad else "kept" if release in observed.staged else "removed"
        releases.append(
            {
                "release": release,
                "version": record.get("version") or release.rsplit("-", 1)[0],
                "commit": record.get("commit"),
                "state": word,
                "staged": release in observed.staged,
                "confirmed": entry.confirmed if entry else None,
                "activated": entry.activated if entry else None,
                "bad": entry.bad if entry else False,
                "reason": entry.reason if entry else None,
                "pinned": release in observed.activation.pinned,
            }
        )
    return {
        "service": host.service,
        "confirmed": observed.activation.confirmed,
        "previous": observed.activation.previous(observed.staged),
        "token": observed.activation.token,
        "pending": {**pending.as_dict(), "remaining": round(pending.deadline - observed.at, 3)} if pending else None,
        "watch": {"release": window.release, "remaining": max(0.0, round(window.until - observed.at, 3))}
        if window
        else None,
        "lease": {
            "run": lease.run,
            "actor": lease.actor,
            "since": lease.since,
            "remaining": round(lease.expires - observed.at, 3),
        }
        if lease is not None and is_held
        else None,
        "maintenance": dataclasses.asdict(observed.maintenance) if observed.maintenance else None,
        "serving": sorted(name for name, item in observed.instances.items() if item.state == "serving"),
        "releases": releases,
        "history": [dataclasses.asdict(entry) for entry in observed.activation.history],
    }


def _is_shown(observed: Observation, release: str) -> bool:
    """Whether a release is one of those that this host runs or has run, and not only the tree of its revisions."""
    is_tree = any(release_of(name) == release != name for name in observed.staged)
    return not is_tree or observed.activation.latest(release) is not None or observed.instance(release).exists


def _verify_release(host: Host, release: str, *, with_tree: bool) -> list[str]:
    """What is not as it was built or kept; among all releases, the tree is verified with the release itself."""
    is_revision = release_of(release) != release
    tree = list(staged_tree.verify_tree(host.release_dir(release))) if with_tree or not is_revision else []
    return [*tree, *(revision_problems(host, release) if is_revision else [])]


def _read_release_record(host: Host, release: str) -> dict[str, Any]:
    """The release's `release.json`; empty when it is missing or damaged, which `verify` reports."""
    try:
        content = json.loads(read_regular_file(host.release_dir(release) / "release.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def verify(executor: Executor, releases: Sequence[str] = ()) -> dict[str, list[str]]:
    """Compare staged releases (all, when none is named) with what was built, the journal with itself, and the host with
    its record and its units.

    Returns:
        The problems of each release, of `journal` and of `host`, one line each.

    Raises:
        MobiusError: `locked` when a command is at work all the time; `state_damaged`.
    """
    host = executor.host
    until = time.monotonic() + lock.LOCK_TIMEOUT_SECONDS
    observed, is_quiet = _observe(executor)
    while not is_quiet:
        if time.monotonic() > until:
            raise lock.make_lock_refusal(host, lock.LOCK_TIMEOUT_SECONDS)
        time.sleep(_QUIET_POLL_SECONDS)
        observed, is_quiet = _observe(executor)
    staged = staged_releases(host)
    for release in releases:
        if release not in staged:
            raise MobiusError("release_missing", f"{release} is not staged on this host.")
    problems = {}
    for release in releases or staged:
        try:
            problems[release] = _verify_release(host, release, with_tree=bool(releases))
        except ManifestError as error:
            problems[release] = [str(error)]
    found = [str(problem) for problem in find_problems(host, observed)]
    return {**problems, "journal": journal_problems(host), "host": found}
