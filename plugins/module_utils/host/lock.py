# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lock of every command that changes a host: the kernel drops it with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import durable
from ..errors import MobiusError
from .clock import utc_now
from .config import Host
from .plan import Actor

LOCK_POLL_SECONDS = 0.1
LOCK_TIMEOUT_SECONDS = 30.0  # for another command to finish; the lock is never held while a release starts


@contextlib.contextmanager
def hold_lock(host: Host, actor: Actor, timeout: float | None = None) -> Iterator[None]:
    """Hold the lock, and leave in its file who does.

    Raises:
        MobiusError: `locked` when another command holds it too long, `not_provisioned` when its folder is missing.
    """
    if not host.root.is_dir():
        raise MobiusError("not_provisioned", f"This host is not prepared: {host.root} is missing.")
    seconds = LOCK_TIMEOUT_SECONDS if timeout is None else timeout
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(durable.locked(host.lock_path, seconds))
        except TimeoutError:
            raise make_lock_refusal(host, seconds) from None
        holder = {"pid": os.getpid(), "actor": actor.name, "run": actor.run, "since": utc_now()}
        # for people only: a full disk must not keep a rollback from the lock
        with contextlib.suppress(OSError):
            host.lock_path.write_text(json.dumps(holder), encoding="utf-8")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.truncate(host.lock_path, 0)


def wait_until_unlocked(host: Host, report_begin: Callable[[], None]) -> None:
    """Wait until no command holds the lock, without holding any up; `report_begin` is called when that can be known.

    Raises:
        OSError: the file of the lock cannot be opened.
    """
    descriptor = os.open(host.lock_path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        report_begin()
        while not _is_free(descriptor):
            time.sleep(LOCK_POLL_SECONDS)
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def work_stamp(host: Host) -> int | None:
    """A number that changes with every command that was at work on the host; None while one is.

    Who only observes the host compares it before and after, and holds no command up.
    """
    try:
        # a pipe in its place must not make anybody wait
        descriptor = os.open(host.lock_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_mtime_ns
    except BlockingIOError:
        return None
    finally:
        os.close(descriptor)


def make_lock_refusal(host: Host, seconds: float) -> MobiusError:
    try:
        holder = json.loads(host.lock_path.read_bytes())
        pid, run = int(holder["pid"]), holder["run"]
        who = f"{holder['actor']}{f' for the run {run}' if run else ''} (process {pid}), since {holder['since']}"
        is_alive = Path(f"/proc/{pid}").is_dir()
    except (OSError, ValueError, KeyError, TypeError):
        is_alive = False
    if not is_alive:
        return MobiusError("locked", f"Another command has held {host.lock_path} for {seconds:g} s, until it ends.")
    return MobiusError(
        "locked",
        f"Another command is at work on this host, until it ends: {who}.",
        do_next=f"Wait for its end. If it stands still, end it on the host with `kill -9 {pid}`: "
        "the next command finishes or undoes what it began.",
    )
