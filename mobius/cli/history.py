# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius history`: list, show, verify, export, report."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mobius import durable
from mobius.cli.groups import CommandGroup
from mobius.cli.options import format_option
from mobius.cli.output import print_json
from mobius.cli.render.history import csv_text, list_lines, show_lines
from mobius.cli.render.progress import Lines
from mobius.cli.render.report import report_page
from mobius.cli.render.text import style_of
from mobius.control.history import query, verifier
from mobius.control.history.writer import default_folder
from mobius.control.nearest import did_you_mean
from mobius.control.run.inventory import inventory_value
from mobius.control.run.project import DEFAULT_INVENTORY, find_inventory, find_project
from mobius.control.run.runner import RunRequest, run_playbook
from mobius.errors import OUTCOMES, ExitCode, MobiusError

_KEPT = ("heads", "journal", "activation", "service")
"""What of a host's answer is compared with the history."""


def folder_of(folder: str | None, inventory: str) -> Path:
    """The folder of the history: --dir, else what the inventory says, else the default."""
    if folder:
        return Path(folder).expanduser().absolute()
    project = find_project()
    configured = inventory_value(inventory, project, "mobius_history_dir", "Or name the history's folder with --dir.")
    return Path(configured).expanduser().resolve() if configured else default_folder(os.environ)


def _history_options(command: Callable[..., int]) -> Callable[..., int]:
    """Adds -i, --dir and --format; the command gets the folder."""
    options = (
        click.option(
            *("-i", "--inventory"),
            default=DEFAULT_INVENTORY,
            show_default=True,
            metavar="PATH",
            help="Its mobius_history_dir names the folder of the history; its hosts are the witnesses.",
        ),
        click.option("--dir", "folder", metavar="FOLDER", help="The history's folder."),
    )

    @functools.wraps(command)
    def with_folder(inventory: str, folder: str | None, **others: Any) -> int:
        return command(folder_of(folder, inventory), inventory, **others)

    decorated: Callable[..., int] = with_folder
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


@click.group(cls=CommandGroup)
def history() -> None:
    """What was run, by whom, and how it ended; and the proof that nobody changed the record.

    \b
    Examples:
      mobius history list
      mobius history show 20260131T230501Z-9f3a61c2
      mobius history verify -i inventories/production
      mobius history export --from 2026-01-01 --to 2026-02-01 --format csv
    """


local_option = click.option("--local", is_flag=True, help="Show times of this machine's zone, and not UTC.")


@history.command("list")
@click.option("--host", metavar="HOST", help="Only runs on this host.")
@click.option("--outcome", metavar="NAME", help="Only runs that ended so; `running` for those that have not ended.")
@click.option("--since", metavar="DAY", help="Only runs that started on this day or later (UTC).")
@click.option("--release", metavar="ID", help="Only runs that tried, left or reached this release; a version will do.")
@local_option
@_history_options
@format_option
def list_runs(
    folder: Path,
    inventory: str,  # noqa: ARG001
    host: str | None,
    outcome: str | None,
    since: str | None,
    release: str | None,
    form: str,
    *,
    local: bool,
) -> int:
    """List the runs, oldest first: when, how long, the version that was tried, from which to which, how it ended, who.

    \b
    Examples:
      mobius history list -i inventories/production --since 2026-01-01
      mobius history list --host lab1 --outcome rolled_back
      mobius history list --release 1.5.0 --format json
    """
    if outcome is not None and outcome not in (*OUTCOMES, "running"):
        known = did_you_mean(outcome, (*OUTCOMES, "running"))
        raise MobiusError(
            "invalid_input", f"There is no outcome {outcome}{known}.", do_next="docs/EXIT_CODES.md lists them."
        )
    runs = query.matching(query.read_runs(folder), host=host, outcome=outcome, since=since, release=release)
    if form == "json":
        print_json([query.listed(run) for run in runs])
    else:
        click.echo("\n".join(list_lines(runs, local=local)))
    return int(ExitCode.SUCCESS)


@history.command("show")
@click.argument("run", metavar="RUN")
@local_option
@_history_options
@format_option
def show(folder: Path, inventory: str, run: str, form: str, *, local: bool) -> int:  # noqa: ARG001
    """Show one run, by the beginning of its id: how it ended, who approved it, the decision, the gate's figures.

    \b
    Examples:
      mobius history show 20260131T230501Z
      mobius history show 20260131T230501Z --format json      # all that is recorded
    """
    matching = [item for item in query.read_runs(folder) if item["run"].startswith(run)]
    if len(matching) != 1:
        what = "No run begins" if not matching else f"{len(matching)} runs begin"
        raise MobiusError("invalid_input", f"{what} with {run}.", do_next="Take an id from `mobius history list`.")
    if form == "json":
        print_json(matching[0])
    else:
        click.echo("\n".join(show_lines(matching[0], style_of(), local=local)))
    return int(ExitCode.SUCCESS)


@history.command("verify")
@_history_options
@click.option("--offline", is_flag=True, help="Contact no host; the result is then at best `unwitnessed`.")
@click.option("--witnesses", metavar="FILE", help="Read the hosts' heads from this file, and contact no host.")
@click.option("--save-witnesses", metavar="FILE", help="Write the hosts' heads to this file, for an auditor.")
@click.option("--require-witness", is_flag=True, help="Exit code 2 also when it is `unwitnessed`.")
@click.option("--signers", metavar="FILE", help="allowed_signers file: the head must be signed by one of them.")
@click.option(
    "--other-chain", "others", multiple=True, metavar="ID", help="Another history that these hosts have witnessed."
)
@format_option
def verify(
    folder: Path,
    inventory: str,
    offline: bool,
    witnesses: str | None,
    save_witnesses: str | None,
    require_witness: bool,
    signers: str | None,
    others: tuple[str, ...],
    form: str,
) -> int:
    """Verify the history: its chain, and the heads that each host keeps.

    Exit code 0 when it is whole, 2 when it is not; the first record that is wrong is named. `unwitnessed` means that no
    host answered, or that no host has the newest records yet; these could be cut or rewritten without a trace.

    \b
    Examples:
      mobius history verify -i inventories/production --signers /etc/mobius/allowed_signers
      mobius history verify --dir ./audit --witnesses ./audit/witnesses.json
    """
    if not (folder / verifier.FILE_NAME).exists():
        query.read_runs(folder)  # says so
    if witnesses:
        heads = _witnesses_in_file(Path(witnesses))
    elif offline:
        heads = {}
    else:
        heads = read_witnesses(folder, inventory)
    if save_witnesses:
        durable.write_json(Path(save_witnesses), heads)
    if signers and not Path(signers).is_file():
        raise MobiusError("invalid_input", f"There is no file {signers}.")
    verdict = verifier.verify(folder, witnesses=heads, signers=Path(signers) if signers else None, others=others)
    if form == "json":
        print_json(verdict.as_dict())
    else:
        click.echo("\n".join(verdict.lines()))
    bad = verdict.problems or (require_witness and verdict.status != "whole")
    return int(ExitCode.PROCESSING if bad else ExitCode.SUCCESS)


@history.command("export")
@_history_options
@click.option("--from", "begin", metavar="DAY", help="Runs that started on this day or later (UTC).")
@click.option("--to", "end", metavar="DAY", help="Runs that started before this day (UTC).")
@click.option("--all", "everything", is_flag=True, help="Check runs too; without it only what could change a host.")
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", help="What stdout gets.")
def export(folder: Path, inventory: str, begin: str | None, end: str | None, everything: bool, form: str) -> int:  # noqa: ARG001
    """Write all changes of a period: the population that an auditor draws a sample from.

    \b
    Example:
      mobius history export --from 2026-01-01 --to 2026-04-01 --format csv > changes.csv
    """
    runs = query.in_period(query.read_runs(folder), begin, end)
    runs = [run for run in runs if everything or not run["check"]]
    if form == "json":
        print_json(runs)
    else:
        click.echo(csv_text(runs), nl=False)
    return int(ExitCode.SUCCESS)


@history.command("report")
@_history_options
@click.option("--output", default="history.html", show_default=True, metavar="FILE", help="Where the page goes.")
@click.option("--offline", is_flag=True, help="Contact no host; the page then shows `unwitnessed`.")
def report(folder: Path, inventory: str, output: str, offline: bool) -> int:
    """Write the history as one HTML page that needs nothing else: timeline, runs, filters, the four DORA figures.

    \b
    Example:
      mobius history report -i inventories/production --output history.html
    """
    runs = query.read_runs(folder)
    verdict = verifier.verify(folder, witnesses={} if offline else read_witnesses(folder, inventory))
    path = Path(output).absolute()
    durable.write_bytes(path, report_page(runs, verdict).encode())
    click.echo(path)
    return int(ExitCode.SUCCESS)


def read_witnesses(folder: Path, inventory: str) -> dict[str, Any]:
    """What `verifier.check_witnesses` needs of every host of the inventory; null for one that did not answer."""
    project = find_project()
    # before the hosts are read: a run at work writes records that they could not know
    asked_at = (verifier.read_head(folder) or {}).get("seq")
    request = RunRequest(
        playbook=project.playbooks / "witnesses.yml",
        inventory=find_inventory(inventory, project),
        project=project,
        watched="mobius.dhash.witness_info",
    )
    summary = run_playbook(request, Lines(lambda _line: None))
    silent = {failure.host: None for failure in summary.ending.failures}
    answers = {
        host: {"asked_at": asked_at, **{name: result[name] for name in _KEPT if name in result}}
        for host, result in summary.results.items()
    }
    if not answers and not silent:
        click.echo(f"mobius: no host answered: {summary.ending.reason}", err=True)
    return {**silent, **answers}


def _witnesses_in_file(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MobiusError("invalid_input", f"{path} holds no heads of hosts: {error}.") from error
    if not isinstance(value, dict):
        raise MobiusError("invalid_input", f"{path} holds no heads of hosts: it is no object.")
    return value
