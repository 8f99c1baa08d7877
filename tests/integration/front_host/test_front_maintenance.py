"""Maintenance on a host whose front is real: the command at the console, the module, a release, kills."""

from __future__ import annotations

import http.client
import importlib
import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mobius.dhash.plugins.module_utils.front_signals import parse_front_signal
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probes import health_probe
from ansible_collections.mobius.dhash.plugins.module_utils.gate.run import run_gate
from ansible_collections.mobius.dhash.plugins.module_utils.gate.settings import GateSettings
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.maintenance_mode import plan_maintenance

from tests.clients import client_load
from tests.integration.front.conftest import wait_until
from tests.opened import opened_for

from .conftest import SERVICE, A, B, Killed

ERROR_SHARE = parse_front_signal(
    {"name": "error share", "quantile": None, "times": 1, "floor": 1, "limit": 0.05, "limit_alone": 0.05, "samples": 20}
)


def get(fronted: Any, path: str = "/") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", fronted.port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def test_the_command_begins_and_ends_it_and_the_status_shows_it(
    fronted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fronted.command("maintenance", "on", "--check") == 0
    assert (capsys.readouterr().out, get(fronted)) == (
        "  write the journal\n  give clients the page of maintenance\n"
        f"{SERVICE}: clients get the page of maintenance.\n",
        200,
    )
    assert fronted.command("maintenance", "on", "--reason", "moving") == 0
    assert fronted.command("maintenance", "on") == 0
    assert capsys.readouterr().out.endswith(f"{SERVICE}: clients get the page of maintenance already.\n")
    assert (get(fronted), get(fronted, "/healthz")) == (503, 200)
    fronted.command("status")
    shown = capsys.readouterr().out
    assert "maintained since 2" in shown
    assert ": moving; clients get 503\n" in shown
    fronted.kill_front()
    assert get(fronted) == 503
    assert fronted.command("maintenance", "off") == 0
    assert capsys.readouterr().out == f"{SERVICE}: clients are served.\n"
    assert fronted.answers() == {A}


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("kill_at", [0, 1])
def test_a_command_that_is_killed_leaves_a_host_that_the_next_one_brings_there(
    fronted: Any, kill_at: int, is_on: bool
) -> None:
    if not is_on:
        fronted.command("maintenance", "on")
    executor = fronted.executor(kill_at)
    with pytest.raises(Killed):
        executor.run(lambda observed: plan_maintenance(observed, is_on, executor.actor))
    assert get(fronted) == (200 if is_on else 503)
    assert fronted.command("maintenance", "on" if is_on else "off") == 0
    assert get(fronted) == (503 if is_on else 200)
    assert fronted.command("verify") in (0, 2)
    assert "maintenance" not in " ".join(str(line) for line in fronted.executor().observe().unjournaled)


def test_without_an_activation_record_the_page_can_be_given_all_the_same(fronted: Any) -> None:
    fronted.host.activation_path.write_text("{")
    fronted.host.activation_copy_path.write_text("{")
    assert fronted.command("maintenance", "on") == 0
    assert get(fronted) == 503
    assert fronted.command("maintenance", "off") == 0
    assert get(fronted) == 200


@pytest.mark.slow
def test_a_release_during_a_maintenance_is_judged_by_probes_and_no_page_counts_against_it(fronted: Any) -> None:
    """Clients reach no instance, so users' figures are absent; probes enter by their own socket."""
    fronted.start_receiver()
    fronted.command("maintenance", "on")
    settings = GateSettings(
        healthy_seconds=1.0,
        deadline=20.0,
        interval=0.05,
        probes=[health_probe("/")],
        front_signals=[ERROR_SHARE],
        user_samples=20,
    )
    with client_load(fronted.port) as load:
        fronted.promote(B, "canary", deadline=1e9)
        verdict, _ = run_gate(fronted.host, B, settings, systemd=fronted.systemd)
        assert verdict.verdict == "pass", verdict.reason
        assert "with 0 requests of users: fewer than 20" in verdict.reason
        fronted.promote(B, "confirmed", deadline=1e9)
        assert set(load.statuses) == {503}
        fronted.command("maintenance", "off")
        wait_until(lambda: load.answers[B] > 20, "clients get the new release")
    assert load.failures == []
    assert load.answers[A] == 0


def run_module(fronted: Any, capsys: pytest.CaptureFixture[str], *, check: bool = False, **arguments: Any) -> Any:
    """The module as Ansible runs it, on a host with the installed command."""
    results = []
    for name, more in (
        ("host_tool", {"command": str(fronted.host.command), "lib_dir": str(fronted.root / "lib")}),
        ("maintenance", {"service": SERVICE, "run": "r1", "_ansible_check_mode": check, **arguments}),
    ):
        module = importlib.import_module(f"ansible_collections.mobius.dhash.plugins.modules.{name}")
        shared = {"config_dir": str(fronted.config_dir), **opened_for(name, fronted.root)}
        capsys.readouterr()
        with patch_module_args({**shared, **more}), pytest.raises(SystemExit):
            module.main()
        results.append(json.loads(capsys.readouterr().out))
    return results[-1]


def test_the_module_predicts_what_it_does_and_is_idempotent(fronted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for enabled in (True, False):
        predicted = run_module(fronted, capsys, check=True, enabled=enabled, reason="moving")
        assert get(fronted) == (200 if enabled else 503)
        done = run_module(fronted, capsys, enabled=enabled, reason="moving")
        again = run_module(fronted, capsys, enabled=enabled, reason="moving")
        assert (predicted["changed"], done["changed"], again["changed"]) == (True, True, False)
        assert predicted["diff"] == done["diff"]
        assert done["diff"]["after"]["maintenance"] is enabled
        assert (done["service"], done["enabled"], done["reason"]) == (SERVICE, enabled, "moving")
        assert get(fronted) == (503 if enabled else 200)
