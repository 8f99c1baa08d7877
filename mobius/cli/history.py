# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius history`: list, show, verify, export, report."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from mobius import durable
from mobius.cli.options import format_option
from mobius.cli.render.progress import Lines
from mobius.control.history import query as history_runs
from mobius.control.history import report as history_report
from mobius.control.history import verifier as history_verify
from mobius.control.history.writer import default_folder
from mobius.control.run.inventory import inventory_value
from mobius.control.run.project import DEFAULT_INVENTORY, find_checkout, find_inventory
from mobius.control.run.runner import RunRequest, run_playbook
from mobius.errors import ExitCode, MobiusError


def folder_of(folder: str | None, inventory: str) -> Path:
    """The folder of the history: --dir, else what the inventory says, else the default."""
    if folder:
        return Path(folder).expanduser().absolute()
    checkout = find_checkout()
    given = inventory_value(inventory, checkout, "mobius_history_dir", "Or name the history's folder with --dir.")
    return Path(given).expanduser().resolve() if given else default_folder(os.environ)


def _where(command: Callable[..., int]) -> Callable[..., int]:
    """Adds -i, --dir and --format; the command gets the folder."""
    options = (
        click.option(
            *("-i", "--inventory"),
            default=DEFAULT_INVENTORY,
            show_default=True,
            metavar="PATH",
            help="Its mobius_history_dir says where the history is, and its hosts are the witnesses.",
        ),
        click.option("--dir", "folder", metavar="FOLDER", help="The history's folder."),
    )

    @functools.wraps(command)
    def with_folder(inventory: str, folder: str | None, **rest: Any) -> int:
        return command(folder_of(folder, inventory), inventory, **rest)

    decorated: Callable[..., int] = with_folder
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


@click.group()
def history() -> None:
    """What was run, by whom, and how it ended; and the proof that nobody changed the record.

    \b
    Examples:
      mobius history list
      mobius history show 20260131T230501Z-9f3a61c2
      mobius history verify -i inventories/production
      mobius history export --from 2026-01-01 --to 2026-02-01 --format csv
    """


@history.command("list")
@_where
@format_option
def list_runs(folder: Path, inventory: str, form: str) -> int:  # noqa: ARG001
    """List the runs, oldest first.

    \b
    Example:
      mobius history list -i inventories/production --format json
    """
    runs = history_runs.read_runs(folder)
    if form == "json":
        _print_json([history_runs.listed(run) for run in runs])
        return int(ExitCode.SUCCESS)
    for run in runs:
        click.echo(_line(run))
    return int(ExitCode.SUCCESS)


@history.command("show")
@click.argument("run", metavar="RUN")
@_where
@format_option
def show(folder: Path, inventory: str, run: str, form: str) -> int:  # noqa: ARG001
    """Show everything that is recorded of one run. RUN is its id or the beginning of it.

    \b
    Example:
      mobius history show 20260131T230501Z
    """
    found = [item for item in history_runs.read_runs(folder) if item["run"].startswith(run)]
    if len(found) != 1:
        what = "No run begins" if not found else f"{len(found)} runs begin"
        raise MobiusError("invalid_input", f"{what} with {run}.", do_next="Take an id from `mobius history list`.")
    if form == "json":
        _print_json(found[0])
        return int(ExitCode.SUCCESS)
    click.echo(_line(found[0]))
    for name, value in found[0]["intent"].items():
        if value not in (None, "", [], {}) and name != "holder":
            click.echo(f"  {name:<18}  {json.dumps(value) if isinstance(value, dict | list) else value}")
    for result in found[0]["results"]:
        facts = json.dumps(
            {**result.get("fields", {}), **({"outcome": result["outcome"]} if "outcome" in result else {})}
        )
        click.echo(f"  {result['at']}  {result['host']}  {result['status']:<11}  {result['task']}  {facts}")
    for made in found[0]["decisions"]:
        facts = json.dumps({name: value for name, value in made.items() if name not in ("at", "seq")})
        click.echo(f"  {made['at']}  decided for all hosts (record {made['seq']})  {facts}")
    return int(ExitCode.SUCCESS)


@history.command("verify")
@_where
@click.option("--offline", is_flag=True, help="Ask no host; the answer is then at best `unwitnessed`.")
@click.option("--witnesses", metavar="FILE", help="Take what the hosts have seen from this file, and ask none.")
@click.option("--save-witnesses", metavar="FILE", help="Write what the hosts have seen to this file, for an auditor.")
@click.option("--require-witness", is_flag=True, help="Exit code 2 also when no host could be asked.")
@click.option("--signers", metavar="FILE", help="allowed_signers file: the head must be signed by one of them.")
@click.option(
    "--other-chain", "others", multiple=True, metavar="ID", help="Another history that these hosts have seen."
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
    """Prove that the history is whole, with itself and with what each host has seen.

    Exit code 0 when it is, 2 when it is not; the first record that is wrong is named. `unwitnessed` means that no
    host could be asked, and then a cut or rewritten end may not show.

    \b
    Examples:
      mobius history verify -i inventories/production --signers /etc/mobius/allowed_signers
      mobius history verify --dir ./audit --witnesses ./audit/witnesses.json
    """
    if not (folder / history_verify.FILE_NAME).exists():
        history_runs.read_runs(folder)  # says so
    if witnesses:
        seen = _read_witnesses(Path(witnesses))
    elif offline:
        seen = {}
    else:
        seen = ask_witnesses(inventory)
    if save_witnesses:
        durable.write_json(Path(save_witnesses), seen)
    if signers and not Path(signers).is_file():
        raise MobiusError("invalid_input", f"There is no file {signers}.")
    verdict = history_verify.verify(folder, witnesses=seen, signers=Path(signers) if signers else None, others=others)
    if form == "json":
        _print_json(verdict.as_dict())
    else:
        click.echo("\n".join(verdict.lines()))
    bad = verdict.problems or (require_witness and not verdict.witnesses)
    return int(ExitCode.PROCESSING if bad else ExitCode.SUCCESS)


@history.command("export")
@_where
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
    runs = history_runs.in_period(history_runs.read_runs(folder), begin, end)
    runs = [run for run in runs if everything or not run["check"]]
    if form == "json":
        _print_json(runs)
    else:
        click.echo(history_runs.csv_text(runs), nl=False)
    return int(ExitCode.SUCCESS)


@history.command("report")
@_where
@click.option("--output", default="history.html", show_default=True, metavar="FILE", help="Where the page goes.")
@click.option("--offline", is_flag=True, help="Ask no host; the page then says `unwitnessed`.")
def report(folder: Path, inventory: str, output: str, offline: bool) -> int:
    """Write the history as one HTML page that needs nothing else: timeline, runs, filters, the four DORA figures.

    \b
    Example:
      mobius history report -i inventories/production --output history.html
    """
    runs = history_runs.read_runs(folder)
    verdict = history_verify.verify(folder, witnesses={} if offline else ask_witnesses(inventory))
    place = Path(output).absolute()
    durable.write_bytes(place, history_report.page(runs, verdict).encode())
    click.echo(place)
    return int(ExitCode.SUCCESS)


def ask_witnesses(inventory: str) -> dict[str, Any]:
    """`{host: {heads, journal}}` of every host of the inventory; null for one that did not answer."""
    checkout = find_checkout()
    request = RunRequest(
        playbook=checkout / "playbooks/witnesses.yml",
        inventory=find_inventory(inventory, checkout),
        checkout=checkout,
        watched="mobius.dhash.witness_info",
    )
    summary = run_playbook(request, Lines(lambda _line: None))
    silent = {failure.host: None for failure in summary.ending.failures}
    answers = {
        host: {name: result.get(name, []) for name in ("heads", "journal")} for host, result in summary.results.items()
    }
    if not answers and not silent:
        click.echo(f"mobius: no host was asked: {summary.ending.reason}", err=True)
    return {**silent, **answers}


def _read_witnesses(place: Path) -> dict[str, Any]:
    try:
        value = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MobiusError("invalid_input", f"{place} does not hold what hosts have seen: {error}.") from error
    if not isinstance(value, dict):
        raise MobiusError("invalid_input", f"{place} does not hold what hosts have seen: it is no object.")
    return value


def _line(run: Mapping[str, Any]) -> str:
    word = run["outcome"] or "running or lost"
    check = "  check" if run["check"] else ""
    went = f"{_release(run['from_release'])} -> {_release(run['to_release'])}"
    return f"{run['run']}  {run['playbook']}  {word}  {went}  {run['actor']}{check}"


def _release(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{host}: {release or 'nothing'}" for host, release in sorted(value.items()))
    return value or "nothing"


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, sort_keys=True))
