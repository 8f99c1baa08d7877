# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an instance makes of the file with its state."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import prometheus_client
import pytest

from mobius.service import app
from mobius.service.instance import Instance
from mobius.service.listening import Acceptor, ConnectionTimeouts, Endpoint
from mobius.service.metrics import Metrics
from mobius.service.settings import ServiceSettings
from mobius.service.state_file import read_state


@pytest.mark.parametrize("state", ["standby", "serving", "draining"])
def test_a_state_is_read(state: str, tmp_path: Path) -> None:
    (tmp_path / "state").write_text(f"{state}\n")
    assert read_state(tmp_path / "state") == (state, "")


def test_an_instance_without_a_state_file_serves() -> None:
    assert read_state(None) == ("serving", "")


@pytest.mark.parametrize("content", [None, b"", b"Serving", b"serving standby", b"\xff", "folder"])
def test_an_instance_that_cannot_read_its_state_stands_by_and_says_why(
    content: bytes | str | None, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    state, problem = read_state(path)
    assert state == "standby"
    assert problem.startswith(f"The state file {path} ") and problem.endswith(".")


def test_an_instance_serves_only_once_it_accepts_connections(tmp_path: Path) -> None:
    """Its state file may say so from its start: the release serves, and its process is started again."""
    (tmp_path / "state").write_text("serving\n")
    settings = ServiceSettings(state_file=tmp_path / "state")

    async def start() -> list[str]:
        instance = Instance(settings, Metrics(prometheus_client.CollectorRegistry(), settings))
        timeouts = ConnectionTimeouts(settings.head_timeout, settings.body_timeout, settings.idle_timeout)
        endpoint = Endpoint(app.build(instance), timeouts=timeouts, max_connections=1, headers=[])
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            instance.follow_state()
            states = [instance.state]
            acceptor = Acceptor(listener, endpoint)
            instance.accept(acceptor)
            acceptor.close()
        return [*states, instance.state]

    assert asyncio.run(start()) == ["standby", "serving"]
