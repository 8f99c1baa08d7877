# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Watches the confirmed release while its monitoring window is open, and rolls back on a trigger."""

from __future__ import annotations

import contextlib
import sys
import time

from ..errors import MobiusError
from . import triggers
from .config import Host, read_state_file
from .executor import Executor
from .failures import to_failure
from .instance import STATE_TIMEOUT_SECONDS, admin_request
from .plan import Actor
from .state import MonitoringWindow, read_activation, read_lease
from .transitions import plan_watched_rollback


def watch_window(
    executor: Executor, window: MonitoringWindow, settings: triggers.WatchSettings, *, is_persistent: bool
) -> None:
    """Look until the window is over or another switch has ended it.

    A `patient` one tries again when going back fails, and looks on after the end while a run holds the host.

    Raises:
        MobiusError: `rolled_back`.
    """
    host, release = executor.host, window.release
    watcher = triggers.Watcher(settings, _read_baseline(host, release))
    refused: str | None = None
    while window.is_of(read_activation(host), executor.boot()):
        left = window.until - executor.clock()
        if left <= 0 and not (is_persistent and _is_leased(executor)):
            return
        problem, page = _poll_instance(host, release, settings.metrics_path)
        why = watcher.look(executor.clock(), problem, page)
        if why is not None:
            # no run: a rollback of its own, which no repeated question of that run completes
            executor.actor = Actor("watch", None, f"{release} {why}")
            try:
                plan = executor.run(lambda observed: plan_watched_rollback(observed, window, executor.actor))
            except (MobiusError, OSError) as error:
                if not is_persistent:
                    raise
                said = f"{release} {why}, and going back failed: {to_failure(error).reason}"
                if said != refused:
                    refused = said
                    print(said, file=sys.stderr, flush=True)
            else:
                if plan.changed:
                    print(plan.note)
                    raise MobiusError("rolled_back", f"{release} {why}, so this host went back.")
        left = window.until - executor.clock()
        time.sleep(min(settings.interval, left) if left > 0 else settings.interval)


def _is_leased(executor: Executor) -> bool:
    lease = read_lease(executor.host)
    return lease is not None and lease.live(executor.clock(), executor.boot())


def _poll_instance(host: Host, release: str, metrics_path: str) -> tuple[str | None, str | None]:
    """What is wrong with an instance's health (None: nothing), and its page of metrics (None: it gave none)."""
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
    """What the gate measured as it let the release pass, by the name of the signal; empty when it kept nothing."""
    for path in sorted(host.gates_dir.glob(f"*-{release}.json"), reverse=True):
        with contextlib.suppress(MobiusError, OSError):
            content = read_state_file(path)
            if content is not None and content.get("verdict") == "pass":
                return triggers.baseline_of(content)
    return {}
