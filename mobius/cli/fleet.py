# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius provision`, `status`, `smoke`, `maintenance` and `decommission`: what the hosts are and hold."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import click

from mobius.cli.playbook import PlaybookOptions, finish, new_chain_option, playbook_options, reading_options, run
from mobius.cli.render.smoke import smoke_lines
from mobius.cli.render.status import maintenance_lines, release_lines
from mobius.cli.render.text import style_of
from mobius.control.run.fleet_state import PASSING, fleet_ending

_POLL_SECONDS = 2.0  # between two readings of the hosts


@click.command()
@new_chain_option
@playbook_options
def provision(options: PlaybookOptions) -> int:
    """Prepare the hosts: user, folders, units, and the command mobius-host.

    \b
    Example:
      mobius provision -i inventories/staging --check --diff
    """
    return finish(options, run(options, "provision.yml", {}))


@click.command()
@click.argument("service", metavar="SERVICE")
@new_chain_option
@playbook_options
def decommission(options: PlaybookOptions, service: str) -> int:
    """Take a service off its hosts for good: it stops, is backed up once more, and is removed. Its backups stay.

    SERVICE is its name, so that the wrong inventory removes nothing. Other services on the hosts continue.

    \b
    Examples:
      mobius decommission mobius-dhash -i inventories/staging --check --diff
      mobius decommission gallery -e @gallery.yml
    """
    return finish(options, run(options, "decommission.yml", {"mobius_decommission": service}))


@click.command()
@click.option(
    "--wait", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS",
    help="Wait so long for the hosts to be as they should be.",
)  # fmt: skip
@reading_options
def status(options: PlaybookOptions, wait: float) -> int:
    """Show what every host serves and since when, what a rollback goes to, and what is under way.

    Exit code 0 only when every host is as the fleet should be: provisioned, with its confirmed release serving, which
    is that of the others, no promotion under way, and no problem. Otherwise it is that of what is wrong:
    `not_provisioned`, `nothing_serves`, `diverged`, `locked` (3), `host_inconsistent` (2). Nothing is changed.

    \b
    Examples:
      mobius status --format json
      mobius status --wait 120 && echo "1.5.0 serves everywhere"
    """
    until = time.monotonic() + wait
    while True:
        summary = run(options, "status.yml", {}, watched="mobius.dhash.release_info")
        summary = dataclasses.replace(summary, ending=fleet_ending(summary.ending, summary.results))
        if summary.ending.outcome not in PASSING or time.monotonic() >= until:
            break
        time.sleep(_POLL_SECONDS)
    return finish(options, summary, key="releases", lines=functools.partial(release_lines, style=style_of()))


@click.command()
@click.argument("state", metavar="on|off", type=click.Choice(["on", "off"]))
@click.option("--reason", metavar="TEXT", help="Why; kept on the hosts, and shown by `mobius status`.")
@new_chain_option
@playbook_options
def maintenance(options: PlaybookOptions, state: str, reason: str | None) -> int:
    """Give clients 503 and a page of maintenance, or let them reach the service again.

    Instances go on, and so do their health path, backups and releases; a reboot does not end it. Without a control
    node, `mobius-host maintenance on` does the same on a host. It needs no approval and waits for no lock between runs.

    Exit codes: 0 also when the hosts were in that state already; docs/EXIT_CODES.md has the others.

    \b
    Examples:
      mobius maintenance on --reason "moving the library"
      mobius maintenance on -i inventories/staging --limit lab2 --check
      mobius maintenance off
    """
    variables: dict[str, Any] = {"mobius_maintenance": state == "on"}
    if reason:
        variables["mobius_reason"] = reason
    summary = run(options, "maintenance.yml", variables, watched="mobius.dhash.maintenance")
    return finish(options, summary, key="maintenance", lines=maintenance_lines)


@click.command()
@click.argument("topics", nargs=-1, metavar="[service] [logging]", type=click.Choice(["service", "logging"]))
@reading_options
def smoke(options: PlaybookOptions, topics: tuple[str, ...]) -> int:
    """Check that what every host serves works: units, health, the public address as clients reach it, and probes.

    A test of the release's own (`mobius_smoke_command`) is run, too. That of dhash has two topics: `service` checks
    readiness, metrics, right hashes, the API and its refusals; `logging` the log's form, rotation, modes, silence of
    the console, uncaught exceptions, redacted secrets and the count of lost lines. Both when none is named. Each
    host's report lists every check and its result. Nothing is changed.

    \b
    Examples:
      mobius smoke
      mobius smoke logging --limit lab1 --format json
    """
    variables = {"mobius_smoke": [*dict.fromkeys(topics)]} if topics else {}
    summary = run(options, "smoke.yml", variables, watched="mobius.dhash.smoke")
    results = {**summary.results, **summary.failed_results}
    reports = {host: report for host, result in results.items() if (report := _smoke_report(result))}
    return finish(options, dataclasses.replace(summary, results=reports), key="smoke", lines=smoke_lines)


def _smoke_report(result: Mapping[str, Any]) -> dict[str, Any]:
    """The report of the smoke test of one host; empty when it did not come so far."""
    if "checks" not in result:
        return {}
    return {"release": result["release"], "failed": result["failed_checks"], "checks": result["checks"]}
