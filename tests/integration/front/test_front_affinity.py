"""A client stays with its release while a canary runs, by a real HAProxy, and moves when one release serves alone."""

from __future__ import annotations

import http.client
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.configuration import READY, ServerState

from tests.clients import client_load
from tests.integration.front.conftest import WAIT_SECONDS, Front, kill, send, wait_until

A, B = "1.0.0-0123456789ab", "1.1.0-0123456789ab"
CLIENTS = 300
KINDS = pytest.mark.parametrize("affinity", ["cookie", "source"])


class Client:
    """A client that keeps its cookie, and always has the same address of 127.0.0.0/8."""

    def __init__(self, front: Front, number: int) -> None:
        self.front = front
        self.address = f"127.1.{number // 250}.{number % 250 + 1}"
        self.cookie = ""
        self.received: list[str] = []  # the cookies of responses

    def get(self) -> str:
        """One request by a connection of its own; returns the release that answered."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.front.port, timeout=WAIT_SECONDS, source_address=(self.address, 0)
        )
        response = send(connection, "GET", "/", **({"Cookie": self.cookie} if self.cookie else {}))
        connection.close()
        assert response.status == 200
        if "set-cookie" in response.headers:
            self.received.append(response.headers["set-cookie"])
            self.cookie = response.headers["set-cookie"].partition(";")[0]
        return str(response.content["release"])


def get_again(clients: list[Client]) -> list[str]:
    """One more request of each, in another order: a server that is only next in turn would be another one."""
    shuffled = clients.copy()
    random.Random(1).shuffle(shuffled)
    answers = {client.address: client.get() for client in shuffled}
    return [answers[client.address] for client in clients]


def with_canary(front: Front, percent: int = 10) -> Front:
    for release in (A, B):
        front.add_instance(release)
    front.states = {1: ServerState(READY, 100 - percent), 2: ServerState(READY, percent)}
    front.start()
    return front


@KINDS
def test_a_client_stays_with_its_release_and_the_share_is_one_of_clients(
    make_front: Callable[..., Front], affinity: str
) -> None:
    front = with_canary(make_front(affinity=affinity), 20)
    clients = [Client(front, number) for number in range(CLIENTS)]
    first = [client.get() for client in clients]
    assert get_again(clients) == first
    assert CLIENTS * 0.1 < Counter(first)[B] < CLIENTS * 0.3
    assert {len(client.received) for client in clients} == {1 if affinity == "cookie" else 0}


@KINDS
def test_clients_move_when_one_release_serves_alone_and_the_cookie_is_not_asked_for(
    make_front: Callable[..., Front], affinity: str
) -> None:
    front = with_canary(make_front(affinity=affinity), 50)
    clients = [Client(front, number) for number in range(20)]
    first = [client.get() for client in clients]
    assert set(first) == {A, B}
    for alone in (B, A):
        front.serve_alone(alone)
        assert {client.get() for client in clients} == {alone}
        newcomer = Client(front, 100)
        assert (newcomer.get(), newcomer.received) == (alone, [])
    front.share(A, B, 50)
    assert get_again(clients) == first, "the same clients come to the next canary of these slots"


@KINDS
def test_a_front_that_was_killed_in_the_middle_of_a_canary_leaves_clients_where_they_were(
    make_front: Callable[..., Front], affinity: str
) -> None:
    front = with_canary(make_front(affinity=affinity), 50)
    clients = [Client(front, number) for number in range(20)]
    first = [client.get() for client in clients]
    assert front.master is not None
    kill(front.master.pid)
    front.wait_until_started(2)
    assert get_again(clients) == first


def test_the_cookie_is_the_fronts_own_and_the_instance_sees_what_it_is_balanced_by(
    make_front: Callable[..., Front],
) -> None:
    front = with_canary(make_front(affinity="cookie"), 50)
    response = front.get(X_Mobius_Client="forged")
    name, _, rest = response.headers["set-cookie"].partition("=")
    value, *attributes = rest.split("; ")
    assert (name, attributes) == ("mobius_client", ["Path=/", "HttpOnly", "SameSite=Lax"])
    assert response.content["headers"]["x-mobius-client"] == value
    for cookie in ("mobius_client=", f"mobius_client={'x' * 5000}", "mobius_client=a b; mobius_client=c", "x=y"):
        assert front.get(Cookie=cookie).status == 200
    assert "set-cookie" in front.get(Cookie="mobius_client=").headers
    front.serve_alone(A)
    assert "x-mobius-client" not in front.get(X_Mobius_Client="forged").content["headers"]


@KINDS
def test_clients_of_a_canary_that_ends_get_the_other_release(make_front: Callable[..., Front], affinity: str) -> None:
    """Their connections are refused, so they were no requests yet."""
    front = with_canary(make_front(affinity=affinity, pause=10), 50)
    clients = [Client(front, number) for number in range(12)]
    assert {client.get() for client in clients} == {A, B}
    front.instances[B].send_signal(signal.SIGKILL)
    front.instances[B].wait()
    assert {client.get() for client in clients} == {A}


@KINDS
def test_requests_wait_during_a_pause(make_front: Callable[..., Front], affinity: str) -> None:
    front = with_canary(make_front(affinity=affinity, pause=20), 50)
    clients = [Client(front, number) for number in range(8)]
    front.runtime.pause([1, 2])
    got: list[str] = []
    threads = [threading.Thread(target=lambda one=client: got.append(one.get())) for client in clients]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(front.runtime.send("show sess").splitlines()) >= len(clients), "all clients wait")
    front.apply({2: ServerState(READY)})
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert got == [B] * len(clients)


@pytest.mark.slow
@KINDS
def test_no_request_fails_while_canaries_come_and_go(make_front: Callable[..., Front], affinity: str) -> None:
    front = with_canary(make_front(affinity=affinity), 10)
    with client_load(front.port, kept=3, single=2) as load:
        for _ in range(3):
            for serving, canary in ((A, B), (B, A)):
                front.share(serving, canary, 10)
                count = sum(load.answers.values())
                wait_until(lambda count=count: sum(load.answers.values()) > count + 30, "clients go on")  # type: ignore[misc]
                front.serve_alone(canary)
                count = load.answers[canary]
                wait_until(lambda count=count, one=canary: load.answers[one] > count + 30, "it serves alone")  # type: ignore[misc]
    assert load.failures == []
    assert set(load.statuses) == {200}
