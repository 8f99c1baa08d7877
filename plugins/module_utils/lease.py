# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lock between runs: a lease on each host, measured by the clock of that host.

`lease.json` (read by `host/state.py`) is in the run folder, in memory, so that a reboot ends it. It changes only under
the lock that the executor holds, so a lease is checked and the host is switched in one step: a run that was suspended
is refused by the switch itself. A lease keeps the token of the activation record. A rollback needs no lease, but it
raises the token and thereby fences the run that holds one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from . import durable
from .errors import MobiusError
from .host.config import make_room
from .host.executor import Executor
from .host.plan import HostPlan, Observation
from .host.state import Lease, read_activation, read_lease


def _make_refusal(lease: Lease, now: float) -> MobiusError:
    """The failure that names who holds the lock, since when and for how long."""
    remaining = max(0.0, lease.expires - now)
    return MobiusError(
        "locked",
        f"The run {lease.run} of {lease.actor} has held this host since {lease.since},"
        f" and for {remaining:.0f} s from now.",
    )


def find_refusal(executor: Executor, run: str) -> MobiusError | None:
    """The `locked` failure that `run` would meet now; None when it could acquire the lock, or holds it."""
    lease = read_lease(executor.host)
    if lease is None or lease.run == run or not lease.is_live(executor.clock(), executor.boot()):
        return None
    return _make_refusal(lease, executor.clock())


def acquire(executor: Executor, run: str, actor: str, since: str, seconds: float) -> bool:
    """Acquire the lock, or renew it; True when the run did not hold it before.

    Raises:
        MobiusError: `locked`, when another run holds it; `fenced`, when this run held it and lost it to a rollback.
    """
    with executor.locked():
        lease = read_lease(executor.host)
        if refusal := find_refusal(executor, run):
            raise refusal
        if lease is not None and lease.run == run:
            _renew(executor, run, seconds)
            return False
        token = read_activation(executor.host).token
        new = Lease(run, actor, since, seconds, executor.clock() + seconds, executor.boot(), token)
        make_room(executor.host.lease_path)
        durable.write_json(executor.host.lease_path, dataclasses.asdict(new))
        return True


def release(executor: Executor, run: str, *, check: bool = False) -> bool:
    """Release the lock; True when this run held it. The lock of another run stays."""
    with executor.locked():
        lease = read_lease(executor.host)
        if lease is None or lease.run != run:
            return False
        if not check:
            executor.host.lease_path.unlink(missing_ok=True)
        return True


def require(executor: Executor, run: str) -> None:
    """Renew the lease that the run must hold.

    Raises:
        MobiusError: `fenced`, when it does not, or the host was switched by another run.
    """
    with executor.locked():
        _renew(executor, run)


def fenced(
    executor: Executor, run: str | None, plan: Callable[[Observation], HostPlan]
) -> Callable[[Observation], HostPlan]:
    """A plan function that first requires and renews the lease of `run`; without a run, `plan` itself.

    The executor calls it under the host's lock, so no other command can act between the check and the switch.
    """
    if run is None:
        return plan

    def checked(observed: Observation) -> HostPlan:
        _renew(executor, run)
        return plan(observed)

    return checked


def _renew(executor: Executor, run: str, seconds: float | None = None) -> None:
    """Require that the run holds the lock, and restart its time. An expired lease counts until another is acquired."""
    lease = read_lease(executor.host)
    if lease is None or lease.run != run:
        holder = f"the run {lease.run} of {lease.actor} holds it" if lease else "no run holds it"
        raise MobiusError("fenced", f"The run {run} no longer holds the lock of this host: {holder}.")
    activation = read_activation(executor.host)
    if activation.token != lease.token and (activation.last or {}).get("run") != run:
        raise MobiusError("fenced", f"This host was rolled back or switched while the run {run} was at work.")
    duration = lease.seconds if seconds is None else seconds
    renewed = dataclasses.replace(
        lease, seconds=duration, expires=executor.clock() + duration, boot_id=executor.boot(), token=activation.token
    )
    durable.write_json(executor.host.lease_path, dataclasses.asdict(renewed))
