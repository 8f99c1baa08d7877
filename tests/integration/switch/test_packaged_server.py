"""A server that nobody here wrote, beside another service on the same host: gunicorn, as Debian packages it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.machine import Machine

from .conftest import GUNICORN_PORT

VARIABLES = {
    "host_exec": "gunicorn --workers 2 --bind {address} books:application",
    "host_health_path": "/",
    "host_port": GUNICORN_PORT,
    "host_front_first_port": 19000,
    "host_start_timeout": 20,
    "host_drain_deadline": 5,
    "host_watch_seconds": 0,
}
APPLICATION = """
def application(environ, start_response):
    body = b"{version}\\n"
    start_response("200 OK", [("Content-Length", str(len(body))), ("X-Release-Id", "{version}")])
    return [body]
"""


def stage(machine: Machine, version: str) -> None:
    tree: Path = machine.root / "trees" / f"books-{version}"
    tree.mkdir(parents=True)
    (tree / "books.py").write_text(APPLICATION.replace("{version}", version))
    machine.stage(version, tree)


@pytest.fixture(scope="module")
def books(provisioned: Machine) -> Iterator[Machine]:
    """The host of the stand-in, with gunicorn's package and a second service."""
    machine = Machine(provisioned.root, "books", VARIABLES)
    machine.shell("apt-get install --yes gunicorn")
    done = machine.playbook("provision")
    assert done.returncode == 0, done.stdout
    for version in ("1.0.0", "1.1.0"):
        stage(machine, version)
    yield machine
    done = machine.playbook("decommission", "-e", "mobius_decommission=books")
    assert done.returncode == 0, done.stdout
    # the other service needs it
    machine.shell("test -x /usr/sbin/haproxy -a -e /etc/mobius-host/stand-in.json -a ! -e /etc/mobius-host/books.json")


@pytest.mark.soak
def test_gunicorn_is_released_upgraded_and_rolled_back_without_a_failed_request(books: Any) -> None:
    books.promote("1.0.0")
    with books.load(kept=32, single=2, pause=0.02) as load:
        books.promote("1.1.0", "canary")
        books.until(lambda: load.answers["1.1.0"] > 20)
        books.promote("1.1.0")
        books.until(lambda: books.answer() == "1.1.0")
        books.host("rollback")
        assert books.answer() == "1.0.0"
    assert load.failures == []
    assert set(load.statuses) == {200}, load.statuses
    books.host("verify")
