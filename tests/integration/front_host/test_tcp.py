"""A service that speaks TCP and no HTTP, behind a real HAProxy."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback

from tests.integration.front.conftest import wait_until

from .conftest import RELEASES, A, B

LINE_SERVER = Path(__file__).with_name("line_server.py")


class Session:
    """One connection of a client."""

    def __init__(self, machine: Any) -> None:
        self.channel = socket.create_connection(("127.0.0.1", machine.port), timeout=30)
        self.lines = self.channel.makefile("rb")

    def ask(self) -> str:
        """The release that answers a line; empty when the connection was ended."""
        self.channel.sendall(b"hello\n")
        release, _, line = self.lines.readline().partition(b" ")
        assert line in (b"hello\n", b"")
        return release.decode()

    def close(self) -> None:
        self.lines.close()
        self.channel.close()


@pytest.fixture
def make_lines(make_fronted: Callable[..., Any]) -> Callable[..., Any]:
    """Makes hosts on which the first release of the line server serves."""

    def make(**settings: Any) -> Any:
        machine = make_fronted(kind="tcp", **settings)
        machine.programs = dict.fromkeys(RELEASES, (LINE_SERVER,))
        machine.promote(A)
        machine.systemd.end_command()
        return machine

    return make


@contextlib.contextmanager
def clients(machine: Any) -> Iterator[list[str]]:
    """Clients that connect, send one line and leave; yields who answered, which somebody always has to."""
    releases: list[str] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            session = Session(machine)
            releases.append(session.ask())
            session.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield releases
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_no_connection_fails_through_a_promotion_and_a_rollback(make_lines: Callable[..., Any]) -> None:
    machine = make_lines()
    with clients(machine) as releases:
        machine.promote(B, "canary", share=50)
        wait_until(lambda: B in releases, "the canary has its share")
        machine.promote(B)
        machine.executor().run(lambda observed: plan_rollback(observed, None, machine.executor().actor))
        wait_until(lambda: set(releases[-8:]) == {A}, "the first release serves again")
    assert set(releases) == {A, B}


def test_a_session_goes_on_until_its_instance_is_stopped(make_lines: Callable[..., Any]) -> None:
    machine = make_lines()
    session = Session(machine)
    assert session.ask() == A
    machine.promote(B)
    assert session.ask() == A, "the previous release is warm"
    another = Session(machine)
    assert another.ask() == B
    stopping = threading.Thread(target=machine.systemd.stop, args=(machine.host.unit(A),))
    stopping.start()
    assert session.ask() == A, "it drains"
    session.close()
    stopping.join()
    assert another.ask() == B
    another.close()


def test_connections_wait_while_no_instance_runs(make_lines: Callable[..., Any]) -> None:
    machine = make_lines(overlap=False)
    with clients(machine) as releases:
        machine.promote(B)
        machine.systemd.end_command()
        wait_until(lambda: B in releases, "those that waited are answered")
    assert set(releases) == {A, B}
