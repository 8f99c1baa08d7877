# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The process that answers 503 while the data is exchanged, on a real socket that it is handed as systemd does."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.host import unavailable

PROGRAM = (
    f"from {unavailable.__name__} import serve; from pathlib import Path; import sys; serve(Path(sys.argv[1]), None)"
)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield listening


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "activation.lock"


def begin(listener: socket.socket, lock: Path) -> subprocess.Popen[bytes]:
    """Start it as systemd does: the socket is descriptor 3, and its own process id is in its environment."""
    return subprocess.Popen(
        ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", sys.executable, "-c", PROGRAM, str(lock)],
        env={**os.environ, "LISTEN_FDS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: os.dup2(listener.fileno(), 3),
        close_fds=False,
    )


def ask(listener: socket.socket, method: str = "GET", body: bytes | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(*listener.getsockname(), timeout=20)
    connection.request(method, "/v1/hash", body=body)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_it_answers_503_for_as_long_as_the_lock_is_held(listener, lock):
    with durable.locked(lock):
        process = begin(listener, lock)
        answers = [ask(listener), ask(listener, "POST", b"x" * 3_000_000)]
        assert process.poll() is None
    assert process.wait(20) == 0
    assert [answer.status for answer in answers] == [503, 503]
    assert {answer.headers["Retry-After"] for answer in answers} == {"5"}
    assert {answer.headers["Connection"] for answer in answers} == {"close"}


def test_a_client_that_says_nothing_keeps_nobody_else_waiting(listener, lock):
    with durable.locked(lock):
        process = begin(listener, lock)
        silent = [socket.create_connection(listener.getsockname()) for _ in range(20)]
        assert ask(listener).status == 503
    assert process.wait(30) == 0
    for client in silent:
        client.close()


def test_after_the_signal_new_clients_wait_for_the_release(listener, lock):
    with durable.locked(lock), contextlib.ExitStack() as held:
        process = begin(listener, lock)
        assert ask(listener).status == 503
        process.send_signal(signal.SIGUSR1)
        answered = True
        while answered:  # one that was about to be taken is answered still
            waiting = held.enter_context(socket.create_connection(listener.getsockname()))
            waiting.settimeout(1)
            waiting.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(TimeoutError):
                assert b"503" in waiting.recv(100)
                continue
            answered = False
        assert process.poll() is None, "it waits for the lock all the same"
        listener.settimeout(5)
        taken, _ = listener.accept()
        taken.close()
    assert process.wait(20) == 0


def test_without_a_socket_it_fails_with_a_sentence(lock):
    lock.touch()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(lock)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert "handed over no socket" in done.stderr
