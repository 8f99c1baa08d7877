# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`python -m mobius.service`: run one instance until it gets SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any, TextIO

from loguru import logger
from prometheus_client import CollectorRegistry, disable_created_metrics

from mobius import logs
from mobius.errors import ExitCode, MobiusError
from mobius.service import app
from mobius.service.instance import STUCK_SECONDS, Instance
from mobius.service.listening import Acceptor, ConnectionTimeouts, Endpoint
from mobius.service.metrics import Metrics
from mobius.service.settings import ServiceSettings
from mobius.service.systemd import SystemdNotifier


def main() -> int:
    """Run the service with the settings of the environment, as systemd starts it. Returns the exit code."""
    try:
        return run(os.environ)
    except MobiusError as error:
        # the one line in the journal that says why the unit failed
        print(f"mobius.service: {error.reason} {error.do_next}", file=sys.stderr)
        return int(error.code)


def run(
    environment: Mapping[str, str], log: TextIO | None = None, ready: Callable[[str, int], None] | None = None
) -> int:
    """Run the service until it gets SIGTERM or SIGINT. Returns the exit code.

    Args:
        environment: with the `MOBIUS_` variables.
        log: where the logs go in development; standard output by default.
        ready: called with address and port once the service accepts connections.

    Raises:
        MobiusError: it could not start. The error is logged too, once logs are configured.
    """
    settings = ServiceSettings.from_environment(environment)
    logs.configure(
        resource={
            "service.name": settings.service,
            "service.version": settings.version,
            "service.instance.id": settings.release_id,
            "deployment.environment.name": settings.environment,
        },
        file=settings.log_file if settings.environment == "production" else None,
        stream=log,
        level=settings.log_level,
    )
    try:
        return _run(settings, _bind(*settings.address), ready)
    except MobiusError as error:
        logger.critical("{}", error.reason)
        raise


def _run(settings: ServiceSettings, listener: socket.socket, ready: Callable[[str, int], None] | None) -> int:
    # A single picture can cause thousands of Pillow warnings, and Python keeps each of them, to show it only once.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # it warns of what clients send; each such request has a line of ours
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    notifier = SystemdNotifier(os.environ)
    instance = Instance(settings, Metrics(CollectorRegistry(auto_describe=True), settings))
    try:
        asyncio.run(_live(instance, listener, notifier, ready))
    except MobiusError:
        raise
    except Exception as error:  # noqa: BLE001 (logged with its trace; the journal gets one sentence)
        logger.opt(exception=error).critical("Unexpected exception: the service ends")
        print(f"mobius.service: Unexpected exception, the service ends: {error!r}.", file=sys.stderr)
        return int(ExitCode.PROCESSING)
    if instance.close():
        logger.warning("A picture or the index is still being worked on at the end; that work is abandoned")
        logger.complete()
        os._exit(0)  # the interpreter would wait for that thread, past the deadline
    return int(ExitCode.SUCCESS)


def _bind(host: str, port: int) -> socket.socket:
    """The socket that listens on the address.

    Raises:
        MobiusError: environment_failed; the instance must not start without it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as on_failure:
            listener = on_failure.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
            on_failure.pop_all()
    except OSError as error:
        raise MobiusError("environment_failed", f"Listening on {host}:{port} failed: {error.strerror}.") from error
    listener.setblocking(False)
    return listener


async def _live(
    instance: Instance,
    listener: socket.socket,
    notifier: SystemdNotifier,
    ready: Callable[[str, int], None] | None,
) -> None:
    settings = instance.settings
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_loop_error)
    stop_requested = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_requested.set)

    headers = [("X-Release-Id", settings.release_id), ("X-Content-Type-Options", "nosniff")]
    timeouts = ConnectionTimeouts(settings.head_timeout, settings.body_timeout, settings.idle_timeout)
    endpoint = Endpoint(
        app.build(instance), timeouts=timeouts, max_connections=settings.max_connections, headers=headers
    )
    ticking = loop.create_task(_tick(instance, endpoint, notifier))
    try:
        await instance.warm_up()
        # what is loaded by now stays loaded, so later garbage collections, which stop every request, can skip it
        gc.collect()
        gc.freeze()
        instance.accept(Acceptor(listener, endpoint))
        logger.info("Ready: {} starts {}", settings.release_id, instance.state)
        notifier.send(f"READY=1\nSTATUS={instance.state}")
        if ready is not None:
            ready(*listener.getsockname()[:2])

        stopping = loop.create_task(stop_requested.wait())
        await asyncio.wait({stopping, ticking}, return_when=asyncio.FIRST_COMPLETED)
        if ticking.done():
            ticking.result()
        logger.info("Stop requested")
        notifier.send("STOPPING=1\nSTATUS=draining")
        await instance.stop()
        endpoint.close_all()
        await asyncio.sleep(0)  # lets the transports close
    finally:
        ticking.cancel()
        listener.close()
    logger.info("Stopped")


async def _tick(instance: Instance, endpoint: Endpoint, notifier: SystemdNotifier) -> None:
    """At least once a second: set the Date header, read the state file, measure the loop's lag and ping the watchdog.

    The ping stops when the event loop hangs (it comes from there), and when all threads hang.
    """
    loop = asyncio.get_running_loop()
    interval = min(1.0, notifier.watchdog_seconds / 3) if notifier.watchdog_seconds else 1.0
    state = instance.state
    stuck_since: float | None = None
    while True:
        endpoint.set_date(formatdate(usegmt=True).encode())
        stuck_since = (stuck_since or loop.time()) if instance.stuck else None
        if notifier.watchdog_seconds and (stuck_since is None or loop.time() - stuck_since < STUCK_SECONDS):
            notifier.send("WATCHDOG=1")
        instance.follow_state()
        instance.decoders.expire_waiting()
        instance.index.lanes.expire_waiting()
        if instance.state != state:
            state = instance.state
            notifier.send(f"STATUS={state}")
        due = loop.time() + interval
        await asyncio.sleep(interval)
        instance.loop_lag = max(0.0, loop.time() - due)


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # noqa: ARG001
    logger.opt(exception=context.get("exception")).error("Exception in the event loop: {}", context["message"])


if __name__ == "__main__":
    sys.exit(main())
