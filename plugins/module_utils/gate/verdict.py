# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The verdict of the gate on a release that has begun to serve."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from ..comparison import Comparison
from .front_traffic import FrontTraffic
from .measurements import GateFailedError, Measurements
from .requests import Request
from .sampling import ReadProcess, take_sample
from .settings import GateSettings
from .side_by_side import SideBySide

# A gate waits for users' requests unless fewer than this part of them would come until its deadline.
WORTH_WAITING = 0.1


@dataclass(frozen=True)
class GateVerdict:
    """The verdict, its reason in one sentence, and the evidence."""

    verdict: str
    reason: str
    evidence: dict[str, Any]


def reach_verdict(
    request: Request,
    release: str,
    health_path: str,
    settings: GateSettings,
    *,
    read_process: ReadProcess,
    read_reference: Callable[[], Any] = lambda: None,
    request_old: Request | None = None,
    front: FrontTraffic | None = None,
    is_ended: Callable[[], bool] = lambda: False,
    report_progress: Callable[[Mapping[str, Any]], None] = lambda _: None,
    clock: Callable[[], float] | None = None,
    sleep: Callable[[float], None] | None = None,
) -> GateVerdict:
    """Sample the instance until it was healthy long enough, proved itself bad, or the deadline has passed.

    With signals, both instances are sent as many more probes as their traffic lacks samples, so that quiet hours of a
    service do not decide; a healthy window with too few samples is inconclusive. A signal that may be worse and is not
    proven so neither passes nor fails: probes go on, and at the deadline it is inconclusive. What proves it worse, the
    module `checks` says.

    A release that gets users' requests is measured until it has had `user_samples` of them or the
    deadline is there, unless hardly any would come by then. A pass with fewer says so.

    The sample that is under way at the deadline is completed; that takes a few times `RESPONSE_TIMEOUT_SECONDS`.

    Args:
        request: sends one request to the instance.
        release: the release that must respond.
        read_process: reads which process the instance is.
        read_reference: reads the health of the confirmed release, for the evidence.
        request_old: sends one request to the confirmed release; None when there is none to compare with. One that does
            not respond is no longer compared with: it must not block its successor.
        front: what the front counts of both releases; None without signals of it.
        is_ended: whether the promotion was reverted meanwhile: a stopped instance then proves nothing.
        report_progress: receives the figures after each sample; does not affect the verdict.
        clock, sleep: monotonic seconds, and waiting; by default those of the machine.

    Returns:
        `pass`: healthy, with good probes, for `healthy_seconds` in a row.
        `fail`: it reported so itself, answered a probe wrongly, responds as another release, its process died, or a
            signal is proven worse: a rate at once, a quantile of times when it still is at the deadline.
        `error`: at the deadline it did not respond, or its promotion was reverted before it could fail, or its metrics
            could not be read.
        `inconclusive`: at the deadline it was healthy, but not long enough in a row, with too few samples, or a signal
            may be worse.
    """
    clock, sleep = clock or time.monotonic, sleep or time.sleep
    measured = Measurements(has_signals=bool(settings.signals or front))
    probes = cycle(settings.probes) if settings.probes else iter(())
    before = read_reference()
    began = clock()
    deadline = began + settings.deadline
    side_by_side = SideBySide(request, request_old, settings, clock, front) if settings.signals or front else None
    request_probe = None if front is None else front.request
    try:
        while (started := clock()) < deadline:
            take_sample(request, release, health_path, probes, measured, clock, read_process, request_probe)
            if side_by_side is not None and not measured.is_silent:
                # a healthy window must hold at least half of the samples that the interval would give
                side_by_side.measure(release, measured, probes, min(started + 2 * settings.interval, deadline))
            measured.add_to_series(clock() - began)
            report_progress(measured.progress(clock() - began, settings))
            is_awaited = are_users_awaited(settings, measured.user_requests, clock() - began)
            if _has_passed(settings, measured) and not is_awaited:
                verdict, reason = "pass", _describe_pass(release, settings, measured)
                break
            sleep(max(0.0, min(started + settings.interval, deadline) - clock()))
        else:
            if side_by_side is not None:
                measured.comparisons = side_by_side.checks.check_last(measured.comparisons)
            verdict, reason = _decide_at_deadline(release, settings, measured)
    except GateFailedError as error:
        verdict, reason = "fail", str(error)
    if verdict == "fail" and is_ended():
        verdict, reason = "error", "The promotion was reverted while the gate ran."
    return GateVerdict(
        verdict, reason, measured.evidence({"before": before, "after": read_reference()} if before else None)
    )


def _has_passed(settings: GateSettings, measured: Measurements) -> bool:
    return (
        measured.streak_seconds >= settings.healthy_seconds
        and measured.streak_samples >= settings.required_samples
        and _are_signals_good(settings, measured)
    )


def _are_signals_good(settings: GateSettings, measured: Measurements) -> bool:
    """Whether every signal has enough samples and none may be worse. Without measurements, none is good."""
    if not settings.signals and not settings.front_signals:
        return True
    return (
        measured.metrics_problem is None
        and measured.latency_problem is None
        and bool(measured.comparisons)
        and not any(one.missing_samples or one.is_over for one in measured.comparisons)
    )


def are_users_awaited(settings: GateSettings, requests: int | None, elapsed: float) -> bool:
    """Whether more requests of users are needed and will come.

    Args:
        requests: that the new release has got in `elapsed` seconds; None without signals of the front.
    """
    if not requests or requests >= settings.user_samples:
        return False
    return requests / elapsed * settings.deadline >= WORTH_WAITING * settings.user_samples


def _describe_pass(release: str, settings: GateSettings, measured: Measurements) -> str:
    streak = f"{measured.streak_seconds:.1f} s in a row, {measured.streak_samples} samples"
    if measured.user_requests is None or measured.user_requests >= settings.user_samples:
        return f"{release} was healthy for {streak}."
    return (
        f"{release} was healthy for {streak}, with {measured.user_requests} requests of users: fewer than "
        f"{settings.user_samples}, so what only users meet is left to the watch."
    )


def _decide_at_deadline(release: str, settings: GateSettings, measured: Measurements) -> tuple[str, str]:
    within = f"within {settings.deadline:g} s"
    if _has_passed(settings, measured):
        return "pass", _describe_pass(release, settings, measured)
    if measured.is_silent:
        return "error", f"{release} could not be measured {within}: {measured.last_problem}."
    if not measured.longest_seconds and measured.last_problem:
        return "fail", f"{release} was never healthy {within}: {measured.last_problem}."
    if measured.metrics_problem is not None:
        return "error", f"{release} could not be measured {within}: {measured.metrics_problem}."
    if worse := [one for one in measured.comparisons if one.is_proven and _is_known(one, measured)]:
        return "fail", f"{worse[0].sentence(release)}, {within}."
    if measured.latency_problem is not None:
        return "inconclusive", f"The latency of {release} is not known {within}: {measured.latency_problem}."
    if incomplete := [one for one in measured.comparisons if one.missing_samples]:
        return "inconclusive", _describe_missing(release, within, measured, incomplete[0])
    if unclear := [one for one in measured.comparisons if one.is_over]:
        return "inconclusive", f"{unclear[0].sentence(release)}, {within}: that may be worse, and is not proven."
    return (
        "inconclusive",
        f"{release} was healthy for {measured.longest_seconds:.1f} s in a row {within}, with {measured.samples} "
        f"samples; {settings.healthy_seconds:g} s and {settings.required_samples} samples in a row are required.",
    )


def _is_known(one: Comparison, measured: Measurements) -> bool:
    """Whether nothing is missing of what was counted: of the front's latency, lines may be lost."""
    is_logged = one.source != "service" and one.signal.may_recover
    return not is_logged or measured.latency_problem is None


def _describe_missing(release: str, within: str, measured: Measurements, one: Comparison) -> str:
    loss = "" if measured.last_loss is None else f" Latency was counted again from zero: {measured.last_loss}."
    if one.joint_samples is not None:
        return (
            f"{release} has too few samples for its {one.signal.name} {within}: {one.joint_samples} of users and "
            f"probes together; {one.signal.samples} are required.{loss}"
        )
    before = "" if one.old is None else f", and {one.old.samples} of the previous release"
    return (
        f"{release} has too few samples for its {one.signal.name} {within}: {one.new.samples}{before}; "
        f"{one.signal.samples} are required."
    )
