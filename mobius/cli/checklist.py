# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius checklist`: run the boxes that a command checks, prompt for the others, and record who answered what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

from mobius.cli.history import folder_of
from mobius.cli.options import format_option
from mobius.cli.output import ReportedError
from mobius.cli.render.checklist import box_lines
from mobius.control.checklist.boxes import DEMANDS, STAGES, Box, boxes_of
from mobius.control.checklist.session import Answer, ChecklistSession, open_boxes, read_answers
from mobius.control.history.intent import short_path
from mobius.control.history.query import read_runs
from mobius.control.history.verifier import FILE_NAME
from mobius.control.history.writer import History
from mobius.control.run.project import DEFAULT_INVENTORY, find_inventory, find_project
from mobius.control.run.run_id import find_actor
from mobius.errors import ExitCode, MobiusError
from mobius.manifest import ManifestError, sha256_file


@click.command()
@click.option(
    "--bundle", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The bundle that is released."
)
@click.option("-i", "--inventory", default=DEFAULT_INVENTORY, show_default=True, metavar="PATH", help="Its hosts.")
@click.option("--stage", type=click.Choice(STAGES), default="before", show_default=True, help="Which part of the list.")
@click.option(
    "--answer", "given", multiple=True, metavar="BOX=yes|no[:NOTE]", help="Answer a person's box; may be repeated."
)
@click.option("--by", metavar="NAME", help="Who answers.  [default: the user who is logged in]")
@click.option("--list", "listing", is_flag=True, help="Only show what is ticked and what is open.")
@click.option("--run-checks/--no-run-checks", default=True, show_default=True, help="Run the commands of open boxes.")
@format_option
def checklist(
    bundle: Path,
    inventory: str,
    stage: str,
    given: tuple[str, ...],
    by: str | None,
    listing: bool,
    run_checks: bool,
    form: str,
) -> int:
    """Go through DEPLOYMENT_CHECKLIST.md for a bundle: run what a command can check, prompt for the others.

    Each answer is recorded in the history at once, with who gave it. An answered box is not prompted for again, so a
    session that was interrupted goes on; the result of a command counts for two hours. Exit code 1 while a box is open.

    \b
    Examples:
      mobius checklist --bundle dist/mobius-dhash-1.4.0.tar.gz
      mobius checklist --bundle dist/mobius-dhash-1.4.0.tar.gz --answer on-call=yes:Ada --answer users=yes
      mobius checklist --bundle dist/mobius-dhash-1.4.0.tar.gz --stage after
      mobius checklist --bundle dist/mobius-dhash-1.4.0.tar.gz --list
    """
    digest = _digest_of(bundle)
    boxes = boxes_of(stage)
    folder = folder_of(None, inventory)
    project = find_project()
    name = short_path(find_inventory(inventory, project), project.collection, project.folder)
    answers = read_answers(read_runs(folder), digest, name) if (folder / FILE_NAME).exists() else {}
    replies = dict(_parse_reply(text, boxes) for text in given)
    why = "--list only shows the list"
    if not listing:
        session = ChecklistSession(History(folder), find_actor(os.environ), bundle.name, digest, name, stage)
        outcome = "interrupted"
        try:
            gate = _answer(
                session, boxes, answers, replies, bundle, digest, inventory, by or find_actor(os.environ), run_checks
            )
            why = f"the gate {gate} before them is open"
            outcome = "checklist_open" if open_boxes(boxes, answers, datetime.now(UTC)) else "success"
        finally:
            session.close(outcome)
    if replies:
        click.echo(f"Not recorded: {', '.join(replies)}; {why}.", err=True)
    return _report(boxes, answers, form)


def _digest_of(bundle: Path) -> str:
    try:
        return sha256_file(bundle)
    except (ManifestError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MobiusError("bundle_invalid", f"The bundle {bundle} cannot be read: {reason}.") from None


def _parse_reply(text: str, boxes: Iterable[Box]) -> tuple[str, tuple[bool, str]]:
    """`on-call=yes:Ada` -> `on-call`, (True, `Ada`).

    Raises:
        MobiusError: invalid_input, when it is no answer to a person's box of this stage.
    """
    name, _, value = text.partition("=")
    verdict, _, note = value.partition(":")
    names = [box.name for box in boxes if not box.command]
    if name not in names:
        raise MobiusError("invalid_input", f"{name!r} is no box that a person answers; {', '.join(names)} are.")
    if verdict not in ("yes", "no"):
        raise MobiusError("invalid_input", f"{text!r} is no answer like {name}=yes or {name}=no:REASON.")
    return name, (verdict == "yes", note)


def _answer(
    session: ChecklistSession,
    boxes: Iterable[Box],
    answers: dict[str, Answer],
    replies: dict[str, tuple[bool, str]],
    bundle: Path,
    digest: str,
    inventory: str,
    by: str,
    run_checks: bool,
) -> str | None:
    """Answer each open box, in order, up to the first gate that is not ticked; gives that gate's name.

    Takes what it records out of `replies`.
    """
    for box in boxes:
        is_open = bool(open_boxes([box], answers, datetime.now(UTC)))
        if box.name in replies:
            is_good, note = replies.pop(box.name)
            answers[box.name] = session.record(box, is_good=is_good, by=by, note=note)
        elif is_open and box.command and run_checks:
            answers[box.name] = _run_check(session, box, bundle, digest, inventory)
        elif is_open and not box.command and sys.stdin.isatty():
            click.echo(f"{box.at}  {box.role}", err=True)
            is_good = click.confirm(box.text, err=True)
            note = "" if is_good else click.prompt("Why not", default="", show_default=False, err=True)
            answers[box.name] = session.record(box, is_good=is_good, by=by, note=note)
        if box.is_gate and open_boxes([box], answers, datetime.now(UTC)):
            return box.name
    return None


def _run_check(session: ChecklistSession, box: Box, bundle: Path, digest: str, inventory: str) -> Answer:
    arguments = box.arguments(str(bundle), inventory)
    click.echo(f"{box.at}  mobius {' '.join(arguments)}", err=True)
    command = [sys.executable, "-m", "mobius.cli", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    problem = f"exit code {done.returncode}" if done.returncode else ""
    if not problem and box.demand:
        problem = _unmet_demand(box, done.stdout, digest)
    elif not box.demand:
        click.echo(done.stdout, err=True, nl=False)
    return session.record(box, is_good=not problem, by="mobius", note=problem)


def _unmet_demand(box: Box, output: str, digest: str) -> str:
    """Which hosts do not show in their status what the box demands; empty when all do."""
    try:
        hosts = json.loads(output)["releases"]
    except (ValueError, KeyError, TypeError):
        return "the status cannot be read"
    reasons = {host: DEMANDS[box.demand](status, digest) for host, status in sorted(hosts.items())}
    unmet = [f"{host} {reason}" for host, reason in reasons.items() if reason]
    return "; ".join(unmet) if hosts else "no host has answered"


def _report(boxes: Iterable[Box], answers: Mapping[str, Answer], form: str) -> int:
    now = datetime.now(UTC)
    remaining = open_boxes([*boxes], answers, now)
    if form == "json":
        ticked = {name: vars(answer) for name, answer in answers.items()}
        click.echo(json.dumps({"answers": ticked, "open": [box.name for box in remaining]}, indent=2, sort_keys=True))
    else:
        for line in box_lines([*boxes], answers, now):
            click.echo(line)
    if not remaining:
        return int(ExitCode.SUCCESS)
    raise ReportedError("checklist_open", f"Open: {', '.join(box.name for box in remaining)}.")
