# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Watches the confirmed release while its monitoring window is open, and rolls back on a trigger."""

from __future__ import annotations

import contextlib
import sys

from ..errors import MobiusError
from . import triggers
from .config import Host, read_state_file
from .executor import Executor
from .failures import to_failure
from .instance import STATE_TIMEOUT_SECONDS, admin_request
from .plan import Actor
from .state import MonitoringWindow, read_activation, read_lease
from .transitions.rollback import plan_watched_rollback


def watch_window(
    executor: Executor, window: MonitoringWindow, settings: triggers.WatchSettings, *, is_persistent: bool
) -> None:
    """Watch until the window is over or another switch has ended it.

    Args:
        is_persistent: try again when a rollback fails, and watch on after the end while a run holds the host.

    Raises:
        MobiusError: `rolled_back`.
    """
    host, release = executor.host, window.release
    watcher = triggers.Watcher(settings, _read_baseline(host, release))
    reported: str | None = None
    while window.is_of(read_activation(host), executor.boot()):
        remaining = window.until - executor.clock()
        if remaining <= 0 and not (is_persistent and _is_leased(executor)):
            return
        problem, page = _poll_instance(host, release, settings.metrics_path)
        reason = watcher.add_sample(executor.clock(), problem, page)
        if reason is not None:
            # without a run: a repeated rollback by that run must not count this one as its own
            executor.actor = Actor("watch", None, f"{release} {reason}")
            try:
                plan = executor.run(lambda observed: plan_watched_rollback(observed, window, executor.actor))
            except (MobiusError, OSError) as error:
                if not is_persistent:
                    raise
                failure = f"{release} {reason}, and the rollback failed: {to_failure(error).reason}"
                if failure != reported:
                    reported = failure
                    print(failure, file=sys.stderr, flush=True)
            else:
                if plan.changed:
                    print(plan.note)
                    raise MobiusError("rolled_back", f"{release} {reason}, so this host rolled back.")
        remaining = window.until - executor.clock()
        executor.sleep(min(settings.interval, remaining) if remaining > 0 else settings.interval)


def _is_leased(executor: Executor) -> bool:
    lease = read_lease(executor.host)
    return lease is not None and lease.is_live(executor.clock(), executor.boot())


def _poll_instance(host: Host, release: str, metrics_path: str) -> tuple[str | None, str | None]:
    """The problem with the health of an instance (None: healthy), and its metrics page (None: not available)."""
    problem = None
    try:
        code, _, body = admin_request(host, release, "GET", host.health_path, timeout=STATE_TIMEOUT_SECONDS)
        if code != 200:
            problem = f"its health answered {code} with {body[:120].decode(errors='replace')!r}"
        code, _, body = admin_request(host, release, "GET", metrics_path, timeout=STATE_TIMEOUT_SECONDS)
    except OSError as error:
        return problem or f"it does not answer ({type(error).__name__})", None
    return problem, body.decode(errors="replace") if code == 200 else None


def _read_baseline(host: Host, release: str) -> dict[str, float]:
    """What the gate measured when the release passed it, by the name of the signal; empty without such evidence."""
    for path in sorted(host.gates_dir.glob(f"*-{release}.json"), reverse=True):
        with contextlib.suppress(MobiusError, OSError):
            content = read_state_file(path)
            if content is not None and content.get("verdict") == "pass":
                return triggers.baseline_of(content)
    return {}
