# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The stand-in for HAProxy of the unit tests answers as a real HAProxy does, from the same configuration."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.configuration import (
    DRAIN,
    MAINT,
    READY,
    ServerState,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.runtime import Runtime

from tests.fake_front import FakeHAProxy
from tests.integration.front.conftest import Front, UnixHttp, send

A, B, C = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0"))
VARYING = {"srv_time_since_last_change", "lastchg", "pid", "iid", "smax"}  # by time and process
CHECKS = {"srv_check_health", "srv_check_state"}  # of health checks, of which the front has none
COMMANDS: list[Callable[[Runtime, Front], Any]] = [
    lambda runtime, front: runtime.set_state(3, MAINT),
    lambda runtime, front: runtime.name_release(front.settings, front.slots.choose(C)),
    lambda runtime, front: runtime.set_state(3, READY),
    lambda runtime, front: runtime.set_weight(2, 10),
    lambda runtime, front: runtime.set_weight(1, 90),
    lambda runtime, front: runtime.set_state(2, READY),
    lambda runtime, front: runtime.resume(),
    lambda runtime, front: runtime.set_state(1, DRAIN),
    lambda runtime, front: runtime.set_weight(1, 100),
    lambda runtime, front: runtime.pause([2, 3]),
    lambda runtime, front: runtime.set_state(1, MAINT),
    lambda runtime, front: runtime.set_state(4, DRAIN),
    lambda runtime, front: runtime.set_state(4, READY),
    lambda runtime, front: runtime.resume(),
    lambda runtime, front: runtime.set_state(1, READY),
]
REFUSED = [
    "set server service/slot9 state ready",
    "set server nothing/slot1 state ready",
    "set server service/slot1 state up",
    "set server service/slot1 weight 257",
    "set map /nothing slot1 x",
    "set map {map} slot9 x",
    "show map /nothing",
    "show stat nothing -1 -1",
    "show servers state nothing",
]


@pytest.fixture
def fakes() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def start_both(front: Front, fakes: contextlib.ExitStack, tmp_path: Path) -> tuple[Runtime, Runtime, FakeHAProxy]:
    """A real HAProxy and the stand-in, of the same configuration."""
    front.start()
    fake = FakeHAProxy(front.settings.configuration_path, tmp_path / "runtime.sock", tmp_path / "probes.sock")
    fakes.callback(fake.close)
    return front.runtime, Runtime(tmp_path / "runtime.sock"), fake


def answer(runtime: Runtime, do: Callable[[Runtime], Any]) -> Any:
    """What a command returns, or why it was refused."""
    try:
        return do(runtime)
    except MobiusError as error:
        return error.reason


def rows(runtime: Runtime, command: str, separator: str, skip: int) -> list[dict[str, str]]:
    """The table of an answer, with the columns that both have and that are the same for two processes."""
    lines = runtime.send(command).splitlines()[skip:]
    assert lines[0].startswith("# ")
    head, *values = csv.reader(io.StringIO("\n".join(lines)[2:]), delimiter=separator)
    return [
        {name: value for name, value in zip(head, row, strict=True) if name not in VARYING | CHECKS}
        for row in values
        if row
    ]


def require_same(real: Runtime, fake: Runtime, releases: Path) -> None:
    assert fake.server_states() == real.server_states()
    for command, separator, skip in (
        ("show servers state service", " ", 1),
        ("show stat service -1 -1", ",", 0),
        ("show stat public -1 -1", ",", 0),
    ):
        expected = {row.get("svname", row.get("srv_name", "")): row for row in rows(real, command, separator, skip)}
        for row in rows(fake, command, separator, skip):
            name = row.get("svname", row.get("srv_name", ""))
            # the stand-in leaves out texts that nothing reads, and never gives another value than HAProxy
            shown = {column: value for column, value in row.items() if value}
            assert shown == {column: expected[name][column] for column in shown}, (command, name)
    command = f"show map {releases}"
    maps = [[line.split()[1:] for line in runtime.send(command).splitlines()] for runtime in (fake, real)]
    assert maps[0] == maps[1] != []
    for read in (
        lambda runtime: [runtime.figures(slot) for slot in range(1, 5)],
        lambda runtime: runtime.public_figures(),
        lambda runtime: type(runtime.info()),
    ):
        assert read(fake) == read(real)


@pytest.mark.parametrize("is_paused", [False, True])
def test_every_command_has_the_same_effect(
    front: Front, fakes: contextlib.ExitStack, tmp_path: Path, is_paused: bool
) -> None:
    front.slots.assign(A)
    front.slots.assign(B)
    front.states = {1: ServerState(READY, 90), 2: ServerState(DRAIN)}
    front.is_paused = is_paused
    real, fake, _ = start_both(front, fakes, tmp_path)
    require_same(real, fake, front.settings.releases_path)
    for command in COMMANDS:
        assert answer(fake, lambda one: command(one, front)) == answer(real, lambda one: command(one, front))  # noqa: B023
        require_same(real, fake, front.settings.releases_path)


def test_what_is_refused_is_refused_with_the_same_words(
    front: Front, fakes: contextlib.ExitStack, tmp_path: Path
) -> None:
    real, fake, _ = start_both(front, fakes, tmp_path)
    for command in REFUSED:
        text = command.format(map=front.settings.releases_path)
        assert fake.send(text) == real.send(text) != "", text
    require_same(real, fake, front.settings.releases_path)


def test_a_process_says_of_itself_what_a_real_one_does(
    front: Front, fakes: contextlib.ExitStack, tmp_path: Path
) -> None:
    real, fake, _ = start_both(front, fakes, tmp_path)
    names = [[line.partition(": ")[0] for line in runtime.send("show info").splitlines()] for runtime in (fake, real)]
    assert set(names[0]) <= set(names[1])
    assert (fake.info().dropped_logs, fake.info().connections) == (0, 0)
    assert fake.info().pid != real.info().pid


def test_a_probe_reaches_the_same_instance_in_the_same_way(
    front: Front, fakes: contextlib.ExitStack, tmp_path: Path
) -> None:
    slot = front.add_instance(A)
    front.states = {slot.number: ServerState(READY)}
    start_both(front, fakes, tmp_path)
    for headers in ({"X_Mobius_Slot": "1"}, {"X_Mobius_Slot": "2"}, {"X_Mobius_Slot": "5"}, {}):
        responses = []
        for path in (front.settings.probes_socket, tmp_path / "probes.sock"):
            connection = UnixHttp(path)
            # without an instance, HAProxy answers before it has the body
            body = b"x" * 100_000 if headers.get("X_Mobius_Slot") == "1" else None
            responses.append(send(connection, "POST", "/some?where=1", body, **headers))
            connection.close()
        real, fake = responses
        assert fake.status == real.status, headers
        if real.status == 200:
            fields = ("release", "path", "method", "size", "headers")
            assert {name: fake.content.get(name) for name in fields} == {
                name: real.content.get(name) for name in fields
            }
