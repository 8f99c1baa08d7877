# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lock between runs: a lease on each host, judged by that host's own clock.

`lease.json` (`host/state.py` reads it) lies in the run folder, in memory, so that a reboot ends it, and changes only
under the lock that the switch holds, too. So whoever checks a lease and then switches does both in one step: a run that
wakes up late is refused by the switch itself. A lease remembers the token of the truth; a rollback takes no lease, but
it raises the token, and thereby fences the run that holds one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Switch
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Observation, Plan
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import Lease, read_activation, read_lease

LONGEST = 86_400.0  # seconds


def refusal(lease: Lease, now: float) -> MobiusError:
    """Why another run has to wait, and for whom."""
    left = max(0.0, lease.expires - now)
    return MobiusError(
        "locked",
        f"The run {lease.run} of {lease.actor} has held this host since {lease.since}, and for {left:.0f} s from now.",
    )


def holder(switch: Switch, run: str) -> MobiusError | None:
    """The refusal that `run` would meet now; None when it would get the lock, or has it."""
    found = read_lease(switch.host)
    if found is None or found.run == run or not found.live(switch.clock(), switch.boot()):
        return None
    return refusal(found, switch.clock())


def take(switch: Switch, run: str, actor: str, since: str, seconds: float) -> bool:
    """Take the lock, or renew one's own; whether it was somebody else's or nobody's before.

    Raises:
        MobiusError: `locked`, when another run holds it; `fenced`, when this run held it and lost it to a rollback.
    """
    with switch.locked():
        found = read_lease(switch.host)
        if refused := holder(switch, run):
            raise refused
        if found is not None and found.run == run:
            _renew(switch, run, seconds)
            return False
        token = read_activation(switch.host).token
        new = Lease(run, actor, since, seconds, switch.clock() + seconds, switch.boot(), token)
        durable.write_json(switch.host.lease_path, dataclasses.asdict(new))
        return True


def release(switch: Switch, run: str, *, check: bool = False) -> bool:
    """Let go of the lock; whether this run held it. Another's is left alone."""
    with switch.locked():
        found = read_lease(switch.host)
        if found is None or found.run != run:
            return False
        if not check:
            switch.host.lease_path.unlink(missing_ok=True)
        return True


def require(switch: Switch, run: str) -> None:
    """Renew the lease that the run must hold.

    Raises:
        MobiusError: `fenced`, when it does not, or the host was switched by somebody else.
    """
    with switch.locked():
        _renew(switch, run)


def fenced(switch: Switch, run: str | None, plan: Callable[[Observation], Plan]) -> Callable[[Observation], Plan]:
    """The same plan, for a run that must hold the lock, and whose lease is renewed thereby; for no run, just the plan.

    The switch asks for a plan under the host's lock, so nobody can come between this look and what follows from it.
    """
    if run is None:
        return plan

    def checked(seen: Observation) -> Plan:
        _renew(switch, run)
        return plan(seen)

    return checked


def _renew(switch: Switch, run: str, seconds: float | None = None) -> None:
    """Prove that the run holds the lock, and count its time anew. A lease that ran out unclaimed is still its own."""
    found = read_lease(switch.host)
    if found is None or found.run != run:
        who = f"the run {found.run} of {found.actor} has it" if found else "nobody has it"
        raise MobiusError("fenced", f"The run {run} no longer holds the lock of this host: {who}.")
    truth = read_activation(switch.host)
    if truth.token != found.token and (truth.last or {}).get("run") != run:
        raise MobiusError("fenced", f"This host was rolled back or switched while the run {run} was at work.")
    lasting = found.seconds if seconds is None else seconds
    renewed = dataclasses.replace(
        found, seconds=lasting, expires=switch.clock() + lasting, boot_id=switch.boot(), token=truth.token
    )
    durable.write_json(switch.host.lease_path, dataclasses.asdict(renewed))
