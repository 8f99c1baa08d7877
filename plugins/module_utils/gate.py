# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Probes and the gate: what an instance itself answers on its own admin socket, and what to make of it.

Neither asks a shared port, where another instance could answer in its place, and neither takes silence for health.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from . import comparison, durable
from .errors import MobiusError
from .host.config import Host
from .host.instance import admin_request
from .host.state import Pending, read_activation, read_pending

# (method, path, body, content type, time-out in seconds) -> (status, headers, body), as host.instance.admin_request
Ask = Callable[[str, str, "bytes | None", "str | None", float], "tuple[int, Mapping[str, str], bytes]"]

SILENCE = (OSError, http.client.HTTPException)  # what asking raises when no whole answer came
ABSENT = (FileNotFoundError, ConnectionRefusedError)  # ... because there is no process behind the socket
ANSWER_TIMEOUT = 2.0  # seconds that one answer may take; a health check that needs more is none
_HEALTHY = ("pass", "warn")

PROBE_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "method": {"type": "str", "default": "GET", "choices": ["GET", "POST"]},
    "path": {"type": "str", "required": True},
    "content_type": {"type": "str"},
    "body_base64": {"type": "str"},
    "status": {"type": "int", "default": 200},
    "json": {"type": "dict"},
}


class NotRunningError(MobiusError):
    """There is no process behind the release's admin socket."""

    def __init__(self, release: str) -> None:
        super().__init__("instance_failed", f"The instance of {release} is not running: its admin socket refuses.")


def asker(host: Host, release: str) -> Ask:
    """Requests to the admin socket of one release's own instance."""

    def ask(
        method: str, path: str, body: bytes | None, content_type: str | None, timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        with _within(timeout):
            return admin_request(host, release, method, path, body, content_type, timeout)

    return ask


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Bounds a whole answer; a socket's own time-out bounds only each part of it, which can go on for ever."""

    def too_late(*_: object) -> None:
        raise TimeoutError(f"no whole answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Probe:
    """One request and what must come back: the status, and a part of the JSON object when given."""

    name: str
    method: str
    path: str
    content_type: str | None
    body: bytes | None
    status: int
    json: Mapping[str, Any] | None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Probe:
        """From a module's argument that `PROBE_SPEC` has checked.

        Raises:
            MobiusError: `invalid_input` for a path that is none or a body that is not base64.
        """
        name = value["name"]
        if not value["path"].startswith("/") or any(character.isspace() for character in value["path"]):
            raise MobiusError("invalid_input", f"The probe {name!r} has {value['path']!r} for a path.")
        encoded = value.get("body_base64")
        try:
            body = None if encoded is None else base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise MobiusError("invalid_input", f"The probe {name!r} has a body_base64 that is not base64.") from None
        return cls(
            name, value["method"], value["path"], value.get("content_type"), body, value["status"], value.get("json")
        )


@dataclass(frozen=True)
class Mismatch:
    """A probe that was answered otherwise than it must be."""

    name: str
    wanted: Any
    got: Any

    def sentence(self) -> str:
        """For people: which probe, what it wanted and what it got."""
        return f"The probe {self.name!r} wanted {_text(self.wanted)} and got {_text(self.got)}."


def ask_probe(ask: Ask, probe: Probe, timeout: float) -> Mismatch | None:
    """Send one probe; None when the answer is as it must be.

    Raises:
        OSError, http.client.HTTPException: no whole answer came within `timeout` seconds.
    """
    status, _, body = ask(probe.method, probe.path, probe.body, probe.content_type, timeout)
    if status != probe.status:
        return Mismatch(probe.name, {"status": probe.status}, {"status": status, "body": _excerpt(body)})
    if probe.json is None:
        return None
    try:
        answer = json.loads(body)
    except ValueError:
        return Mismatch(probe.name, dict(probe.json), _excerpt(body))
    if not isinstance(answer, dict):
        return Mismatch(probe.name, dict(probe.json), answer)
    wrong = {key: value for key, value in probe.json.items() if key not in answer or not matches(value, answer[key])}
    return Mismatch(probe.name, wrong, {key: answer.get(key) for key in wrong}) if wrong else None


def matches(wanted: Any, got: Any) -> bool:
    """Whether `got` holds everything of `wanted`: objects by their wanted keys, all else by equality, true is not 1."""
    if isinstance(wanted, dict):
        return isinstance(got, dict) and all(key in got and matches(value, got[key]) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(got, list) and len(wanted) == len(got) and all(map(matches, wanted, got))
    return isinstance(wanted, bool) == isinstance(got, bool) and bool(wanted == got)


def _text(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:297]}..."


def _excerpt(body: bytes) -> str:
    return body[:300].decode("utf-8", "replace")


# --- The gate ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What the gate wants: times in seconds.

    Within `healthy_seconds` there must be at least half of the samples that `interval` would give: a window in which
    the instance was hardly asked proves nothing.
    """

    healthy_seconds: float
    deadline: float
    interval: float
    probes: Sequence[Probe] = ()
    metrics_path: str = "/metrics"
    signals: Sequence[comparison.MetricSignal] = ()

    def __post_init__(self) -> None:
        if self.healthy_seconds <= 0 or self.interval <= 0:
            raise MobiusError("invalid_input", "A gate's healthy_seconds and interval must be above zero.")
        if self.deadline <= self.healthy_seconds:
            raise MobiusError("invalid_input", "A gate's deadline must be longer than its healthy_seconds.")

    @property
    def samples_wanted(self) -> int:
        """The samples that a healthy window must hold."""
        return max(2, int(self.healthy_seconds / self.interval / 2))


@dataclass
class _Seen:
    """What the gate has seen so far."""

    samples: int = 0
    errors: int = 0
    unhealthy: int = 0
    probes: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)
    streak_since: float | None = None
    streak_samples: int = 0
    streak_seconds: float = 0.0
    longest_seconds: float = 0.0
    pid: int | None = None
    state: str | None = None
    last_problem: str | None = None
    silent: bool = False  # whether the last sample got no answer
    findings: list[comparison.Comparison] = field(default_factory=list)
    unmeasured: str | None = None  # why the last look at the new instance's metrics told nothing
    reference_lost: str | None = None  # why the old release is no longer compared with
    series: list[dict[str, Any]] = field(default_factory=list)

    def healthy(self, started: float, ended: float) -> None:
        """One more sample in a row that was good."""
        if self.streak_since is None:
            self.streak_since, self.streak_samples = started, 0
        self.streak_samples += 1
        self.streak_seconds = ended - self.streak_since
        self.longest_seconds = max(self.longest_seconds, self.streak_seconds)
        self.silent = False

    def interrupted(self, why: str, *, silent: bool) -> None:
        """The row of good samples ends here."""
        self.streak_since, self.streak_samples, self.streak_seconds = None, 0, 0.0
        self.last_problem, self.silent = why, silent
        if silent:
            self.errors += 1
        else:
            self.unhealthy += 1

    def evidence(self, reference: Mapping[str, Any] | None) -> dict[str, Any]:
        """What a person, or the record of the run, is shown."""
        times = sorted(self.milliseconds)
        values = {
            "statuses": self.statuses,
            "unhealthy": self.unhealthy,
            "errors": self.errors,
            "probes": self.probes,
            "pid": self.pid,
            "state": self.state,
            "health_ms_p50": round(times[len(times) // 2], 1) if times else None,
            "health_ms_max": round(times[-1], 1) if times else None,
            "reference": reference,
            "reference_lost": self.reference_lost,
            "signals": [finding.as_dict() for finding in self.findings],
        }
        return {
            "samples": self.samples,
            "healthy_seconds": round(self.longest_seconds, 2),
            "values": values,
            "series": self.series,
        }


@dataclass(frozen=True)
class Verdict:
    """What the gate says of the instance, why in one sentence, and what it saw."""

    verdict: str
    reason: str
    evidence: dict[str, Any]


class _FailedError(Exception):
    """The instance proved itself bad; the message is the reason."""


def taken_back(host: Host, began: Pending) -> bool:
    """Whether the promotion that the gate `began` with is over without having been confirmed.

    Whoever takes one back makes it overdue before stopping the instance, so a process that is gone for that reason is
    never taken for one that died.

    Raises:
        MobiusError: `state_damaged`.
    """
    now = read_pending(host)
    if now is None or (now.release, now.token, now.activated) != (began.release, began.token, began.activated):
        return read_activation(host).confirmed != began.release
    return time.monotonic() >= now.deadline


def judge(
    ask: Ask,
    release: str,
    health_path: str,
    settings: Settings,
    *,
    reference: Callable[[], Any] = lambda: None,
    ask_old: Ask | None = None,
    ended: Callable[[], bool] = lambda: False,
    watch: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Verdict:
    """Ask the instance until it was healthy long enough, proved itself bad, or the deadline has passed.

    With signals, both instances are sent as many probes more as the traffic lacks samples, so that the quiet hours of a
    service do not decide; and a window that is healthy but has not counted enough proves nothing.

    The sample that is under way at the deadline is still taken, which is at most three answers of `ANSWER_TIMEOUT`.

    Args:
        ask: one request to the instance's own admin socket.
        release: the release that must answer.
        reference: what the confirmed release says of itself, for comparison in the evidence.
        ask_old: one request to the confirmed release's own admin socket; None when there is none to compare with. One
            that cannot be asked is not compared with: it must not keep its own successor out.
        ended: whether the promotion was taken back by now: the instance was stopped then, and proves nothing.
        watch: is given what was seen so far, after each sample; for whoever follows it, and without a say.

    Returns:
        `pass`: healthy, with good probes, for `healthy_seconds` in a row.
        `fail`: it said so itself, answered a probe wrongly, answers as another release, its process died, or a signal
            is worse than it may be: a rate at once, a quantile of times when it still is at the deadline.
        `error`: at the deadline it gave no answer, or its promotion was taken back before it could fail, or its metrics
            could not be read.
        `inconclusive`: at the deadline it was healthy, but not long enough in a row, or asked too seldom, or had
            counted too little.
    """
    seen = _Seen()
    probes = cycle(settings.probes) if settings.probes else iter(())
    before = reference()
    both = _Both(ask, ask_old, settings)
    began = time.monotonic()
    deadline = began + settings.deadline
    try:
        while (started := time.monotonic()) < deadline:
            _sample(ask, release, health_path, probes, seen)
            if settings.signals and not seen.silent:
                both.measure(release, settings, seen, probes)
            seen.series.append(_moment(began, seen))
            watch(_so_far(began, settings, seen))
            if (
                seen.streak_seconds >= settings.healthy_seconds
                and seen.streak_samples >= settings.samples_wanted
                and _signals_are_good(settings, seen)
            ):
                verdict = "pass"
                reason = (
                    f"{release} was healthy for {seen.streak_seconds:.1f} s in a row, {seen.streak_samples} samples."
                )
                break
            time.sleep(max(0.0, min(started + settings.interval, deadline) - time.monotonic()))
        else:
            verdict, reason = _at_deadline(release, settings, seen)
    except _FailedError as e:
        verdict, reason = "fail", str(e)
    if verdict == "fail" and ended():
        verdict, reason = "error", "The promotion was taken back while the gate looked."
    return Verdict(verdict, reason, seen.evidence({"before": before, "after": reference()} if before else None))


def _moment(began: float, seen: _Seen) -> dict[str, Any]:
    """What is drawn of one sample later: seconds since the beginning, milliseconds of the health answer, figures."""
    return {
        "at": round(time.monotonic() - began, 2),
        "health_ms": round(seen.milliseconds[-1], 1) if seen.milliseconds else None,
        "well": seen.streak_since is not None,
        "signals": {
            finding.signal.name: [None if figure is None else round(figure, 6) for figure in (finding.new, finding.old)]
            for finding in seen.findings
        },
    }


def _so_far(began: float, settings: Settings, seen: _Seen) -> dict[str, Any]:
    """What is told while the gate looks: times in seconds, and each signal as in the evidence."""
    return {
        "elapsed": round(time.monotonic() - began, 2),
        "deadline": settings.deadline,
        "wanted": settings.healthy_seconds,
        "healthy": round(seen.streak_seconds, 2),
        "samples": seen.samples,
        "signals": [finding.as_dict() for finding in seen.findings],
    }


def _signals_are_good(settings: Settings, seen: _Seen) -> bool:
    """Whether every signal has counted enough and none is worse than it may be. Nothing measured is not good."""
    if not settings.signals:
        return True
    return (
        seen.unmeasured is None
        and len(seen.findings) == len(settings.signals)
        and not any(finding.missing_samples or finding.over for finding in seen.findings)
    )


class _Both:
    """The new instance and the old one, counted side by side."""

    def __init__(self, ask: Ask, ask_old: Ask | None, settings: Settings) -> None:
        self.ask, self.ask_old = ask, ask_old
        self.path = settings.metrics_path
        self.new = comparison.Counters(lambda: self._page(ask), settings.signals)
        self.old = None if ask_old is None else comparison.Counters(lambda: self._page(ask_old), settings.signals)

    def _page(self, ask: Ask) -> str:
        status, _, body = ask("GET", self.path, None, None, ANSWER_TIMEOUT)
        if status != 200:
            raise comparison.UnreadableError(f"{self.path} answered {status}")
        return body.decode("utf-8", "replace")

    def measure(self, release: str, settings: Settings, seen: _Seen, probes: Iterator[Probe]) -> None:
        """Look at both, and send both as many probes as their traffic lacks samples by now.

        Raises:
            _FailedError: a probe was answered wrongly, or a rate is worse than it may be.
        """
        try:
            self.new.read()
            seen.unmeasured = None
            self._with_old(self._look_at_old, seen)
            seen.findings = comparison.compare(self.new, self.old)
        except (*SILENCE, comparison.UnreadableError) as e:
            seen.unmeasured = f"its metrics could not be read ({e})"
            return
        for finding in seen.findings:
            if finding.over and not finding.missing_samples and not finding.signal.may_recover:
                raise _FailedError(f"{finding.sentence(release)}.")
        share = min(1.0, seen.streak_seconds / settings.healthy_seconds)
        behind = [finding.missing_samples - int(finding.signal.samples * (1 - share)) for finding in seen.findings]
        most = math.ceil(2 * max(signal.samples for signal in settings.signals) / settings.samples_wanted)
        for _ in range(min(most, max(0, *behind))):
            probe = next(probes, None)
            if probe is None:
                return
            seen.probes += 1
            try:
                mismatch = ask_probe(self.ask, probe, ANSWER_TIMEOUT)
            except SILENCE as e:
                seen.interrupted(f"it gave no answer ({type(e).__name__}: {e})", silent=True)
                return
            if mismatch is not None:
                raise _FailedError(mismatch.sentence())
            self._with_old(lambda ask, asked=probe: ask_probe(ask, asked, ANSWER_TIMEOUT), seen)

    def _look_at_old(self, _: Ask) -> None:
        if self.old is not None:
            self.old.read()

    def _with_old(self, work: Callable[[Ask], object], seen: _Seen) -> None:
        """Ask the old instance; one that does not answer is not compared with any more."""
        if self.ask_old is None:
            return
        try:
            work(self.ask_old)
        except (*SILENCE, comparison.UnreadableError) as e:
            self.ask_old = self.old = None
            seen.reference_lost = f"{type(e).__name__}: {e}"


def _sample(ask: Ask, release: str, health_path: str, probes: Iterator[Probe], seen: _Seen) -> None:
    """One look at health, the process and the next probe. It is never cut short by the deadline: that would be silence
    which the gate made itself."""
    seen.samples += 1
    started = time.monotonic()
    try:
        status, _, body = ask("GET", health_path, None, None, ANSWER_TIMEOUT)
        seen.milliseconds.append((time.monotonic() - started) * 1000)
        problem = _read_health(status, body, release, seen)
        _same_process(ask, release, seen)
        if problem is not None:
            seen.interrupted(problem, silent=False)
            return
        probe = next(probes, None)
        if probe is not None:
            seen.probes += 1
            mismatch = ask_probe(ask, probe, ANSWER_TIMEOUT)
            if mismatch is not None:
                raise _FailedError(mismatch.sentence())
    except SILENCE as e:
        if isinstance(e, ABSENT) and seen.statuses:
            raise _FailedError(f"The process of {release} is gone: its admin socket refuses ({e}).") from None
        seen.interrupted(f"it gave no answer ({type(e).__name__}: {e})", silent=True)
    else:
        seen.healthy(started, time.monotonic())


def _read_health(status: int, body: bytes, release: str, seen: _Seen) -> str | None:
    """What is wrong with an answer of the health endpoint that may pass; None when nothing is.

    Raises:
        _FailedError: the instance says itself that it is not well, or that it is another release.
    """
    try:
        health = json.loads(body)
    except ValueError:
        health = None
    said = health.get("status") if isinstance(health, dict) else None
    key = str(said) if isinstance(said, str) else f"HTTP {status}"
    seen.statuses[key] = seen.statuses.get(key, 0) + 1
    if said == "fail":
        raise _FailedError(f"{release} says of itself that it is not healthy: {_failing(health)}.")
    if isinstance(health, dict) and health.get("releaseId") not in (None, release):
        raise _FailedError(f"Behind the admin socket of {release} answers {health['releaseId']!r}.")
    if status != 200 or said not in _HEALTHY:
        return f"its health answered {status} with {_excerpt(body)[:120]!r}"
    return None


def _failing(health: Mapping[str, Any]) -> str:
    checks = health.get("checks")
    if isinstance(checks, dict):
        bad = {name: value for name, value in checks.items() if '"fail"' in json.dumps(value)}
        if bad:
            return _text(bad)
    return _text(health.get("output") or health.get("status"))


def _same_process(ask: Ask, release: str, seen: _Seen) -> None:
    """Raises `_FailedError` when another process answers than before: the first one died and was started again."""
    status, _, body = ask("GET", "/admin/state", None, None, ANSWER_TIMEOUT)
    try:
        state = json.loads(body) if status == 200 else None
    except ValueError:
        state = None
    if not isinstance(state, dict):
        return
    seen.state = state.get("state")
    pid = state.get("pid")
    if seen.pid is not None and pid != seen.pid:
        raise _FailedError(f"The process of {release} died: {pid} answers where {seen.pid} did.")
    seen.pid = pid


def _at_deadline(release: str, settings: Settings, seen: _Seen) -> tuple[str, str]:
    within = f"within {settings.deadline:g} s"
    if seen.silent:
        return "error", f"{release} could not be judged {within}: {seen.last_problem}."
    if not seen.longest_seconds and seen.last_problem:
        return "fail", f"{release} was never healthy {within}: {seen.last_problem}."
    if settings.signals and seen.unmeasured is not None:
        return "error", f"{release} could not be judged {within}: {seen.unmeasured}."
    if worse := [finding for finding in seen.findings if finding.over and not finding.missing_samples]:
        return "fail", f"{worse[0].sentence(release)}, {within}."
    if lacking := [finding for finding in seen.findings if finding.missing_samples]:
        few = lacking[0]
        return (
            "inconclusive",
            f"{release} has counted too little for its {few.signal.name} {within}: {few.new_samples} samples, and "
            f"{few.old_samples} of the release before; {few.signal.samples} were wanted.",
        )
    return (
        "inconclusive",
        f"{release} was healthy for {seen.longest_seconds:.1f} s in a row {within}, with {seen.samples} samples; "
        f"{settings.healthy_seconds:g} s and {settings.samples_wanted} samples in a row were wanted.",
    )


# --- What is kept -----------------------------------------------------------------------------------------------------

EVIDENCE_KEPT = 20  # the newest so many verdicts of a service stay on its host


def keep_evidence(host: Host, release: str, said: Verdict, run: str | None, began: str) -> Path:
    """Write a verdict with all that led to it beside the releases, as `gates/<began>-<release>.json`.

    Args:
        began: when the gate began, RFC 3339 in UTC.

    Raises:
        OSError: it could not be written.
    """
    folder = host.root / "gates"
    folder.mkdir(mode=0o755, exist_ok=True)
    path = folder / f"{began.replace(':', '').replace('-', '')}-{release}.json"
    durable.write_json(
        path,
        {
            "schema": 1,
            "service": host.service,
            "release": release,
            "run": run,
            "began": began,
            "verdict": said.verdict,
            "reason": said.reason,
            "evidence": said.evidence,
        },
    )
    for old in sorted(folder.glob("*.json"))[:-EVIDENCE_KEPT]:
        old.unlink()
    return path
