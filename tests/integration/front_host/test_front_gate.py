"""Gate and watch of a service that reports nothing of itself: its health by status code, its process by systemd."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.gate.run import run_gate
from ansible_collections.mobius.dhash.plugins.module_utils.gate.settings import GateSettings
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import MonitoringWindow, read_activation
from ansible_collections.mobius.dhash.plugins.module_utils.host.triggers import WatchSettings
from ansible_collections.mobius.dhash.plugins.module_utils.host.watch import watch_window

from .conftest import A, B

SETTINGS = GateSettings(healthy_seconds=0.4, deadline=5.0, interval=0.05)


def test_a_health_that_is_no_report_passes_by_its_status_code(fronted: Any) -> None:
    fronted.promote(B, "canary", deadline=1e9)
    verdict, _ = run_gate(fronted.host, B, SETTINGS, systemd=fronted.systemd)
    assert verdict.verdict == "pass", verdict.reason
    assert verdict.evidence["values"]["pid"] == fronted.systemd.processes[fronted.host.unit(B)].pid
    assert verdict.evidence["values"]["reference"]["after"]["http"] == 200


def test_a_health_path_that_answers_with_an_error_does_not_pass(fronted: Any) -> None:
    fronted.promote(B, "canary", deadline=1e9)
    unhealthy = fronted.host.__class__(**{**vars(fronted.host), "health_path": "/fail"})
    settings = GateSettings(healthy_seconds=0.2, deadline=0.5, interval=0.05)
    verdict, _ = run_gate(unhealthy, B, settings, systemd=fronted.systemd)
    assert (verdict.verdict, "500" in verdict.reason) == ("fail", True), verdict


def test_an_instance_that_is_started_again_while_the_gate_runs_is_refused(fronted: Any) -> None:
    fronted.promote(B, "canary", deadline=1e9)
    settings = GateSettings(healthy_seconds=20, deadline=30.0, interval=0.05)
    timer = threading.Timer(0.3, lambda: fronted.systemd.kill(fronted.host.unit(B)))
    timer.start()
    verdict, _ = run_gate(fronted.host, B, settings, systemd=fronted.systemd)
    timer.join()
    assert verdict.verdict == "fail", verdict.reason
    assert "The process of" in verdict.reason


def test_a_release_that_is_started_again_too_often_is_rolled_back_by_the_watch(fronted: Any) -> None:
    fronted.promote(B)
    executor = fronted.executor()
    executor.clock, executor.sleep = time.monotonic, lambda _: fronted.systemd.kill(fronted.host.unit(B))
    token = read_activation(fronted.host).token
    window = MonitoringWindow(B, A, time.monotonic(), time.monotonic() + 60, "this boot", token)
    with pytest.raises(MobiusError, match="was restarted 3 times") as caught:
        watch_window(executor, window, WatchSettings(seconds=60, interval=0.1, restarts=3), is_persistent=False)
    assert caught.value.outcome == "rolled_back"
    assert fronted.answers() == {A}
