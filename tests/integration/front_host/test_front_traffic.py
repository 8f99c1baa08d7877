"""Real gates and a watch of a real HAProxy's traffic: builds that are bad for users only, and for no probe."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.front_signals import parse_front_signal
from ansible_collections.mobius.dhash.plugins.module_utils.gate.run import run_gate
from ansible_collections.mobius.dhash.plugins.module_utils.gate.settings import GateSettings
from ansible_collections.mobius.dhash.plugins.module_utils.gate.verdict import GateVerdict
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import MonitoringWindow, read_activation
from ansible_collections.mobius.dhash.plugins.module_utils.host.triggers import WatchSettings
from ansible_collections.mobius.dhash.plugins.module_utils.host.watch import watch_window

from .conftest import A, B

CHECKOUT = Path(__file__).resolve().parents[3]
PROGRAM = Path(__file__).with_name("public_server.py")
CLIENTS = 6
PAUSE_SECONDS = 0.01  # of a client, between two requests
pytestmark = pytest.mark.slow


def signals(samples: int) -> list[Any]:
    """The role's own."""
    defaults = yaml.safe_load((CHECKOUT / "roles/promote/defaults/main.yml").read_text(encoding="utf-8"))
    return [
        parse_front_signal({"times": 1.0, "floor": 0.0, **one, "samples": samples})
        for one in defaults["promote_front_signals"]
    ]


QUICK = GateSettings(
    healthy_seconds=2.0, deadline=6.0, interval=0.1, front_signals=signals(100), user_samples=60
)  # fmt: skip
# a good build passes as soon as no figure may be worse, which takes longer on a busy machine
PATIENT = dataclasses.replace(QUICK, deadline=60.0)
FULL = GateSettings(
    healthy_seconds=10.0, deadline=40.0, interval=0.5, front_signals=signals(600), user_samples=200
)  # fmt: skip


@contextlib.contextmanager
def users(port: int, clients: int = CLIENTS, pause: float = PAUSE_SECONDS) -> Iterator[None]:
    """Clients that send requests, each on a connection of its own, until the end."""
    ended = threading.Event()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not ended.wait(pause):
            connection.request("GET", "/basket")
            connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    yield
    ended.set()
    for thread in threads:
        thread.join()


def begin(machine: Any, mode: str) -> None:
    """A good build serves, and a canary in this mode gets half of the requests."""
    machine.programs = {A: (PROGRAM, "good"), B: (PROGRAM, mode)}
    machine.start_receiver()
    machine.promote(A)
    machine.promote(B, "canary", deadline=1e9, share=50)


def gate(machine: Any, settings: GateSettings = QUICK) -> GateVerdict:
    verdict, _ = run_gate(machine.host, B, settings, systemd=machine.systemd)
    return verdict


def counted(verdict: GateVerdict, name: str) -> dict[str, Any]:
    return next(one for one in verdict.evidence["values"]["signals"] if one["name"] == name)


@pytest.mark.parametrize(
    ("mode", "verdicts", "reason"),
    [
        ("good", {"pass"}, "was healthy"),
        ("failing", {"fail", "inconclusive"}, "users' error share"),
        ("slow", {"fail", "inconclusive"}, "users' p"),
    ],
)
def test_a_gate_refuses_what_is_bad_for_users_only(
    make_fronted: Any, mode: str, verdicts: set[str], reason: str
) -> None:
    machine = make_fronted()
    begin(machine, mode)
    with users(machine.port):
        verdict = gate(machine, PATIENT if mode == "good" else QUICK)
    assert verdict.verdict in verdicts, verdict.reason
    assert reason in verdict.reason
    of_probes = counted(verdict, "probes' error share")
    assert (of_probes["source"], of_probes["new_events"]) == ("probes", 0)
    assert counted(verdict, "users' error share")["new_samples"] == verdict.evidence["values"]["user_requests"] > 0
    assert (counted(verdict, "users' error share")["new_events"] > 0) == (mode == "failing")


@pytest.mark.soak
@pytest.mark.parametrize("repetition", range(3))
@pytest.mark.parametrize("mode", ["good", "failing", "slow"])
def test_full_gates_refuse_what_is_bad_for_users_only(make_fronted: Any, mode: str, repetition: int) -> None:
    machine = make_fronted()
    begin(machine, mode)
    with users(machine.port):
        verdict = gate(machine, FULL)
    assert verdict.verdict == {"good": "pass", "failing": "fail", "slow": "fail"}[mode], verdict.reason


def test_without_users_the_probes_of_a_first_install_decide(make_fronted: Any) -> None:
    machine = make_fronted()
    machine.programs = {B: (PROGRAM, "good")}
    machine.start_receiver()
    machine.promote(B, "canary", deadline=1e9)
    verdict = gate(machine, PATIENT)
    assert verdict.verdict == "pass", verdict.reason
    assert "with 0 requests of users: fewer than 60" in verdict.reason
    assert counted(verdict, "probes' p95 response time in seconds")["new_samples"] >= 100
    assert counted(verdict, "users' error share")["new_samples"] == 0


def test_a_receiver_that_does_not_run_makes_the_gate_inconclusive(make_fronted: Any) -> None:
    machine = make_fronted()
    begin(machine, "good")
    machine.receiver_stopped.set()
    with users(machine.port):
        verdict = gate(machine)
    assert verdict.verdict == "inconclusive", verdict.reason
    assert "The latency of" in verdict.reason or "too few samples" in verdict.reason


def test_the_watch_rolls_back_what_fails_for_users_only(make_fronted: Any) -> None:
    machine = make_fronted()
    begin(machine, "failing")
    machine.promote(B)
    executor = machine.executor()
    executor.clock, executor.sleep = time.monotonic, time.sleep
    window = MonitoringWindow(
        B, A, time.monotonic(), time.monotonic() + 60, "this boot", read_activation(machine.host).token
    )
    share = {"name": "error share", "floor": 1, "limit": 0.02, "samples": 20, "lasting": 2}
    described = {"seconds": 60, "interval": 0.2, "unhealthy_seconds": 10, "metrics_path": "/metrics"}
    settings = WatchSettings.parse({**described, "front_signals": [share]})
    with users(machine.port), pytest.raises(MobiusError, match="users' error share") as caught:
        watch_window(executor, window, settings, is_persistent=False)
    assert caught.value.outcome == "rolled_back"
    assert machine.answers() == {A}
