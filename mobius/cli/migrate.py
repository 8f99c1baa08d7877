# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius dhash migrate`: another schema, folder, algorithm or tool, and the way back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import click

from mobius.cli.groups import CommandGroup
from mobius.cli.options import format_option, index_option
from mobius.cli.output import ReportedError
from mobius.cli.render.dhash import show_progress
from mobius.cli.render.migrate import record_lines, report_lines
from mobius.cli.render.page import count
from mobius.dhash import Mode
from mobius.dhash.migration import (
    ForeignImport,
    Migration,
    MigrationReport,
    Move,
    Rehash,
    SchemaChange,
    Workspace,
    finish,
    plan,
    read_status,
    roll_back,
)
from mobius.dhash.migration import migrate as run_migration

_check = click.option("--check", is_flag=True, help="Change nothing; say what the run does.")
_mode = click.option(
    "--mode", type=click.Choice(get_args(Mode)), default="fast", show_default=True,
    help="The algorithm, as `mobius dhash scan` has it.",
)  # fmt: skip


@click.group(cls=CommandGroup)
def migrate() -> None:
    """Migrate an index: its schema, its pictures' folder, its algorithm, or from another tool.

    Each begins with a backup of the index, works beside it, and changes it in one step. One that was stopped or killed
    goes on when it is run again. It stops when less than 10 % of the disk would be free. Everything from before is kept
    until `finish`; `rollback` restores it. MIGRATION_RUNBOOK.md has the steps.

    \b
    Examples:
      mobius dhash migrate move ~/Pictures /mnt/disk/Pictures --check
      mobius dhash migrate move ~/Pictures /mnt/disk/Pictures
      mobius dhash migrate rollback
    """


@migrate.command()
@index_option
@click.option("--to", "target", type=int, help="The schema.  [default: this release's]")
@_check
@format_option
def schema(index: Path, target: int | None, check: bool, form: str) -> None:
    """Bring the index up to this release's schema, or down to an older release's.

    Down, only the verdicts on pairs may be lost, which are made of the pictures again.

    \b
    mobius dhash migrate schema --check
    mobius dhash migrate schema --to 3
    """
    _run(index, SchemaChange() if target is None else SchemaChange(str(target)), check=check, form=form, what="steps")


@migrate.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@index_option
@_check
@format_option
def move(source: Path, destination: Path, index: Path, check: bool, form: str) -> None:
    """Move a folder of pictures to another folder or disk, and let the index follow.

    Every file is copied, and every copy is read again and compared by its SHA-256; then the index has the new paths.
    The old folder stays until `finish`, which compares again before it removes anything.

    \b
    mobius dhash migrate move ~/Pictures /mnt/disk/Pictures --check
    mobius dhash migrate move ~/Pictures /mnt/disk/Pictures
    """
    # as a scan names them
    folders = str(source.resolve()), str(destination.resolve())
    _run(index, Move(*folders), check=check, form=form, what="files")


@migrate.command()
@index_option
@click.option("--mode", type=click.Choice(get_args(Mode)), required=True, help="The new algorithm.")
@click.option("--beside", is_flag=True, help="Stop before the switch: the results lie beside the index.")
@_check
@format_option
def rehash(index: Path, mode: Mode, beside: bool, check: bool, form: str) -> None:
    """Hash every picture again with another algorithm, beside the present hashes, and then switch.

    From then on, give `mobius dhash scan` the same --mode. Decisions stay.

    \b
    mobius dhash migrate rehash --mode exact --beside
    mobius dhash migrate rehash --mode exact
    """
    _run(index, Rehash(mode), check=check, form=form, what="pictures", beside=beside)


@migrate.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@index_option
@click.option("--from", "tool", type=click.Choice(["czkawka", "csv"]), help="What FILE is.  [default: by its name]")
@_mode
@_check
@format_option
def import_command(file: Path, index: Path, tool: str | None, mode: Mode, check: bool, form: str) -> None:
    """Take in the pictures that another tool knew: czkawka's cache as JSON, or a CSV file.

    A CSV file has a column `path`, and may have `size` and `sha256`, which is compared. Each file is read and hashed,
    as the hashes of another tool cannot be compared with these. Files that cannot be taken in are listed; the exit code
    is then 2, and all others are.

    \b
    mobius dhash migrate import cache_similar_images.json --check
    mobius dhash migrate import pictures.csv
    """
    form_of_file = tool or ("csv" if file.suffix.lower() == ".csv" else "czkawka")
    migration = ForeignImport.of(file, "csv" if form_of_file == "csv" else "czkawka", mode)
    _run(index, migration, check=check, form=form, what="pictures")


@migrate.command()
@index_option
@format_option
def status(index: Path, form: str) -> None:
    """Show the open migration of the index.

    \b
    mobius dhash migrate status
    """
    record = read_status(index.resolve())
    if form == "json":
        click.echo(json.dumps(None if record is None else dataclasses.asdict(record)))
        return
    for line in ("No migration is open.",) if record is None else record_lines(record):
        click.echo(line)


@migrate.command()
@index_option
@click.option("--accept-loss", is_flag=True, help="Also when the index was written to since; that is kept beside it.")
@format_option
def rollback(index: Path, accept_loss: bool, form: str) -> None:
    """Undo the open migration, whether it is done or was stopped: index and folders are as before.

    \b
    mobius dhash migrate rollback
    """
    _show(roll_back(index.resolve(), accept_loss=accept_loss), form, "Rolled back.")


@migrate.command("finish")
@index_option
@format_option
def finish_command(index: Path, form: str) -> None:
    """Make the open migration final: remove what was kept to undo it, a moved folder's old one too.

    \b
    mobius dhash migrate finish
    """
    _show(finish(index.resolve()), form, "Finished: it cannot be rolled back any more.")


def _run(index: Path, migration: Migration, *, check: bool, form: str, what: str, beside: bool = False) -> None:
    index = index.resolve()
    if check:
        _show(plan(index, migration), form, "Nothing was changed.")
        return
    with show_progress(what) as progress:
        report = run_migration(index, migration, progress=progress, stop_before_switch=beside)
    if report.done:
        end = "Done; `mobius dhash migrate rollback` undoes it, `mobius dhash migrate finish` makes it final."
    elif beside and report.actions:
        end = f"Not switched yet: the results are in {Workspace(index).work}. Run it again without --beside to switch."
    else:
        end = "Nothing was changed."
    _show(report, form, end)


def _show(report: MigrationReport, form: str, end: str) -> None:
    """Print a report, and fail when files could not be dealt with.

    Raises:
        MobiusError: files_failed.
    """
    if form == "json":
        click.echo(json.dumps(dataclasses.asdict(report)))
    else:
        for line in (*report_lines(report), end):
            click.echo(line)
    if report.problems:
        raise ReportedError("files_failed", f"{count(len(report.problems), 'file')} could not be dealt with.")
