# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Watches the confirmed release while its monitoring window is open, and rolls back on a trigger."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass

from ..comparison import Tally
from ..errors import MobiusError
from . import triggers
from .config import Host, read_state_file
from .executor import Executor
from .failures import to_failure
from .front.figures import USERS, FrontFigures, read_recorded
from .fronted import Front
from .instance import STATE_TIMEOUT_SECONDS, find_slot, request_instance
from .plan import Actor
from .revision import health_path_of
from .state import MonitoringWindow, read_activation, read_lease
from .transitions.rollback import plan_watched_rollback


def watch_window(
    executor: Executor, window: MonitoringWindow, settings: triggers.WatchSettings, *, is_persistent: bool
) -> None:
    """Watch until the window is over or another switch has ended it.

    A release that is unhealthy together with the one before is not rolled back: the cause is the host or the data that
    both have, so a rollback would blame the release and heal nothing.

    Args:
        is_persistent: try again when a rollback fails, and watch on after the end while a run holds the host.

    Raises:
        MobiusError: `rolled_back`.
    """
    host, release = executor.host, window.release
    watcher = triggers.Watcher(settings, {**_read_baseline(host, release), **_read_recorded(host, window, settings)})
    users = _UserCounts(executor, release)
    reported: str | None = None
    # one that is not healthy while it stands by says nothing about the other
    is_comparable = window.previous is not None and _is_healthy(_request_health(host, window.previous)[0])
    while window.is_of(read_activation(host), executor.boot()):
        remaining = window.until - executor.clock()
        if remaining <= 0 and not (is_persistent and _is_leased(executor)):
            return
        problem, page = _poll_instance(host, release, settings)
        counts = users.read(settings)
        if problem is not None and is_comparable and _are_both_unhealthy(host, window):
            shared = (
                f"{release} and {window.previous} are unhealthy, so the cause is no release; not rolled back: {problem}"
            )
            if shared != reported:
                reported = shared
                print(shared, file=sys.stderr, flush=True)
            problem = page = counts = None
        restarts = _count_restarts(executor, release) if settings.restarts else None
        reason = watcher.add_sample(executor.clock(), problem, page, restarts, counts)
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


def _request_health(host: Host, release: str) -> tuple[int | None, str]:
    """The status code of an instance's health and the begin of its body, or None and why there is no response."""
    try:
        code, _, body = request_instance(
            host, release, "GET", health_path_of(host, release), timeout=STATE_TIMEOUT_SECONDS
        )
    except OSError as error:
        return None, type(error).__name__
    return code, body[:120].decode(errors="replace")


def _is_healthy(code: int | None) -> bool:
    return code is not None and 200 <= code < 300


def _are_both_unhealthy(host: Host, window: MonitoringWindow) -> bool:
    """Whether the watched release and the one before it answer, and neither is healthy."""
    codes = [_request_health(host, release)[0] for release in (window.release, window.previous) if release]
    return all(code is not None and not _is_healthy(code) for code in codes)


def _poll_instance(host: Host, release: str, settings: triggers.WatchSettings) -> tuple[str | None, str | None]:
    """The problem with the health of an instance (None: healthy), and its metrics page (None: not available)."""
    code, text = _request_health(host, release)
    if code is None:
        return f"it does not answer ({text})", None
    problem = None if _is_healthy(code) else f"its health answered {code} with {text!r}"
    if not settings.signals and settings.memory is None:
        return problem, None
    try:
        code, _, body = request_instance(host, release, "GET", settings.metrics_path, timeout=STATE_TIMEOUT_SECONDS)
    except OSError as error:
        return problem or f"it does not answer ({type(error).__name__})", None
    return problem, body.decode(errors="replace") if code == 200 else None


@dataclass
class _UserCounts:
    """What the front counts of users' requests to a release."""

    executor: Executor
    release: str
    _slot: int | None = None
    _figures: FrontFigures | None = None

    def read(self, settings: triggers.WatchSettings) -> triggers.Counts | None:
        """The counts of each signal by now; None without signals of the front, or while it does not answer."""
        front = self.executor.front
        if not settings.front_signals or not isinstance(front, Front):
            return None
        slot = find_slot(self.executor.host, self.release)
        if slot is None:
            return None
        if self._figures is None or slot.number != self._slot:
            self._slot = slot.number
            self._figures = FrontFigures(front.runtime, self.executor.host.traffic_page, {self.release: slot.number})
        try:
            self._figures.read()
        except (OSError, MobiusError):
            return None
        outcomes = self._figures.outcomes(self.release)
        latency = None if self._figures.latency_problem is not None else self._figures.latency(self.release, USERS)
        rate = {"part": float(outcomes.failed), "whole": float(outcomes.requests)}
        return {signal.name: latency if signal.may_recover else rate for signal in settings.front_signals}


def _count_restarts(executor: Executor, release: str) -> int | None:
    """How often systemd has restarted the process of an instance; None when that cannot be read."""
    name = executor.host.unit(release)
    try:
        unit = executor.systemd.units(name).get(name)
    except (MobiusError, OSError):
        return None
    return None if unit is None else unit.restarts


def _read_recorded(host: Host, window: MonitoringWindow, settings: triggers.WatchSettings) -> dict[str, Tally]:
    """The share of failed requests of the release before, of all that is recorded of it: a gate counts few.

    Latency is not taken from there: it depends on the time of the day.
    """
    recorded = None if window.previous is None else read_recorded(host.traffic_page, window.previous)
    if recorded is None:
        return {}
    failed, requests = recorded.outcomes.failed, recorded.outcomes.requests
    tally = Tally(failed / requests, requests, failed)
    return {signal.name: tally for signal in settings.front_signals if not signal.may_recover}


def _read_baseline(host: Host, release: str) -> dict[str, Tally]:
    """What the gate measured when the release passed it, by the name of the signal; empty without such evidence."""
    for path in sorted(host.gates_dir.glob(f"*-{release}.json"), reverse=True):
        with contextlib.suppress(MobiusError, OSError):
            content = read_state_file(path)
            if content is not None and content.get("verdict") == "pass":
                return triggers.baseline_of(content)
    return {}
