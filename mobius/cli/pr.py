# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius pr`: a pull request that claims only what was run, and the open debt as issues."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import click

from mobius.cli.history import folder_of
from mobius.control.history.query import read_runs
from mobius.control.pull_request import collect_evidence, fill_template, read_commit
from mobius.control.run.project import DEFAULT_INVENTORY
from mobius.control.tech_debt import parse_entries
from mobius.errors import ExitCode, MobiusError

_TEMPLATE = Path(".github/pull_request_template.md")
_DEBT = Path("TECH_DEBT.md")


@click.command()
@click.option("--base", default="main", show_default=True, help="The branch that the pull request is for.")
@click.option(
    *("-i", "--inventory"),
    default=DEFAULT_INVENTORY,
    show_default=True,
    metavar="PATH",
    help="Its history has the runs that count.",
)
@click.option("--create", is_flag=True, help="Create it with `gh`: a draft while something was not run.")
@click.option("--debt", is_flag=True, help="Print the entries of TECH_DEBT.md by priority, as issues to be opened.")
def pr(base: str, inventory: str, create: bool, debt: bool) -> int:
    """Fill the template of pull requests with what was run on this commit, and print it.

    What has left no evidence on exactly this commit, without a change in the checkout, is not ticked.

    \b
    Examples:
      mobius pr                 the text on stdout, the command to create it on stderr
      mobius pr --create        create it
      mobius pr --debt          a `gh issue create` for each open entry
    """
    folder = Path.cwd()
    if debt:
        click.echo(_issues(_read(folder / _DEBT)))
        return int(ExitCode.SUCCESS)
    template = _read(folder / _TEMPLATE)
    commit = read_commit(folder, base)
    request = fill_template(template, commit, collect_evidence(folder, commit, _runs(inventory)))
    title = request.title or f"Nothing but {base}"
    command = ["gh", "pr", "create", "--base", base, "--title", title, "--body-file", "-"]
    command += ["--draft"] if request.open_items else []
    if not commit.is_clean:
        click.echo("The checkout has changes that are not committed, so nothing was run on it.", err=True)
    if request.open_items:
        click.echo(f"Not run on this commit: {', '.join(request.open_items)}.", err=True)
    if not commit.subjects:
        raise MobiusError("invalid_input", f"There is no commit since {base}.", do_next="Commit first, or name --base.")
    if create:
        return _run(command, request.body)
    click.echo(request.body)
    click.echo(f"To create it: mobius pr --create, which runs\n  {shlex.join(command)}", err=True)
    return int(ExitCode.SUCCESS)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MobiusError(
            "invalid_input", f"There is no {path.name} here.", do_next="Run it in a checkout of the project."
        ) from None


def _runs(inventory: str) -> list[dict[str, object]]:
    try:
        return read_runs(folder_of(None, inventory))
    except MobiusError:
        return []  # no lab, or nothing was run on it


def _run(command: list[str], body: str) -> int:
    try:
        done = subprocess.run(command, input=body, text=True, check=False)
    except FileNotFoundError:
        raise MobiusError(
            "missing_dependency",
            "`gh`, the command of GitHub, is not installed.",
            do_next="Install it, or paste what `mobius pr` prints.",
        ) from None
    return int(ExitCode.SUCCESS if done.returncode == 0 else ExitCode.ENVIRONMENT)


def _issues(page: str) -> str:
    commands = []
    for entry in parse_entries(page):
        body = f"{entry.text}\n\nKnown since {entry.since}; effort {entry.effort}; {entry.owner}."
        labels = ["--label", entry.priority, "--label", "technical debt"]
        commands.append(shlex.join(["gh", "issue", "create", "--title", entry.title, *labels, "--body", body]))
    return "\n".join(commands)
