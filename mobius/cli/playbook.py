# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the commands that run a playbook share: their options, the run itself, and its end."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mobius import manifest
from mobius.cli.options import format_option
from mobius.cli.output import print_json, print_lines
from mobius.cli.render.outcome import ending_dict, outcome_lines
from mobius.cli.render.progress import showing
from mobius.cli.render.text import style_of
from mobius.control.run.account import RunAccount
from mobius.control.run.outcome import ending
from mobius.control.run.project import DEFAULT_INVENTORY, find_inventory, find_project
from mobius.control.run.runner import (
    DEFAULT_TIMEOUT,
    RunRequest,
    RunSummary,
    extra_argument,
    limit_argument,
    run_playbook,
)
from mobius.errors import ExitCode, MobiusError


@dataclass(frozen=True)
class PlaybookOptions:
    """The options of every command that runs a playbook."""

    inventory: str
    limit: str | None
    extra: tuple[str, ...]
    check: bool
    diff: bool
    timeout: float
    verbosity: int
    form: str
    project: Path | None = None


timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=DEFAULT_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Stop the run after this time (exit code 4).",
)
verbose_option = click.option("-v", "--verbose", "verbosity", count=True, help="Show more of Ansible; up to -vvvv.")


project_option = click.option(
    "--project",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The folder with mobius.yml.  [default: the current one]",
)


_Decorator = Callable[[Callable[..., int]], Callable[..., int]]


def playbook_options(command: Callable[..., int]) -> Callable[..., int]:
    """Adds these options; the command gets them as one `PlaybookOptions`."""
    return _with_options(
        command,
        click.option("--check", is_flag=True, help="Change nothing; say what would change."),
        click.option("--diff", is_flag=True, help="Show each change, before and after."),
    )


def reading_options(command: Callable[..., int]) -> Callable[..., int]:
    """Adds the options of a command that changes nothing, so that there is nothing to check beforehand."""
    return _with_options(command)


def _with_options(command: Callable[..., int], *changing: _Decorator) -> Callable[..., int]:
    shared: tuple[_Decorator, ...] = (
        click.option(
            *("-i", "--inventory"),
            default=DEFAULT_INVENTORY,
            show_default=True,
            metavar="PATH",
            help="Inventory: a path below the current folder or the project.",
        ),
        click.option("--limit", metavar="PATTERN", help="Only these hosts or groups."),
        click.option("-e", "--extra-vars", "extra", multiple=True, metavar="KEY=VALUE|@FILE", help="Set variables."),
        *changing,
        timeout_option,
        verbose_option,
        project_option,
        format_option,
    )

    @functools.wraps(command)
    def with_options(
        inventory: str,
        limit: str | None,
        extra: tuple[str, ...],
        timeout: float,
        verbosity: int,
        project: Path | None,
        form: str,
        *,
        check: bool = False,
        diff: bool = False,
        **others: Any,
    ) -> int:
        options = PlaybookOptions(inventory, limit, extra, check, diff, timeout, verbosity, form, project)
        return command(options, **others)

    decorated: Callable[..., int] = with_options
    for option in reversed(shared):
        decorated = option(decorated)
    return decorated


def new_chain_option(command: Callable[..., int]) -> Callable[..., int]:
    """Adds --new-chain, for a command that is recorded; it becomes an extra variable, since it counts for one run."""

    @functools.wraps(command)
    def with_reason(new_chain: str | None, extra: tuple[str, ...], **others: Any) -> int:
        return command(extra=(*extra, json.dumps({"mobius_new_chain": new_chain})) if new_chain else extra, **others)

    decorated: Callable[..., int] = click.option(
        "--new-chain",
        metavar="REASON",
        help="Begin a new history on hosts that have witnessed another one; this is recorded.",
    )(with_reason)
    return decorated


def bundle_option(command: Callable[..., int]) -> Callable[..., int]:
    return click.option(
        "--bundle", metavar="FILE", help="The bundle to release; without it, mobius_bundle of the inventory."
    )(command)


def bundle_variables(bundle: str | None) -> dict[str, Any]:
    """`mobius_bundle` as an absolute path, since the playbook runs in the project's folder.

    Raises:
        MobiusError: bundle_invalid, when there is no such file.
    """
    if bundle is None:
        return {}
    path = Path(bundle).expanduser().absolute()
    if not path.is_file():
        raise MobiusError(
            "bundle_invalid",
            f"There is no bundle {path}.",
            do_next="Build one with `mobius bundle build`, or give the path of one.",
        )
    return {"mobius_bundle": str(path)}


def release_id_of(text: str) -> str:
    """The text, which must be a release id or a revision.

    Raises:
        MobiusError: invalid_input, when it is none.
    """
    if not manifest.REVISION.fullmatch(text):
        raise MobiusError("invalid_input", f"{text!r} is not a release id like 1.0.0-0123456789ab.")
    return text


def run(
    options: PlaybookOptions,
    playbook: str,
    variables: Mapping[str, Any],
    *,
    tags: tuple[str, ...] = (),
    watched: str | None = None,
    planning: bool = False,
) -> RunSummary:
    """Run one playbook. What is refused before Ansible starts ends as a summary too: programs get their JSON."""
    try:
        project = find_project(named=options.project)
        request = RunRequest(
            playbook=project.playbooks / playbook,
            inventory=find_inventory(options.inventory, project),
            project=project,
            variables=variables,
            extra=tuple(extra_argument(text) for text in options.extra),
            limit=limit_argument(options.limit),
            tags=tags,
            check=options.check,
            diff=options.diff,
            verbosity=options.verbosity,
            timeout=options.timeout,
            watched=watched,
            planning=planning,
        )
        lines = functools.partial(click.echo, err=True)
        with showing(lines, verbose=options.verbosity > 0, lasting=watched is None) as show:
            return run_playbook(request, show)
    except MobiusError as error:
        end = ending(error.outcome, error.reason, do_next=error.do_next)
        return RunSummary("", playbook, options.check, end, {}, {}, 0.0)


def finish(
    options: PlaybookOptions,
    summary: RunSummary,
    *,
    key: str = "",
    lines: Callable[[str, Mapping[str, Any]], list[str]] | None = None,
) -> int:
    """Print the summary, for people or for programs, and give the exit code.

    Args:
        key: name of the watched results in the JSON object.
        lines: the text of one host's watched result.
    """
    end = summary.ending
    if options.form == "json":
        results = {key: {host: _own_fields(result) for host, result in sorted(summary.results.items())}} if key else {}
        print_json({**summary_dict(summary), **results})
    elif lines:
        for host, result in sorted(summary.results.items()):
            for line in lines(host, result):
                click.echo(line)
    if options.form == "text" or end.code != ExitCode.SUCCESS:
        print_ending(summary.account)
    return int(end.code)


def print_ending(account: RunAccount, *heading: str) -> None:
    """Print the block of an ending: a success to standard output, everything else to standard error."""
    failed = account.ending.code != ExitCode.SUCCESS
    print_lines([*heading, *outcome_lines(account, style_of(err=failed))], err=failed)


def summary_dict(summary: RunSummary) -> dict[str, Any]:
    """The object of `--format json` at the end of a run, without the results."""
    return {**summary.as_dict(), **ending_dict(summary.account)}


def _own_fields(result: Mapping[str, Any]) -> dict[str, Any]:
    """A module's own result, without what Ansible adds to it."""
    return {name: value for name, value in result.items() if not name.startswith("_") and name != "invocation"}
