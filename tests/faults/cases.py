# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which fault strikes which operation, and when: drawn from a seed, so that each case can be repeated alone."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Final

OPERATIONS: Final = ("release", "rollback", "rollback with data", "restore", "provision")
PHASES: Final = (
    "Back up the service's state",
    "Stage the release",
    "Start the release in standby",
    "Serve as a canary beside the present release",
    "Run the gate on the new release",
    "Switch to the new release provisionally",
    "Decide for all hosts together",
    "Confirm the promotion",
    "Remove the releases that are no longer kept",
)
"""Tasks of a release that stand for its phases; the last two come after the decision."""

HOST_FAULTS: Final = ("host killed", "host paused", "host cut off")
DISK_FAULTS: Final = ("disk full", "no inodes", "read-only")
HISTORY: Final = "the history's folder"
# {service} is the service's name; /run/<service> fills up with /run, whose sockets cannot be copied to a disk of their own
FOLDERS: Final = (
    *("/opt/{service}", "/opt/{service}/releases", "/etc/{service}", "/var/lib/{service}", "/var/backups/{service}"),
    *("/var/log/{service}", "/run", "/tmp", HISTORY),
)

# Tasks that an operation begins on one host; a fault that is drawn for a later one does not strike.
TASKS: Final = {"release": 78, "rollback": 14, "rollback with data": 16, "restore": 8, "provision": 50}


@dataclass(frozen=True)
class Case:
    """One fault in one operation.

    Args:
        moment: the share of the operation's tasks that begin before the fault strikes; 0 is before it starts.
        phase: the task at whose begin the fault strikes, in place of `moment`.
        delay: seconds between that task's begin and the fault.
        lasting: seconds until a host is back.
        slack: how much is left on a full disk, in kB or inodes.
    """

    seed: int
    fault: str
    operation: str
    moment: float = 0.0
    phase: str = ""
    folder: str = ""
    second: str = ""
    host: str = "lab1"
    both_hosts: bool = False
    delay: float = 0.0
    lasting: float = 0.0
    slack: int = 0

    @property
    def task_number(self) -> int:
        """The number of the task at whose begin the fault strikes; 0 is before the operation starts."""
        return 0 if self.moment == 0 else 1 + int(self.moment * TASKS[self.operation])

    def __str__(self) -> str:
        if self.fault == "race":
            return f"{self.operation} and, {self.delay:.1f} s later, {self.second}"
        words = [self.fault]
        if self.folder:
            words.append(f"at {self.folder.format(service='<service>')} (slack {self.slack})")
        words.append(f"in {self.operation}")
        words.append(f'at "{self.phase}"' if self.phase else f"at task {self.task_number}")
        words.append(f"+ {self.delay:.1f} s on {self.host}")
        if self.lasting:
            words.append(f"for {self.lasting:.0f} s")
        return " ".join(words)


def _strata() -> list[dict[str, str]]:
    """Every kind of case once; the seed adds the moment and the amounts."""
    kills = [{"fault": "controller killed", "operation": name} for name in OPERATIONS * 3]
    hosts = [{"fault": fault, "operation": "release", "phase": phase} for fault in HOST_FAULTS for phase in PHASES]
    hosts += [{"fault": fault, "operation": name} for fault in HOST_FAULTS for name in OPERATIONS[1:]]
    disks = [{"fault": fault, "folder": folder} for fault in DISK_FAULTS for folder in FOLDERS]
    disks.append({"fault": "read-only", "folder": "/run/{service}"})
    racing = ("release", "rollback", "restore", "provision")
    races = [
        {"fault": "race", "operation": first, "second": second}
        for first, second in itertools.combinations_with_replacement(racing, 2)
    ]
    return random.Random(17).sample(every := [*kills, *hosts, *disks, *races], len(every))


STRATA: Final = _strata()
FULL_SIZE: Final = len(STRATA)


def draw(seed: int) -> Case:
    """The case of a seed; seeds 0 to `FULL_SIZE` - 1 are each kind once."""
    numbers = random.Random(seed)
    kind = dict(STRATA[seed % FULL_SIZE])
    fault = kind["fault"]
    operation = kind.pop("operation", "") or numbers.choice(("release", "release", *OPERATIONS[1:]))
    return Case(
        seed,
        operation=operation,
        moment=numbers.choice((0.0, numbers.random())) if fault in DISK_FAULTS else numbers.uniform(0.01, 1),
        delay=numbers.uniform(0, 8) if fault == "race" else numbers.uniform(0, 1),
        lasting=numbers.choice((3.0, 10.0, 45.0)) if fault in HOST_FAULTS else 0.0,
        slack=numbers.choice((0, 4, 64, 1024)) if fault == "disk full" else numbers.choice((0, 1, 5, 25)),
        host=numbers.choice(("lab1", "lab2")) if fault in HOST_FAULTS else "lab1",
        both_hosts=fault in HOST_FAULTS,
        **kind,
    )
