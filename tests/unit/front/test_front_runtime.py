"""The runtime socket with something behind it that is no HAProxy: every answer is bounded. HAProxy itself answers in
tests/integration/front."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.front import runtime
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.configuration import ServerState
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.runtime import Runtime

Answer = Callable[[socket.socket], object]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Answer], Runtime]]:
    """Answer each connection to a runtime socket by a function."""
    listener = socket.socket(socket.AF_UNIX)
    path = tmp_path / "runtime.sock"
    listener.bind(str(path))
    listener.listen()
    ended = threading.Event()

    def start(answer: Answer) -> Runtime:
        def work() -> None:
            while not ended.is_set():
                channel, _ = listener.accept()
                with channel:
                    channel.settimeout(5)
                    channel.recv(1000)
                    if not ended.is_set():
                        answer(channel)

        threads.append(threading.Thread(target=work, daemon=True))
        threads[0].start()
        return Runtime(path, timeout=0.3)

    threads: list[threading.Thread] = []
    yield start
    ended.set()
    for thread in threads:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(path))
            last.sendall(b"\n")
        thread.join(5)
    listener.close()


def text(answer: str) -> Answer:
    return lambda channel: channel.sendall(answer.encode())


def test_a_missing_or_deserted_socket_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Runtime(tmp_path / "runtime.sock").info()
    with socket.socket(socket.AF_UNIX) as deserted:
        deserted.bind(str(tmp_path / "runtime.sock"))
    with pytest.raises(ConnectionRefusedError):
        Runtime(tmp_path / "runtime.sock").info()


def test_silence_and_an_answer_byte_by_byte_end_in_time(serve: Callable[[Answer], Runtime]) -> None:
    ended = threading.Event()

    def drip(channel: socket.socket) -> None:
        while not ended.wait(0.05):
            try:
                channel.sendall(b"x")
            except OSError:
                return

    running = serve(drip)
    with pytest.raises(TimeoutError):
        running.info()
    ended.set()


def test_an_endless_answer_is_cut_off(serve: Callable[[Answer], Runtime], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "ANSWER_MAX_BYTES", 1000)
    with pytest.raises(ConnectionError, match="more than 1000 bytes"):
        serve(text("x" * 2000)).info()


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "nonsense",
        "# pxname,svname\nservice,slot1\n",
        "# pxname,svname,hrsp_1xx\nservice,slot1,-5\n",
        "# pxname,svname,hrsp_1xx\nservice,slot1,1e9\n",
        "# pxname\nservice\n",
        "# \n",
        "\x1b[31mred\n\x00",
    ],
)
def test_an_answer_of_another_shape_is_one_sentence(serve: Callable[[Answer], Runtime], answer: str) -> None:
    running = serve(text(answer))
    for read in (lambda: running.figures(1), running.server_states, running.info):
        with pytest.raises(MobiusError) as raised:
            read()
        assert raised.value.outcome == "environment_failed"
        assert raised.value.reason.isprintable()


@pytest.mark.parametrize("command", ["show info\nshutdown", "show info;shutdown", "show\x00info"])
def test_only_one_command_is_sent(tmp_path: Path, command: str) -> None:
    with pytest.raises(ValueError, match="is not one command"):
        Runtime(tmp_path / "none.sock").send(command)


def test_a_state_that_haproxy_does_not_have_is_never_sent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no state"):
        Runtime(tmp_path / "none.sock").set_state(1, "ready; shutdown")
    with pytest.raises(ValueError, match="is no state"):
        Runtime(tmp_path / "none.sock").set_weight(1, 300)


def test_a_server_that_was_configured_in_maintenance_can_be_ready(serve: Callable[[Answer], Runtime]) -> None:
    head = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight\n"
    rows = ("slot1 127.0.0.1 2 4 10", "slot2 127.0.0.1 0 5 100", "slot3 127.0.0.1 2 8 100", "slot4 127.0.0.1 2 0 0")
    answer = head + "".join(f"4 service {number} {row}\n" for number, row in enumerate(rows, start=1))
    assert serve(text(answer)).server_states() == {
        "slot1": ServerState("ready", 10),
        "slot2": ServerState("maint", 100),
        "slot3": ServerState("drain", 100),
        "slot4": ServerState("drain", 1),
    }
