# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a host is not as its activation record and the role host have made it, and what heals that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .config import Host, instance_name, read_regular_file
from .plan import Observation

REPAIR = "Heal it with `mobius-host repair`."
PROVISION = "Heal it with `mobius provision`."
# in which an administrator overrides units; `systemctl set-property` writes to the last two
SYSTEMD_DIRS = tuple(Path(root, "systemd", name) for name in ("system", "system.control") for root in ("/etc", "/run"))


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what heals it: one sentence each."""

    problem: str
    heal: str

    def __str__(self) -> str:
        return f"{self.problem} {self.heal}"


def find_problems(host: Host, observed: Observation) -> list[Problem]:
    """Every problem of a host on which no command is at work."""
    return [
        *_record_problems(host, observed),
        *_folder_problems(host, observed),
        *_current_problems(host, observed),
        *_instance_problems(host, observed),
        *_unit_problems(host),
    ]


def _record_problems(host: Host, observed: Observation) -> Iterator[Problem]:
    if observed.record_problem is not None:
        yield Problem(f"{observed.record_problem} Its copy counts.", REPAIR)
    elif not observed.is_copied and not host.activation_copy_path.exists():
        # a host of version 0.1.0 kept the record once, and its command has no `repair`
        yield Problem("The copy of activation.json is missing.", PROVISION)
    elif not observed.is_copied:
        yield Problem("The copy of activation.json is damaged or out of date.", REPAIR)


def _folder_problems(host: Host, observed: Observation) -> Iterator[Problem]:
    confirmed = observed.activation.confirmed
    for release, instance in sorted(observed.instances.items()):
        path = host.revision_dir(release) / "tree"
        if release != confirmed and instance.exists and is_known(observed, release) and not path.is_dir():
            yield Problem(f"{release} runs, and its folder {path} is gone.", REPAIR)
    if confirmed is not None and not (path := host.revision_dir(confirmed) / "tree").is_dir():
        word = "serves" if observed.instance(confirmed).state == "serving" else "is confirmed"
        yield Problem(
            f"{confirmed} {word}, and its folder {path} is gone.",
            f"Deploy its bundle again, or roll back with `mobius-host rollback --from {confirmed}`.",
        )


def _current_problems(host: Host, observed: Observation) -> Iterator[Problem]:
    confirmed, current = observed.activation.confirmed, observed.current
    if confirmed is not None and current is None:
        yield Problem(
            f"{host.current_path} is missing, or is no link; it should point to releases/{instance_name(confirmed)}.",
            REPAIR,
        )
    elif confirmed is not None and current != confirmed:
        yield Problem(f"{host.current_path} points to {current}, not to releases/{instance_name(confirmed)}.", REPAIR)


def is_known(observed: Observation, release: str) -> bool:
    """Whether the host has this release, is promoting it, or has confirmed or refused it before."""
    pending = observed.open_promotion
    return (
        release in observed.staged
        or observed.activation.latest(release) is not None
        or (pending is not None and pending.release == release)
    )


def _instance_problems(host: Host, observed: Observation) -> Iterator[Problem]:
    known = {release for release in observed.instances if is_known(observed, release)}
    serving = {release for release, instance in observed.instances.items() if instance.state == "serving"}
    roles = {release: observed.role(release) for release in {*known, observed.activation.confirmed} if release}
    expected = {release for release, role in roles.items() if role == "serving"}
    for release in sorted((serving & known) - expected):
        yield Problem(f"{release} serves, and should not: {', '.join(sorted(expected)) or 'nothing'} should.", REPAIR)
    for release in sorted(expected - serving):
        yield Problem(
            f"{release} does not serve, and should: its instance is {observed.instance(release).word}.",
            f"`journalctl -u {host.unit(release)}` says why; start it with `mobius-host repair`.",
        )
    for release, instance in sorted(observed.instances.items()):
        if release not in known and instance.exists:
            yield Problem(f"{host.unit(release)} runs, and this host knows no such release.", REPAIR)
    for unit in observed.unknown_units:
        yield Problem(f"{unit} runs, and is of no release.", f"Stop it with `systemctl stop {unit}`.")


def _unit_problems(host: Host) -> Iterator[Problem]:
    """Where the files of units differ from what the role host has written; a host without their digests has none."""
    try:
        lines = read_regular_file(host.units_digests_path).decode().splitlines()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        yield Problem(f"{host.units_digests_path} cannot be read ({error}).", PROVISION)
        return
    for line in lines:
        digest, _, name = line.partition("  ")
        path = Path(name)
        try:
            actual = hashlib.sha256(read_regular_file(path)).hexdigest()
        except FileNotFoundError:
            yield Problem(f"{path} is missing.", PROVISION)
            continue
        except OSError as error:
            yield Problem(f"{path} cannot be read ({error.strerror or error}).", PROVISION)
            continue
        if actual != digest:
            yield Problem(f"{path} was changed by hand.", PROVISION)
        # of a template also what is for one of its instances only
        names = path.name.replace("@.", "@*.")
        for folder in dict.fromkeys([path.parent, *SYSTEMD_DIRS]):
            for override in sorted(folder.glob(f"{names}.d/*.conf")):
                yield Problem(f"{override} changes {path.name} by hand.", _move_to_role(override))
            for other in sorted(folder.glob(names)):
                if other != path:
                    yield Problem(f"{other} replaces {path.name} by hand.", _move_to_role(other))


def _move_to_role(path: Path) -> str:
    return f"Move what it sets to the variables of the role host (host_units_extra), and remove {path}."
