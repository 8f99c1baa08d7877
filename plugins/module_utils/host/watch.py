# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Watches the confirmed release while its monitoring window is open, and rolls back on a trigger."""

from __future__ import annotations

import contextlib
import sys
import time

from ..errors import MobiusError
from . import triggers
from .config import Host, _read_json
from .executor import Switch
from .failures import understood
from .instance import STATE_TIMEOUT, admin_request
from .plan import Who
from .state import Window, read_activation, read_lease
from .transitions import plan_watched_rollback


def _watch_window(switch: Switch, window: Window, settings: triggers.Settings, *, patient: bool) -> None:
    """Look until the window is over or another switch has ended it.

    A `patient` one tries again when going back fails, and looks on after the end while a run holds the host.

    Raises:
        MobiusError: `rolled_back`.
    """
    host, release = switch.host, window.release
    watcher = triggers.Watcher(settings, _baseline(host, release))
    refused: str | None = None
    while window.is_of(read_activation(host), switch.boot()):
        left = window.until - switch.clock()
        if left <= 0 and not (patient and _held(switch)):
            return
        problem, page = _look(host, release, settings.metrics_path)
        why = watcher.look(switch.clock(), problem, page)
        if why is not None:
            # no run: a rollback of its own, which no repeated question of that run completes
            switch.who = Who("watch", None, f"{release} {why}")
            try:
                plan = switch.run(lambda seen: plan_watched_rollback(seen, window, switch.who))
            except (MobiusError, OSError) as error:
                if not patient:
                    raise
                said = f"{release} {why}, and going back failed: {understood(error).reason}"
                if said != refused:
                    refused = said
                    print(said, file=sys.stderr, flush=True)
            else:
                if plan.changed:
                    print(plan.note)
                    raise MobiusError("rolled_back", f"{release} {why}, so this host went back.")
        left = window.until - switch.clock()
        time.sleep(min(settings.interval, left) if left > 0 else settings.interval)


def _held(switch: Switch) -> bool:
    lease = read_lease(switch.host)
    return lease is not None and lease.live(switch.clock(), switch.boot())


def _look(host: Host, release: str, metrics_path: str) -> tuple[str | None, str | None]:
    """What is wrong with an instance's health (None: nothing), and its page of metrics (None: it gave none)."""
    problem = None
    try:
        code, _, body = admin_request(host, release, "GET", host.health_path, timeout=STATE_TIMEOUT)
        if code != 200:
            problem = f"its health answered {code} with {body[:120].decode(errors='replace')!r}"
        code, _, body = admin_request(host, release, "GET", metrics_path, timeout=STATE_TIMEOUT)
    except OSError as error:
        return problem or f"it does not answer ({type(error).__name__})", None
    return problem, body.decode(errors="replace") if code == 200 else None


def _baseline(host: Host, release: str) -> dict[str, float]:
    """What the gate measured as it let the release pass, by the name of the signal; empty when it kept nothing."""
    for path in sorted(host.gates_dir.glob(f"*-{release}.json"), reverse=True):
        with contextlib.suppress(MobiusError, OSError):
            content = _read_json(path)
            if content is not None and content.get("verdict") == "pass":
                return triggers.baseline_of(content)
    return {}
