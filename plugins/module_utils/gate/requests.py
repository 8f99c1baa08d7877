# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Requests to one instance, each with a time limit for its whole response."""

from __future__ import annotations

import contextlib
import http.client
import signal
from collections.abc import Callable, Iterator, Mapping

from ..errors import MobiusError
from ..host.config import Host
from ..host.front.configuration import SLOT_HEADER
from ..host.instance import find_slot, request_instance, send_request

# (method, path, body, content type, time-out in seconds) -> (status, headers, body), as host.instance.request_instance
Request = Callable[[str, str, "bytes | None", "str | None", float], "tuple[int, Mapping[str, str], bytes]"]

NO_RESPONSE_ERRORS = (OSError, http.client.HTTPException)  # raised by a request without a whole response
NO_PROCESS_ERRORS = (FileNotFoundError, ConnectionRefusedError)  # of these: there is no process behind the socket
RESPONSE_TIMEOUT_SECONDS = 2.0  # of one request of the gate; a health check that takes longer is useless


class NotRunningError(MobiusError):
    """No process accepts requests to the release's instance."""

    def __init__(self, release: str) -> None:
        super().__init__("instance_failed", f"The instance of {release} is not running: it accepts no connection.")


def instance_requests(host: Host, release: str) -> Request:
    """The function that sends requests to the instance of a release."""

    def request(
        method: str, path: str, body: bytes | None, content_type: str | None, timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        with _time_limit(timeout):
            return request_instance(host, release, method, path, body, content_type, timeout)

    return request


def probe_requests(host: Host, release: str) -> Request:
    """The function that sends probes to the instance of a release: through the front's entrance for probes, where they
    are counted apart from users' requests."""

    def request(
        method: str, path: str, body: bytes | None, content_type: str | None, timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        slot = find_slot(host, release)
        if slot is None:
            raise ConnectionRefusedError(f"{release} holds no slot, so it does not run")
        with _time_limit(timeout):
            try:
                return send_request(
                    host.front.probes_socket,
                    method,
                    path,
                    body,
                    {"Content-Type": content_type, SLOT_HEADER: str(slot.number)},
                    timeout,
                )
            except NO_PROCESS_ERRORS as error:
                # of HAProxy, which is being started again: that says nothing about the instance
                raise ConnectionError(f"the front accepts no probe ({error})") from None

    return request


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Limit the time of a whole response; the time-out of a socket limits only each part of it."""

    def raise_timeout(*_: object) -> None:
        raise TimeoutError(f"no whole response within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, raise_timeout)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
