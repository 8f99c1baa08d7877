"""The smoke test of a host: a real HAProxy, instance and requests; systemd is a fake."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probes import Probe
from ansible_collections.mobius.dhash.plugins.module_utils.gate.smoke import Check, check_host, run_own_test

from tests.integration.front.test_front_requests import make_certificate
from tests.integration.front_host.conftest import A, FrontedMachine

PROBE = Probe("the front page", "GET", "/", None, None, 200, None)


def check(machine: FrontedMachine, probes: Sequence[Probe] = (PROBE,)) -> dict[str, Check]:
    traffic = machine.host.traffic_unit
    if traffic not in machine.systemd.processes:  # what runs in it has tests of its own
        machine.systemd.processes[traffic] = subprocess.Popen(["sleep", "600"])
    return {one.name: one for one in check_host(machine.host, A, probes, 2.0, machine.systemd)}


@pytest.fixture
def certificate() -> Iterator[Path]:
    """A certificate that HAProxy's user can read."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "front.pem"
        make_certificate(path, "shop")
        path.chmod(0o644)
        yield path


def failed(checks: dict[str, Check]) -> list[str]:
    return [name for name, one in checks.items() if not one.ok]


@pytest.mark.parametrize(
    "front", [{}, {"accept_proxy": True}, {"allowed": ["192.0.2.0/24"]}], ids=["plain", "PROXY", "not allowed"]
)
def test_a_sound_host_passes_as_its_front_is_configured(
    make_fronted: Callable[..., FrontedMachine], front: dict[str, Any]
) -> None:
    machine = make_fronted(front=front)
    machine.promote(A)
    checks = check(machine)
    assert failed(checks) == []
    assert f"{machine.host.front.address}:{machine.port} answers the health path" in checks
    assert "the probe 'the front page' is answered through the front" in checks


def test_the_certificate_that_clients_get_is_compared_with_the_file(
    make_fronted: Callable[..., FrontedMachine], certificate: Path
) -> None:
    machine = make_fronted(front={"accept_proxy": True, "certificate": str(certificate)})
    machine.promote(A)
    assert failed(check(machine)) == []
    make_certificate(certificate, "another")
    certificate.chmod(0o644)
    assert failed(check(machine)) == ["clients get the certificate of the file"]


def test_each_thing_that_is_wrong_is_named(fronted: FrontedMachine) -> None:
    checks = check(fronted, [PROBE, Probe("another page", "GET", "/", None, None, 418, None)])
    assert failed(checks) == ["the probe 'another page' is answered through the front"]
    assert "418" in checks["the probe 'another page' is answered through the front"].seen

    fronted.systemd.end(fronted.host.front_unit, signal.SIGKILL)
    wrong = failed(check(fronted))
    assert f"the unit {fronted.host.front_unit} is active" in wrong
    assert "the instance is healthy" not in wrong

    fronted.systemd.start(fronted.host.front_unit, 5.0)
    fronted.systemd.end(fronted.host.unit(A), signal.SIGKILL)
    wrong = failed(check(fronted))
    assert "the instance is healthy" in wrong
    assert f"0.0.0.0:{fronted.port} serves clients" in wrong


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("", [(True, "exit code 0: no output")]),
        ("print('nothing to do'); print()", [(True, "exit code 0: nothing to do")]),
        ("import sys; sys.exit('the cart is empty')", [(False, "exit code 1: the cart is empty")]),
        ('print(\'{"checks": [{"topic": "a", "name": "b", "ok": false, "seen": "c"}]}\')', [(False, "c")]),
        ("print('[' * 100_000)", [(True, f"exit code 0: {'[' * 300}")]),
    ],
    ids=["silent", "a sentence", "fails", "a report", "no report"],
)
def test_the_test_of_a_release_is_judged_by_its_report_or_its_exit_code(
    fronted: FrontedMachine, program: str, expected: list[tuple[bool, str]]
) -> None:
    checks = run_own_test(fronted.host, A, [sys.executable, "-c", program], systemd=fronted.systemd)
    assert [(one.ok, one.seen) for one in checks] == expected


def test_the_test_of_a_release_knows_process_and_slot_and_runs_in_its_tree(fronted: FrontedMachine) -> None:
    program = "import os, sys; print(os.getcwd(), *sys.argv[1:])"
    words = [sys.executable, "-c", program, "{pid}", "{front}", "{slot}"]
    [one] = run_own_test(fronted.host, A, words, systemd=fronted.systemd)
    pid = fronted.systemd.processes[fronted.host.unit(A)].pid
    tree = Path(fronted.host.release_dir(A)) / "tree"
    assert one.seen == f"exit code 0: {tree} {pid} {fronted.host.front.probes_socket} 1"


def test_a_test_that_does_not_end_or_cannot_be_started_has_failed(fronted: FrontedMachine) -> None:
    slow = [sys.executable, "-c", "import time; time.sleep(600)"]
    [one] = run_own_test(fronted.host, A, slow, timeout=0.5, systemd=fronted.systemd)
    assert (one.ok, one.seen) == (False, "it had not ended after 0.5 s")
    [one] = run_own_test(fronted.host, A, ["bin/none"], systemd=fronted.systemd)
    assert not one.ok
    assert one.seen.startswith("it cannot be started")
