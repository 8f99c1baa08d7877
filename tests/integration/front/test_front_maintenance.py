"""Maintenance by `mobius-host` on a folder, before a real HAProxy: clients get the page, and nobody else notices."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.configuration import READY, ServerState
from ansible_collections.mobius.dhash.plugins.module_utils.host.maintenance import (
    Maintenance,
    maintenance_path,
    read_maintenance,
    write_maintenance,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor, HostPlan
from ansible_collections.mobius.dhash.plugins.module_utils.host.status import status
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import Systemd, Unit
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.maintenance_mode import plan_maintenance

from tests.clients import client_load
from tests.integration.front.conftest import WAIT_SECONDS, Front, kill, send, wait_until

A = "1.0.0-0123456789ab"


class FrontUnit(Systemd):
    """A systemd with the unit of one front, which runs as far as its HAProxy does."""

    def __init__(self, front: Front) -> None:
        self.front = front

    def units(self, *patterns: str) -> dict[str, Unit]:
        name = "shop-front.service"
        active = "active" if self.front.start_count else "inactive"
        return {name: Unit(name, active, "", "", "")} if name in patterns else {}

    def restart(self, unit: str) -> None:
        raise AssertionError(f"{unit} was started again")


@dataclass
class MaintainedHost:
    """A host in a folder, whose front is real."""

    front: Front
    folder: Path
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        names = ("root", "state_dir", "config_dir", "backup_dir", "log_dir", "units_dir", "cache_dir")
        folders = {name: self.folder / name for name in names}
        for path in folders.values():
            path.mkdir()
        settings = self.front.settings
        content = {
            "schema": 1,
            "service": "shop",
            "kind": "http",
            "user": "nobody",
            "health_path": settings.health_path,
            "start_timeout": 5,
            "drain_deadline": 1,
            "run_dir": str(settings.run_dir),
            **{name: str(path) for name, path in folders.items()},
            "front": {
                "port": settings.port,
                "first_port": settings.first_port,
                "internal_port": settings.internal_port,
                "maintenance_page": settings.maintenance_page,
            },
        }
        (self.folder / "shop.json").write_text(json.dumps(content))
        self.host = Host.load("shop", self.folder)
        self.front.is_maintenance = lambda: read_maintenance(self.host) is not None

    def executor(self, reason: str | None = None) -> Executor:
        return Executor(self.host, Actor("ada", "r1", reason), systemd=FrontUnit(self.front))

    def maintain(self, is_on: bool, reason: str | None = None, *, check: bool = False) -> HostPlan:
        executor = self.executor(reason)
        return executor.run(lambda observed: plan_maintenance(observed, is_on, executor.actor), check=check)

    def journal(self) -> list[dict[str, Any]]:
        path = self.host.journal_path
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def serving(front: Front, folder: Path) -> MaintainedHost:
    slot = front.add_instance(A)
    front.states = {slot.number: ServerState(READY)}
    host = MaintainedHost(front, folder)
    front.start()
    return host


@pytest.fixture
def maintained(front: Front, tmp_path: Path) -> MaintainedHost:
    """A host that serves one release, and is in service."""
    return serving(front, tmp_path)


def test_clients_get_the_page_and_health_and_probes_go_on(maintained: MaintainedHost) -> None:
    front = maintained.front
    assert maintained.maintain(True).changed
    for path in ("/", "/any?query", "/healthz/", "/healthzz"):
        refused = front.get(path)
        assert (refused.status, refused.headers["retry-after"]) == (503, "60")
        assert refused.headers["content-type"] == "text/html; charset=utf-8"
        assert refused.headers["cache-control"] == "no-store"
        assert b"This service is being maintained." in refused.body
    assert front.get(method="POST", body=b"x" * 1000).status == 503
    assert front.get("/healthz").content["release"] == A
    assert front.get("/healthz?full").content["release"] == A
    assert front.probe("/any", X_Mobius_Slot="1").content["release"] == A
    assert front.get_internal("/slots/1/health").content["release"] == A
    assert front.get_internal("/metrics").status == 200
    assert maintained.maintain(False).changed
    assert front.get().content["release"] == A


def test_no_connection_is_dropped_and_haproxy_is_not_started_again(maintained: MaintainedHost) -> None:
    front = maintained.front
    worker = front.worker()
    with client_load(front.port, kept=3, single=2) as load:
        for is_on in (True, False) * 3:
            maintained.maintain(is_on)
            status_code = 503 if is_on else 200
            count = load.statuses[status_code]
            wait_until(lambda code=status_code, count=count: load.statuses[code] > count + 20, "clients go on")  # type: ignore[misc]
    assert load.failures == []
    assert set(load.statuses) == {200, 503}
    assert (front.worker(), front.start_count) == (worker, 1)


def test_the_second_time_nothing_is_changed(maintained: MaintainedHost) -> None:
    assert not maintained.maintain(False).changed
    assert maintained.maintain(True, "moving").changed
    again = maintained.maintain(True, "another reason")
    assert (again.changed, again.note) == (False, "clients get the page of maintenance")
    assert [line["event"] for line in maintained.journal()] == ["maintenance_on"]


def test_check_mode_shows_what_the_run_does_and_changes_nothing(maintained: MaintainedHost) -> None:
    for is_on in (True, False):
        predicted = maintained.maintain(is_on, check=True)
        assert maintained.front.get().status == (200 if is_on else 503)
        assert len(maintained.journal()) == (0 if is_on else 1)
        done = maintained.maintain(is_on)
        assert [str(action) for action in predicted.actions] == [str(action) for action in done.actions]
        assert predicted.result()["diff"] == done.result()["diff"]
        assert done.after.view() == maintained.executor().observe().view()


def test_the_journal_and_the_status_say_who_and_why(maintained: MaintainedHost) -> None:
    assert status(maintained.executor())["maintenance"] is None
    maintained.maintain(True, "moving the\nlibrary")
    shown = status(maintained.executor())["maintenance"]
    assert (shown["actor"], shown["reason"], shown["run"]) == ("ada", "moving the library", "r1")
    maintained.maintain(False)
    lines = maintained.journal()
    assert [(line["event"], line["actor"], line["run"]) for line in lines] == [
        ("maintenance_on", "ada", "r1"),
        ("maintenance_off", "ada", "r1"),
    ]
    assert lines[0]["at"] == shown["since"]


@pytest.mark.parametrize("victim", ["worker", "master"])
def test_a_front_that_was_killed_comes_back_with_the_page(maintained: MaintainedHost, victim: str) -> None:
    front = maintained.front
    maintained.maintain(True)
    assert front.master is not None
    kill(front.worker() if victim == "worker" else front.master.pid)
    front.wait_until_started(2)
    assert front.get().status == 503
    maintained.maintain(False)
    assert front.get().status == 200


def test_a_front_that_does_not_run_obeys_when_it_starts(front: Front, tmp_path: Path) -> None:
    host = MaintainedHost(front, tmp_path)
    host.maintain(True)
    slot = front.add_instance(A)
    front.states = {slot.number: ServerState(READY)}
    front.start()
    assert front.get().status == 503


@pytest.mark.parametrize("is_on", [True, False])
def test_a_command_that_was_killed_before_the_front_obeyed_is_finished_by_the_next(
    maintained: MaintainedHost, is_on: bool
) -> None:
    if is_on:
        write_maintenance(maintained.host, Maintenance("2026-01-01", "ada"))
    else:
        maintained.maintain(True)
        maintenance_path(maintained.host).unlink()
    plan = maintained.maintain(is_on)
    assert [str(action) for action in plan.actions] == ["let the front obey the state of maintenance"]
    assert maintained.front.get().status == (503 if is_on else 200)
    assert not maintained.maintain(is_on).changed


@pytest.mark.parametrize("damage", ["folder", "bytes", "object"])
def test_a_damaged_file_is_a_maintenance_all_the_same_and_can_be_ended(maintained: MaintainedHost, damage: str) -> None:
    path = maintenance_path(maintained.host)
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\xff" if damage == "bytes" else b'{"schema": 1}')
    maintained.maintain(True)
    assert maintained.front.get().status == 503
    assert "is damaged" in status(maintained.executor())["maintenance"]["reason"]
    maintained.maintain(False)
    assert maintained.front.get().status == 200
    assert status(maintained.executor())["maintenance"] is None


def test_a_page_of_ones_own_of_the_longest_size_reaches_clients_byte_for_byte(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    page = "<p>Wir sind gleich zurück: \"%[src]\" $HOME \\n 'x' #</p>\n"
    page += "x" * (8000 - len(page.encode()))
    host = serving(make_front(maintenance_page=page), tmp_path)
    host.maintain(True)
    assert host.front.get().body == page.encode()
    connection = http.client.HTTPConnection("127.0.0.1", host.front.port, timeout=WAIT_SECONDS)
    assert [send(connection, "GET", "/").status for _ in range(3)] == [503] * 3
    connection.close()
