"""The gate on a real host: users' requests from HAProxy and the receiver as they run under systemd, probes by their socket."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.machine import CHECKOUT


def signals() -> list[dict[str, Any]]:
    """The role's own, with the lab's samples."""
    defaults = yaml.safe_load((CHECKOUT / "roles/promote/defaults/main.yml").read_text(encoding="utf-8"))
    return [{**one, "samples": 300} for one in defaults["promote_front_signals"]]


def test_a_canary_is_judged_by_users_requests_and_by_probes_each_by_themselves(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0", "canary")
    with machine.load(kept=8, single=1, pause=0.02) as load:
        result = machine.module(
            "gate",
            release=machine.releases["1.1.0"],
            healthy_seconds=3,
            deadline=120,
            front_signals=signals(),
            user_samples=30,
        )
    assert load.failures == []
    assert result["verdict"] == "pass", json.dumps(result)
    figures = {one["name"]: one for one in result["evidence"]["values"]["signals"]}
    users, probes = figures["users' error share"], figures["probes' error share"]
    assert 30 <= users["new_samples"] < users["old_samples"], "it gets a tenth of the requests"
    assert (users["new_events"], users["old_events"], probes["new_events"]) == (0, 0, 0)
    assert probes["new_samples"] > 0
    assert figures["users' p95 response time in seconds"]["new_samples"] > 0
    assert figures["probes' p95 response time in seconds"]["new_samples"] > 0
    assert result["evidence"]["values"]["latency_losses"] == 0
    machine.module("promotion", release=machine.releases["1.1.0"], state="reverted", run="test")
