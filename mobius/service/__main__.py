# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`python -m mobius.service`: start one instance and keep it alive until it is told to go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import stat
import sys
import warnings
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any, TextIO

from loguru import logger
from prometheus_client import CollectorRegistry, disable_created_metrics

from mobius import logs
from mobius.errors import ExitCode, MobiusError
from mobius.service import app
from mobius.service.instance import STUCK_SECONDS, Instance
from mobius.service.listening import Endpoint, Patience, PublicSocket
from mobius.service.metrics import Metrics
from mobius.service.settings import Settings
from mobius.service.systemd import Notifier, inherited_socket

ADMIN_MODE = 0o660


def main() -> int:
    """Run the service as systemd starts it: the environment says how. Returns the exit code."""
    try:
        return run(os.environ)
    except MobiusError as error:
        # the journal's one line, for whoever asks systemd why the unit failed
        print(f"mobius.service: {error.reason} {error.do_next}", file=sys.stderr)
        return int(error.code)


def run(
    environment: Mapping[str, str], log: TextIO | None = None, ready: Callable[[str, int], None] | None = None
) -> int:
    """Run the service until it is told to stop. Returns the exit code.

    Args:
        environment: with the `MOBIUS_` variables.
        log: where the logs go in development; standard output when not given.
        ready: called with address and port once the public socket is answered, if it is one of TCP.

    Raises:
        MobiusError: it could not start; logged as well, once there is a log.
    """
    settings = Settings.from_environment(environment)
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
        return _run(settings, _listener(settings), ready)
    except MobiusError as error:
        logger.critical("{}", error.reason)
        raise


def _run(settings: Settings, listener: socket.socket | None, ready: Callable[[str, int], None] | None) -> int:
    # What Pillow has to say of a picture is the client's affair: it can be thousands of lines for one, and Python keeps
    # each for ever, so as not to show it twice.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    disable_created_metrics()  # type: ignore[no-untyped-call]
    notifier = Notifier(os.environ)
    instance = Instance(settings, Metrics(CollectorRegistry(auto_describe=True), settings))
    try:
        asyncio.run(_live(instance, listener, notifier, ready))
    except MobiusError:
        raise
    except Exception as error:  # noqa: BLE001 (logged with its trace; the journal gets one sentence)
        logger.opt(exception=error).critical("The service ends by a fault of the program")
        print(f"mobius.service: It ends by a fault of the program: {error!r}.", file=sys.stderr)
        return int(ExitCode.PROCESSING)
    if instance.close():
        logger.warning("A picture or the index is still being worked on at the end; that is given up")
        logger.complete()
        os._exit(0)  # the interpreter would wait for that thread, past the deadline
    return int(ExitCode.SUCCESS)


def _listener(settings: Settings) -> socket.socket | None:
    """The public socket, or None when told to do without.

    Raises:
        MobiusError: there is none. An instance that cannot serve must not look as if it could.
    """
    inherited = inherited_socket(os.environ)
    if settings.listen == "none":
        return None
    if settings.listen != "systemd":
        return _bind(*settings.listen)
    if inherited is None:
        raise MobiusError(
            "environment_failed",
            "systemd handed down no listening socket.",
            do_next="Start the socket unit first; for development set MOBIUS_LISTEN=127.0.0.1:8080.",
        )
    return inherited


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        raise MobiusError("environment_failed", f"{host}:{port} cannot be listened on: {error.strerror}.") from error
    listener.setblocking(False)
    return listener


def _bind_admin(path: Path) -> socket.socket:
    """The admin socket. What a killed instance left is replaced; a living instance's is not."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                try:
                    probe.connect(os.fspath(path))
                except ConnectionRefusedError:
                    path.unlink()
        channel.bind(os.fspath(path))
        path.chmod(ADMIN_MODE)
        channel.listen(128)
    except OSError as error:
        channel.close()
        raise MobiusError("environment_failed", f"The admin socket {path} cannot be made: {error.strerror}.") from error
    channel.setblocking(False)
    return channel


async def _live(
    instance: Instance,
    listener: socket.socket | None,
    notifier: Notifier,
    ready: Callable[[str, int], None] | None,
) -> None:
    settings = instance.settings
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_loop_fault)
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)

    headers = [("X-Release-Id", settings.release_id)]
    patience = Patience(settings.head_timeout, settings.body_timeout, settings.idle_timeout)
    most = settings.max_connections
    public = Endpoint(app.build(instance, admin=False), patience=patience, most=most, headers=headers)
    admin = Endpoint(app.build(instance, admin=True), patience=patience, most=most, headers=headers)
    if listener is not None:
        instance.public = PublicSocket(listener, public)
    ticking = loop.create_task(_tick(instance, [public, admin], notifier))
    admin_server: asyncio.Server | None = None
    try:
        if settings.admin_socket is not None:
            channel = _bind_admin(settings.admin_socket)
            admin_server = await loop.create_unix_server(admin.connection, sock=channel)
        await instance.warm_up()
        # what is loaded by now stays: no later collection need walk over it while every request waits
        gc.collect()
        gc.freeze()
        if settings.start == "serving" and instance.public is not None:
            instance.serve()
        logger.info("Ready: {} starts {}", settings.release_id, instance.state)
        notifier.send(f"READY=1\nSTATUS={instance.state}")
        if ready is not None and listener is not None and listener.family in (socket.AF_INET, socket.AF_INET6):
            ready(*listener.getsockname()[:2])

        stopping = loop.create_task(told_to_stop.wait())
        await asyncio.wait({stopping, ticking}, return_when=asyncio.FIRST_COMPLETED)
        if ticking.done():
            ticking.result()
        logger.info("Told to stop")
        notifier.send("STOPPING=1\nSTATUS=draining")
        await instance.stop()
        public.close_all(busy_too=True)
        admin.close_all(busy_too=False)
        await asyncio.sleep(0)  # lets the transports close
    finally:
        ticking.cancel()
        if admin_server is not None and settings.admin_socket is not None:
            admin_server.close()
            with contextlib.suppress(FileNotFoundError):
                settings.admin_socket.unlink()
        if listener is not None:
            listener.close()  # this process's copy; the socket lives on in systemd
    logger.info("Stopped")


async def _tick(instance: Instance, endpoints: list[Endpoint], notifier: Notifier) -> None:
    """Once a second or oftener: the date for the answers, the loop's own lateness, and the watchdog.

    The ping comes from the event loop, so a loop that hangs is not vouched for; nor are threads that all hang.
    """
    loop = asyncio.get_running_loop()
    interval = min(1.0, notifier.watchdog_seconds / 3) if notifier.watchdog_seconds else 1.0
    state = instance.state
    stuck_since: float | None = None
    while True:
        date = formatdate(usegmt=True).encode()
        for endpoint in endpoints:
            endpoint.set_date(date)
        stuck_since = (stuck_since or loop.time()) if instance.stuck else None
        if notifier.watchdog_seconds and (stuck_since is None or loop.time() - stuck_since < STUCK_SECONDS):
            notifier.send("WATCHDOG=1")
        if instance.state != state:
            state = instance.state
            notifier.send(f"STATUS={state}")
        due = loop.time() + interval
        await asyncio.sleep(interval)
        instance.loop_lag = max(0.0, loop.time() - due)


def _log_loop_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # noqa: ARG001
    logger.opt(exception=context.get("exception")).error("In the event loop: {}", context["message"])


if __name__ == "__main__":
    sys.exit(main())
