# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One sample of the gate: the health of the instance, its process, and the next probe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..manifest import release_of
from .measurements import GateFailedError, Measurements
from .probes import Probe, excerpt, format_json
from .requests import NO_PROCESS_ERRORS, NO_RESPONSE_ERRORS, RESPONSE_TIMEOUT_SECONDS, Request

# of draft-inadarei-api-health-check, with its aliases; with any other word, the status code counts
_FAILED_STATUSES = ("fail", "error", "down")

ReadProcess = Callable[[], "Mapping[str, Any] | None"]  # the `pid` of an instance, and its `state`; None: not known


def take_sample(
    request: Request,
    release: str,
    health_path: str,
    probes: Iterator[Probe],
    measured: Measurements,
    clock: Callable[[], float],
    read_process: ReadProcess,
    request_probe: Request | None = None,
) -> None:
    """Take one sample. The deadline of the gate does not cut it short, since that would look like a missing response.

    Args:
        read_process: reads which process the instance is.
        request_probe: sends probes; by default as `request` does.

    Raises:
        GateFailedError: the instance proved itself bad.
    """
    measured.samples += 1
    started = clock()
    try:
        status, _, body = request("GET", health_path, None, None, RESPONSE_TIMEOUT_SECONDS)
        measured.response_ms.append((clock() - started) * 1000)
        problem = _read_health(status, body, release, measured)
        _require_same_process(read_process, release, measured)
        if problem is not None:
            measured.end_streak(problem)
            return
        probe = next(probes, None)
        if probe is not None:
            measured.send(request_probe or request, probe)
    except NO_RESPONSE_ERRORS as error:
        if isinstance(error, NO_PROCESS_ERRORS) and measured.statuses:
            raise GateFailedError(f"The process of {release} is gone: it accepts no connection ({error}).") from None
        measured.add_silence(error)
    else:
        measured.add_healthy(started, clock())


def _read_health(status: int, body: bytes, release: str, measured: Measurements) -> str | None:
    """The problem with a health response that may pass; None for a healthy one.

    Raises:
        GateFailedError: the instance reports that it is not healthy, or that it is another release.
    """
    try:
        health = json.loads(body)
    except ValueError:
        health = None
    reported = health.get("status") if isinstance(health, dict) else None
    word = reported.lower() if isinstance(reported, str) else None
    key = reported if isinstance(reported, str) else f"HTTP {status}"
    measured.statuses[key] = measured.statuses.get(key, 0) + 1
    if word in _FAILED_STATUSES:
        raise GateFailedError(f"{release} reports that it is not healthy: {_failed_checks(health)}.")
    if isinstance(health, dict) and health.get("releaseId") not in (None, release_of(release)):
        raise GateFailedError(f"The instance that answers for {release} is {health['releaseId']!r}.")
    if not 200 <= status < 300:
        return f"its health answered {status} with {excerpt(body, 120)!r}"
    return None


def _failed_checks(health: Mapping[str, Any]) -> str:
    checks = health.get("checks")
    if isinstance(checks, dict):
        failed = {name: value for name, value in checks.items() if '"fail"' in json.dumps(value)}
        if failed:
            return format_json(failed)
    return format_json(health.get("output") or health.get("status"))


def _require_same_process(read_process: ReadProcess, release: str, measured: Measurements) -> None:
    """Raise `GateFailedError` when another process responds than before: the first one died and was restarted."""
    state = read_process()
    if state is None:
        return
    measured.state = state.get("state")
    pid = state.get("pid")
    if measured.pid is not None and pid != measured.pid:
        raise GateFailedError(f"The process of {release} died: {pid} responds in place of {measured.pid}.")
    measured.pid = pid
