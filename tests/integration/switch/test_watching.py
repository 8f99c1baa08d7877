"""Releases that break after they were confirmed: the host sees it by itself and goes back, under load, in seconds.

The thresholds are as short as the tests need; the names of the metrics are the stand-in's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

SIGNALS = [
    {
        "name": "failure rate",
        "part": [{"metric": "failures_total"}],
        "whole": [{"metric": "answers_total"}],
        "floor": 1,
        "limit": 0.03,
        "samples": 20,
        "lasting": 4,
    },
    {
        "name": "p95 answer time",
        "histogram": [{"metric": "answer_seconds_bucket"}],
        "times": 1.5,
        "floor": 0.12,
        "samples": 20,
        "lasting": 4,
    },
]
WATCH = {
    "host_watch_interval": 0.5,
    "host_watch_unhealthy_seconds": 2,
    "host_metrics_path": "/counts",
    "host_watch_signals": SIGNALS,
    # what the front counts is a trigger of its own: tests/integration/front_host/test_front_traffic.py
    "host_watch_front_signals": [],
    "host_watch_memory": {"metric": "memory_bytes", "bytes_per_hour": 100_000_000, "seconds": 4, "warm_up": 1},
}
PATIENCE = 60.0  # seconds; on an idle machine a host is back within 15


def watching(machine: Any, seconds: int) -> None:
    variables = json.dumps({**WATCH, "host_watch_seconds": seconds})
    done = machine.playbook("provision", "--tags", "host_install", "-e", variables)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def watched(machine: Any) -> Iterator[Any]:
    """The host with a window of ten minutes and short thresholds."""
    watching(machine, 600)
    yield machine
    machine.playbook("provision", "--tags", "host_install")


def baseline(machine: Any, version: str) -> None:
    """What a gate would have kept: the release before answered quickly."""
    samples = {"old_samples": 600, "new_samples": 600}
    signals = [
        {"name": "failure rate", "old": 0.0, "new": 0.0, **samples},
        {"name": "p95 answer time", "old": 0.095, "new": 0.095, "old_above": {"0.1": 0}, **samples},
    ]
    kept = json.dumps({"schema": 1, "verdict": "pass", "evidence": {"values": {"signals": signals}}})
    path = f"/opt/stand-in/gates/20260101T000000Z-{machine.releases[version]}.json"
    machine.shell(f"mkdir -p /opt/stand-in/gates && cat > {path} <<'END'\n{kept}\nEND")


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("3.0.0", "was unhealthy for 2 s"),
        ("3.1.0", "had a failure rate of"),
        ("3.2.0", "had a p95 answer time of"),
        ("3.3.0", "grew by"),
    ],
    ids=["unhealthy", "one request in twenty", "slow", "leak"],
)
def test_a_release_that_breaks_after_its_promotion_is_rolled_back_with_its_reason(
    watched: Any, version: str, why: str
) -> None:
    watched.serve_from("1.0.0")
    baseline(watched, version)
    bad = watched.releases[version]
    with watched.load() as load:
        watched.promote(version)
        watched.until(lambda: watched.status()["confirmed"] == watched.releases["1.0.0"], PATIENCE)
        watched.until(lambda: watched.states() == {"1.0.0": "serving"}, PATIENCE)
        assert watched.answer() == watched.releases["1.0.0"]
    assert load.failures == []
    assert load.answers[bad] > 0
    found = {item["release"]: item for item in watched.status()["releases"]}[bad]
    assert found["bad"] and f"{bad} {why}" in found["reason"]
    line = watched.journal()[-1]
    assert (line["event"], line["actor"], line["from"]) == ("rollback", "watch", bad)
    assert why in watched.shell("journalctl --boot --unit stand-in-watch --output cat").stdout


def test_a_good_release_is_never_rolled_back_and_the_previous_one_stops_at_the_end(watched: Any) -> None:
    watched.serve_from("1.0.0")
    watching(watched, 12)
    baseline(watched, "1.1.0")
    with watched.load() as load:
        watched.promote("1.1.0")
        assert watched.states() == {"1.0.0": "standby", "1.1.0": "serving"}
        # what the window has to survive
        watched.shell("systemctl daemon-reload; systemctl kill --signal=KILL stand-in-watch; systemctl daemon-reexec")
        watched.until(lambda: watched.status()["watch"] is None, PATIENCE)
        watched.until(lambda: watched.states() == {"1.1.0": "serving"})
    assert load.failures == []
    watched.until(lambda: watched.shell("systemctl is-active stand-in-watch", check=False).stdout == "inactive\n")
    watched.host("rollback")
    assert watched.answer() == watched.releases["1.0.0"], "it is started again to be gone back to"
    watching(watched, 600)


@pytest.mark.soak
def test_the_same_good_release_is_never_rolled_back(watched: Any) -> None:
    watching(watched, 8)
    with watched.load() as load:
        for _ in range(20):
            watched.serve_from("1.0.0")
            watched.promote("1.1.0")
            watched.until(lambda: watched.status()["watch"] is None, PATIENCE)
            assert watched.status()["confirmed"] == watched.releases["1.1.0"]
    assert load.failures == []
