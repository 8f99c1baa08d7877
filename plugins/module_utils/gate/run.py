# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a gate on this host: against the pending promotion and the confirmed release, with its evidence kept."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import durable
from ..host.config import Host
from ..host.front.figures import FrontFigures, read_recorded
from ..host.front.settings import HTTP, WORKER
from ..host.fronted import Front
from ..host.instance import find_slot
from ..host.revision import health_path_of
from ..host.state import Pending, read_activation, read_pending
from ..host.systemd import Systemd
from .front_traffic import FrontTraffic
from .probes import health_probe
from .requests import NO_RESPONSE_ERRORS, instance_requests, probe_requests
from .settings import GateSettings
from .verdict import GateVerdict, reach_verdict

KEPT_EVIDENCE_FILES = 20  # the newest ones of a service that stay on its host
REFERENCE_TIMEOUT_SECONDS = 1.0
SWITCH_SECONDS = 3.0  # after a switch without overlap, until the requests that waited for it are in the log


def run_gate(
    host: Host,
    release: str,
    settings: GateSettings,
    *,
    run: str | None = None,
    progress_file: str | None = None,
    systemd: Systemd | None = None,
) -> tuple[GateVerdict, Path]:
    """Reach a verdict on a release, again after an `error` while attempts remain; the last verdict counts.

    Returns:
        the verdict, and the file in which the host keeps its evidence.

    Raises:
        MobiusError: `state_damaged`.
        OSError: the evidence could not be written.
    """
    systemd = systemd or Systemd()
    confirmed, pending = read_activation(host).confirmed, read_pending(host)
    promotion = pending if pending is not None and pending.release == release else None
    health_path = health_path_of(host, release)
    # without overlap, the release before does not run
    reference = confirmed if host.overlap and confirmed not in (None, release) else None
    began = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def is_ended() -> bool:
        return promotion is not None and is_reverted(host, promotion, time.monotonic())

    if host.front.kind != HTTP:  # a connection has no status and no time of a response
        settings = dataclasses.replace(settings, front_signals=())
    if host.front.kind == WORKER:  # it has no address
        settings = dataclasses.replace(settings, probes=(), signals=())
    if settings.front_signals and not settings.probes:
        settings = dataclasses.replace(settings, probes=[health_probe(health_path)])
    for remaining in reversed(range(settings.attempts)):
        verdict = reach_verdict(
            instance_requests(host, release),
            release,
            health_path,
            settings,
            read_process=lambda: read_unit_process(host, release, systemd),
            read_reference=lambda: None if reference is None else _read_reference(host, reference),
            request_old=None if reference is None else instance_requests(host, reference),
            front=_front_traffic(host, release, reference, settings),
            is_ended=is_ended,
            report_progress=lambda figures: _write_progress(progress_file, figures),
        )
        path = keep_evidence(host, release, verdict, run, began)
        if verdict.verdict != "error" or not remaining or is_ended():
            break
    return verdict, path


def _front_traffic(host: Host, release: str, reference: str | None, settings: GateSettings) -> FrontTraffic | None:
    """What the front counts of both releases; None without signals of it."""
    if not settings.front_signals:
        return None
    slots = {name: slot.number for name in (release, reference) if name and (slot := find_slot(host, name))}
    reference = reference if reference in slots else None
    front = Front(host)
    recorded = None
    if not host.overlap:
        time.sleep(SWITCH_SECONDS)
        before = read_activation(host).confirmed
        recorded = read_recorded(host.traffic_page, before) if before not in (None, release) else None
    return FrontTraffic(
        FrontFigures(front.runtime, host.traffic_page, slots),
        release,
        reference,
        probe_requests(host, release),
        None if reference is None else probe_requests(host, reference),
        settings.front_signals,
        health_path_of(host, release),
        recorded,
    )


def read_unit_process(host: Host, release: str, systemd: Systemd) -> dict[str, Any]:
    """The process of an instance, as systemd has it: each restart gives another one."""
    unit = host.unit(release)
    shown = systemd.units(unit).get(unit)
    return {"pid": None if shown is None else shown.main_pid, "state": None if shown is None else shown.active}


def is_reverted(host: Host, promotion: Pending, now: float) -> bool:
    """Whether a promotion has ended without a confirmation since it was read.

    A revert makes the promotion overdue before it stops the instance, so an instance that was stopped for that reason
    never counts as one that died.

    Args:
        now: seconds of CLOCK_MONOTONIC.

    Raises:
        MobiusError: `state_damaged`.
    """
    pending = read_pending(host)
    expected = (promotion.release, promotion.token, promotion.activated)
    if pending is None or (pending.release, pending.token, pending.activated) != expected:
        return read_activation(host).confirmed != promotion.release
    return now >= pending.deadline


def _read_reference(host: Host, release: str) -> dict[str, Any]:
    """The health of the confirmed release; that it does not respond is recorded, but not held against the new one."""
    try:
        request = instance_requests(host, release)
        status, _, body = request("GET", health_path_of(host, release), None, None, REFERENCE_TIMEOUT_SECONDS)
        health = json.loads(body) if body.startswith(b"{") else None
    except (*NO_RESPONSE_ERRORS, ValueError) as error:
        return {"release": release, "status": None, "error": f"{type(error).__name__}: {error}"}
    return {"release": release, "http": status, "status": health.get("status") if isinstance(health, dict) else None}


def _write_progress(path: str | None, figures: Mapping[str, Any]) -> None:
    """Write the figures where the account that Ansible logs in with can read them."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            json.dump(figures, file)
        os.replace(f"{path}.new", path)


def keep_evidence(host: Host, release: str, verdict: GateVerdict, run: str | None, began: str) -> Path:
    """Write a verdict with its evidence beside the releases, as `gates/<began>-<release>.json`.

    Args:
        began: when the gate began, RFC 3339 in UTC.

    Raises:
        OSError: it could not be written.
    """
    folder = host.gates_dir
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
            "verdict": verdict.verdict,
            "reason": verdict.reason,
            "evidence": verdict.evidence,
        },
    )
    for old in sorted(folder.glob("*.json"))[:-KEPT_EVIDENCE_FILES]:
        old.unlink()
    return path
