#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wall time to release and to roll back on the lab's hosts, beside ansistrano.deploy and .rollback.

A release is one command of both; ours is measured as its two halves besides, `mobius deploy` and `mobius promote`.

Both carry the same bundle of dhash to the same hosts over the same SSH. Ansistrano unpacks it, exchanges a link,
restarts a unit and waits until it answers; its service is away meanwhile. Ours does that and what MOBIUS is for
besides: lock, backup, digests, standby, golden pictures, canary, gate, one decision, history. What only waits is left
out: the gate looks for a moment and compares no metrics, since nobody asks here.

The ways take turns, round after round, and the fastest round of each counts, from the keypress to the prompt. All
hosts of the lab share this machine's processors, so their number costs more here than on a fleet, whose hosts bring
their own.
With --host-cpus each has a fixed part of a processor, alone as among others: with 0.125, ten hosts and the command on
two processors are a fleet at an eighth of its speed, of hosts with one processor each and a control node with six.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click

CHECKOUT: Final = Path(__file__).resolve().parents[1]
WORK: Final = CHECKOUT / ".cache" / "bench-release"
BIN: Final = Path(sys.executable).parent
PEERS: Final = ("ansistrano.deploy", "ansistrano.rollback")

ONE_BATCH: Final = "mobius, one batch"
THREE_BATCHES: Final = "mobius, three batches"
CONSOLE: Final = "mobius-host, on the hosts"
PEER: Final = "ansistrano"

_BATCHES: Final[dict[str, list[Any]]] = {ONE_BATCH: ["100%"], THREE_BATCHES: [1, "25%", "100%"]}
_UNIT: Final = """\
[Service]
Type=notify
Environment=PYTHONPATH=/opt/peer/current/tree MOBIUS_ADDRESS=127.0.0.1:8081 MOBIUS_INDEX=/var/lib/peer/index.sqlite3
StateDirectory=peer
ExecStart=/usr/bin/python3 -m mobius.service
"""


@dataclass(frozen=True)
class Row:
    """One step of one way.

    Attributes:
        seconds: wall time of the fastest round.
        command: seconds of processor time of the command itself, in the same round.
        on_hosts: and of all hosts together.
    """

    hosts: int
    step: str
    way: str
    seconds: float
    command: float
    on_hosts: float


# --- The hosts and the bundles ----------------------------------------------------------------------------------------


def run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    """The standard output of a command that went well.

    Raises:
        click.ClickException: it failed.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=CHECKOUT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise click.ClickException(f"{' '.join(map(str, command))} ended with {done.returncode}: {said}")
    return done.stdout


class Fleet:
    """So many fresh hosts, and both ways to bring a release to them."""

    def __init__(self, root: Path, hosts: int, roles: Path) -> None:
        self.root = root
        self.roles = roles
        self.inventory = root / "inventories" / "local"
        shutil.copytree(CHECKOUT / "inventories" / "local", self.inventory)
        run(BIN / "mobius", "lab", "up", "--hosts", str(hosts), "--root", root)
        self.containers = [item["container"] for item in json.loads((root / ".lab" / "lab.json").read_bytes())["hosts"]]

    def limit(self, processors: float) -> None:
        """Give each host so much of a processor, in slices of 20 ms."""
        quota = round(20_000 * processors)
        for container in self.containers:
            run("podman", "update", "--cpu-period", "20000", "--cpu-quota", str(quota), container)

    def processor_seconds(self) -> float:
        """What all hosts have used so far."""
        said = run("podman", "stats", "--no-stream", "--format", "{{.CPUNano}}", *self.containers)
        return sum(map(int, said.split())) / 1e9

    def remove(self) -> None:
        run(BIN / "mobius", "lab", "down", "--root", self.root)
        shutil.rmtree(self.root)

    def mobius(self, *arguments: str | Path, batches: Sequence[Any] = ("100%",)) -> None:
        given = {
            "promote_healthy_seconds": 0.1,
            "promote_signals": [],
            "promote_front_signals": [],
            "promote_batches": list(batches),
        }
        run(BIN / "mobius", *arguments, "-i", self.inventory, "-e", json.dumps(given), environment=self._environment)

    def play(self, name: str, *tasks: dict[str, Any], **variables: Any) -> None:
        """A playbook of the peer's, on all hosts."""
        book = self.root / f"{name}.json"
        book.write_text(
            json.dumps([{"hosts": "mobius", "gather_facts": False, "vars": variables, "tasks": list(tasks)}])
        )
        run(BIN / "ansible-playbook", "-i", self.inventory, book, environment=self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "XDG_STATE_HOME": str(self.root / "state"),
            "ANSIBLE_HOME": str(self.root / ".ansible"),
            "ANSIBLE_ROLES_PATH": f"{CHECKOUT / 'roles'}:{self.roles}",
        }

    # --- the peer

    def prepare_peer(self) -> None:
        """Its unit, which the role does not bring, and the task file that it runs after the link is exchanged."""
        unit = {"content": _UNIT, "dest": "/etc/systemd/system/peer.service", "mode": "0644"}
        self.play(
            "prepare", {"ansible.builtin.copy": unit}, {"ansible.builtin.systemd_service": {"daemon_reload": True}}
        )
        answered = {"url": "http://127.0.0.1:8081/health"}
        after = [
            {"ansible.builtin.systemd_service": {"name": "peer.service", "state": "restarted"}},
            {
                "ansible.builtin.uri": answered,
                "register": "peer_health",
                "until": "peer_health is succeeded",
                "retries": 50,
                "delay": 0.2,
            },
        ]
        self.after.write_text(json.dumps(after))

    @property
    def after(self) -> Path:
        return self.root / "after_symlink.yml"

    def peer_deploy(self, bundle: Path) -> None:
        self.play(
            "peer_deploy",
            {"ansible.builtin.include_role": {"name": "ansistrano.deploy"}},
            ansistrano_deploy_from=str(bundle),
            ansistrano_deploy_to="/opt/peer",
            ansistrano_deploy_via="copy_unarchive",
            ansistrano_keep_releases=5,
            ansistrano_allow_anonymous_stats=False,
            ansistrano_after_symlink_tasks_file=str(self.after),
        )

    def peer_rollback(self) -> None:
        self.play(
            "peer_rollback",
            {"ansible.builtin.include_role": {"name": "ansistrano.rollback"}},
            ansistrano_deploy_to="/opt/peer",
            ansistrano_allow_anonymous_stats=False,
            ansistrano_rollback_after_symlink_tasks_file=str(self.after),
        )

    # --- ours, with the controller gone

    def console_rollback(self) -> None:
        """Every host goes back by itself, one after the other: they have no network between them for this."""
        for container in self.containers:
            run("podman", "exec", container, "mobius-host", "rollback", "--reason", "a benchmark")


@contextmanager
def fleet_of(hosts: int, work: Path, roles: Path) -> Iterator[Fleet]:
    """Fresh hosts, which are removed in the end."""
    root = work / f"{hosts}-hosts"
    if root.exists():
        run(BIN / "mobius", "lab", "down", "--root", root)
        shutil.rmtree(root)
    root.mkdir(parents=True)
    fleet = Fleet(root, hosts, roles)
    try:
        yield fleet
    finally:
        fleet.remove()


class Bundles:
    """Releases of the present commit, each with a version of its own: one that was taken back is not gone to again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def next(self) -> tuple[Path, str]:
        """The file of the next release, and its id."""
        self._number += 1
        version = ("--version", f"1.{self._number}.0")
        said = run(BIN / "mobius", "bundle", "build", *version, "--out", self._folder, "--format", "json")
        built = json.loads(said)
        return Path(built["bundle"]), str(built["release"])


# --- Measuring --------------------------------------------------------------------------------------------------------


def measure(hosts: int, rounds: int, work: Path, roles: Path, *, peer: bool, host_cpus: float | None) -> list[Row]:
    """Every way in turn, `rounds` times, on so many hosts."""
    best: dict[tuple[str, str], Row] = {}

    def used() -> tuple[float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter(), children.ru_utime + children.ru_stime

    @contextmanager
    def timed(step: str, way: str) -> Iterator[None]:
        on_hosts = fleet.processor_seconds()
        before = used()
        yield
        seconds, command = (now - then for now, then in zip(used(), before, strict=True))
        row = Row(hosts, step, way, seconds, command, fleet.processor_seconds() - on_hosts)
        click.echo(
            f"{hosts} hosts: {step}, {way}: {row.seconds:.2f} s; processor time {row.command:.2f} s here and"
            f" {row.on_hosts:.2f} s on the hosts",
            err=True,
        )
        best[step, way] = min(row, best.get((step, way), row), key=lambda row: row.seconds)

    bundles = Bundles(work / "bundles")
    with fleet_of(hosts, work, roles) as fleet:
        fleet.mobius("provision")
        first, _ = bundles.next()
        fleet.mobius("release", "--bundle", first)
        if peer:
            fleet.prepare_peer()
            fleet.peer_deploy(first)
        if host_cpus is not None:
            fleet.limit(host_cpus)
        for _ in range(rounds):
            for way, batches in _BATCHES.items():
                bundle, release = bundles.next()
                with timed("deploy", way):
                    fleet.mobius("deploy", "--bundle", bundle)
                with timed("promote", way):
                    fleet.mobius("promote", "--release", release, batches=batches)
                bundle, _ = bundles.next()
                with timed("release", way):
                    fleet.mobius("release", "--bundle", bundle, batches=batches)
                if way == ONE_BATCH:
                    with timed("rollback", way):
                        fleet.mobius("rollback")
                else:
                    with timed("rollback", CONSOLE):
                        fleet.console_rollback()
            if peer:
                bundle, _ = bundles.next()
                with timed("release", PEER):
                    fleet.peer_deploy(bundle)
                with timed("rollback", PEER):
                    fleet.peer_rollback()
    return list(best.values())


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    seconds = {(row.hosts, row.step, row.way): row.seconds for row in rows}
    fewest = min(row.hosts for row in rows)
    lines = [
        f"| step | way | hosts | seconds | its time to {PEER}'s | to its own at {fewest}"
        " | processor time of the command, s | of the hosts, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row.step, row.way, row.hosts)):
        peer, own = seconds.get((row.hosts, row.step, PEER)), seconds[fewest, row.step, row.way]
        beside = f"{row.seconds / peer:.2f}" if peer else ""
        lines.append(
            f"| {row.step} | {row.way} | {row.hosts} | {row.seconds:.2f} | {beside} | {row.seconds / own:.2f}"
            f" | {row.command:.2f} | {row.on_hosts:.2f} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--hosts", default="1,3,10", show_default=True, help="How many, separated by commas.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Each way has so many turns.")
@click.option(
    "--roles",
    type=click.Path(path_type=Path),
    default=WORK / "roles",
    help=f"Where {' and '.join(PEERS)} are.  [default: {(WORK / 'roles').relative_to(CHECKOUT)}]",
)
@click.option(
    "--host-cpus", type=click.FloatRange(0.05, 1), help="So much of a processor for each host.  [default: no limit]"
)
@click.option("--alone", is_flag=True, help="Measure ours only.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(hosts: str, rounds: int, roles: Path, host_cpus: float | None, alone: bool, form: str) -> None:
    """Time a release's steps on lab hosts, beside Ansistrano's.

    \b
    ansible-galaxy role install --roles-path .cache/bench-release/roles ansistrano.deploy ansistrano.rollback
    python bench/release.py
    python bench/release.py --hosts 3 --rounds 1 --alone
    python bench/release.py --hosts 1,10 --rounds 1 --alone --host-cpus 0.125
    """
    try:
        counts = [int(part) for part in hosts.split(",")]
    except ValueError:
        raise click.BadParameter("Give numbers like 1,3,10.", param_hint="--hosts") from None
    missing = [name for name in PEERS if not (roles / name).is_dir()]
    if missing and not alone:
        raise click.ClickException(
            f"There is no role {missing[0]} in {roles}. Get it with `ansible-galaxy role install --roles-path "
            f"{roles} {' '.join(PEERS)}`, or measure with --alone."
        )
    rows = [
        row
        for count in counts
        for row in measure(count, rounds, WORK, roles.resolve(), peer=not alone, host_cpus=host_cpus)
    ]
    if form == "json":
        click.echo(json.dumps([asdict(row) for row in rows]))
        return
    click.echo(f"{rounds} rounds, {os.cpu_count()} CPUs for the command and all hosts together\n")
    click.echo(table(rows))


if __name__ == "__main__":
    main()
