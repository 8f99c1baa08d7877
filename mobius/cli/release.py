# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The commands that run a playbook: `mobius provision`, `release`, `rollback`, `backup` and their like."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mobius import manifest
from mobius.cli.options import format_option
from mobius.cli.render.progress import showing
from mobius.control.run.outcome import ending
from mobius.control.run.runner import (
    DEFAULT_INVENTORY,
    DEFAULT_TIMEOUT,
    RunRequest,
    RunSummary,
    extra_argument,
    find_checkout,
    find_inventory,
    run_playbook,
)
from mobius.errors import ExitCode, MobiusError


@dataclass(frozen=True)
class Common:
    """The options that all these commands share."""

    inventory: str
    limit: str | None
    extra: tuple[str, ...]
    check: bool
    diff: bool
    timeout: float
    verbosity: int
    form: str


timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=DEFAULT_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Stop the run after this time (exit code 4).",
)
verbose_option = click.option("-v", "--verbose", "verbosity", count=True, help="Show more of Ansible; up to -vvvv.")


def common_options(command: Callable[..., int]) -> Callable[..., int]:
    """Adds the shared options; the command gets them as one `Common`."""
    options = (
        click.option(
            *("-i", "--inventory"),
            default=DEFAULT_INVENTORY,
            show_default=True,
            metavar="PATH",
            help="Inventory, from here or from the checkout.",
        ),
        click.option("--limit", metavar="PATTERN", help="Only these hosts or groups."),
        click.option("-e", "--extra-vars", "extra", multiple=True, metavar="KEY=VALUE|@FILE", help="Set variables."),
        click.option("--check", is_flag=True, help="Change nothing; say what would change."),
        click.option("--diff", is_flag=True, help="Show each change, before and after."),
        timeout_option,
        verbose_option,
        format_option,
    )

    @functools.wraps(command)
    def with_common(
        inventory: str,
        limit: str | None,
        extra: tuple[str, ...],
        check: bool,
        diff: bool,
        timeout: float,
        verbosity: int,
        form: str,
        **rest: Any,
    ) -> int:
        common = Common(inventory, limit, extra, check, diff, timeout, verbosity, form)
        return command(common, **rest)

    decorated: Callable[..., int] = with_common
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def bundle_option(command: Callable[..., int]) -> Callable[..., int]:
    return click.option(
        "--bundle", metavar="FILE", help="The bundle to release; without it, mobius_bundle of the inventory."
    )(command)


@click.command()
@common_options
def provision(common: Common) -> int:
    """Prepare the hosts: user, folders, units, and the command mobius-host.

    \b
    Example:
      mobius provision -i inventories/staging --check --diff
    """
    return finish(common, run(common, "provision.yml", {}))


@click.command()
@click.argument("service", metavar="SERVICE")
@common_options
def decommission(common: Common, service: str) -> int:
    """Take a service off its hosts for good: it stops, is backed up once more, and is removed. Its backups stay.

    SERVICE is its name, so that the wrong inventory takes nothing away. Other services on the hosts go on.

    \b
    Examples:
      mobius decommission mobius-dhash -i inventories/staging --check --diff
      mobius decommission gallery -e @gallery.yml
    """
    return finish(common, run(common, "decommission.yml", {"mobius_decommission": service}))


@click.command()
@bundle_option
@common_options
def deploy(common: Common, bundle: str | None) -> int:
    """Stage a bundle on the hosts and prove it in standby. Nothing public changes.

    \b
    Example:
      mobius deploy --bundle dist/mobius-dhash-1.0.0.tar.gz
    """
    return finish(common, run(common, "deploy.yml", bundle_variables(bundle)))


@click.command()
@click.option(
    "--release", "release_id", required=True, metavar="ID", help="A staged release; `mobius status` lists them."
)
@common_options
def promote(common: Common, release_id: str) -> int:
    """Let a staged release serve. It is taken back everywhere unless every host passes the gate.

    \b
    Example:
      mobius promote --release 1.0.0-0123456789ab
    """
    return finish(common, run(common, "promote.yml", {"mobius_release": release_id_of(release_id)}))


@click.command()
@bundle_option
@common_options
def release(common: Common, bundle: str | None) -> int:
    """Backup, deploy and promote in one run.

    \b
    Examples:
      mobius release --bundle dist/mobius-dhash-1.0.0.tar.gz --check --diff
      mobius release --bundle dist/mobius-dhash-1.0.0.tar.gz -i inventories/staging
    """
    return finish(common, run(common, "release.yml", bundle_variables(bundle)))


@click.command()
@click.option("--to", "release_id", metavar="ID", help="The release to go back to; without it, the last healthy one.")
@click.option("--reason", metavar="TEXT", help="Why; kept with the release that is taken back.")
@click.option("--list", "listing", is_flag=True, help="Only show what there is to go back to.")
@click.option("--backup", "backup_id", metavar="ID", help="Bring the data of this backup back, too; or latest.")
@click.option("--yes", is_flag=True, help="With --backup, do not ask whether later writes may be lost.")
@common_options
def rollback(
    common: Common, release_id: str | None, reason: str | None, listing: bool, backup_id: str | None, yes: bool
) -> int:
    """Go back to an earlier release, at once. The one that is left is marked bad.

    With --backup the data goes back as well, to what it was when the backup was made: it is said how many later writes
    are lost by that, and asked. What is there now is saved as a backup first; clients get 503 while it is exchanged.

    \b
    Examples:
      mobius rollback --list
      mobius rollback --reason "wrong hashes"
      mobius rollback --to 1.0.0-0123456789ab --limit lab2
      mobius rollback --backup latest --limit lab2
    """
    if listing:
        return _list_releases(common)
    variables: dict[str, Any] = {}
    if release_id:
        variables["mobius_to"] = release_id_of(release_id)
    if reason:
        variables["mobius_reason"] = reason
    if not backup_id:
        return finish(common, run(common, "rollback.yml", variables))
    variables["mobius_backup"] = backup_id
    going = functools.partial(run, playbook="rollback.yml", watched="mobius.dhash.restore")
    told = functools.partial(finish, common, key="restored", lines=_restored_lines)
    if not (yes or common.check) and sys.stdin.isatty():
        looked = going(dataclasses.replace(common, check=True), variables=variables)
        if looked.ending.code != ExitCode.SUCCESS:
            return told(looked)
        for host, result in sorted(looked.results.items()):
            click.echo(os.linesep.join(_restored_lines(host, result)), err=True)
        loses = any(result.get("lost") != 0 for result in looked.results.values())
        if loses and not click.confirm("Go back, and lose what was written later?", err=True):
            raise MobiusError("interrupted", "Nothing was changed.")
        yes = loses
    return told(going(common, variables={**variables, "mobius_accept_loss": yes}))


@click.command()
@common_options
def status(common: Common) -> int:
    """Show what every host keeps and serves.

    \b
    Example:
      mobius status --format json
    """
    return _show_releases(common)


@click.group()
def backup() -> None:
    """Back up the hosts; list, verify, restore, try or remove their backups.

    \b
    Examples:
      mobius backup create
      mobius backup list --limit lab1
      mobius backup verify --subset 1/7 --format json
    """


@backup.command("create")
@click.option("--scope", type=click.Choice(["full", "state"]), help="state leaves the pictures out, but their digests.")
@common_options
def backup_create(common: Common, scope: str | None) -> int:
    """Write a verified backup on each host, unless nothing changed since the newest one."""
    return _show_backups(common, "create", {"backup_scope": scope} if scope else {})


@backup.command("list")
@common_options
def backup_list(common: Common) -> int:
    """Show the backups of each host."""
    return _show_backups(common, "list", {})


@backup.command("verify")
@click.option("--subset", metavar="K/N", help="Read the K-th part of N only; today/N: another part each day.")
@common_options
def backup_verify(common: Common, subset: str | None) -> int:
    """Read every backup of each host again and compare every digest."""
    return _show_backups(common, "verify", {"backup_subset": subset} if subset else {})


@backup.command("prune")
@common_options
def backup_prune(common: Common) -> int:
    """Remove the backups that the inventory's rules no longer keep."""
    return _show_backups(common, "prune", {})


@backup.command("restore")
@click.argument("backup_id", metavar="ID")
@click.option("--of-host", metavar="NAME", help="Accept the backup of this other host.")
@common_options
def backup_restore(common: Common, backup_id: str, of_host: str | None) -> int:
    """Bring a backup back, after saving the present state. ID as `mobius backup list` shows it, or latest.

    \b
    Examples:
      mobius backup restore latest --limit lab1 --check --diff
      mobius backup restore 20260131T230501Z-full --limit lab1
    """
    variables = {"backup_restore_id": backup_id, **({"backup_of_host": of_host} if of_host else {})}
    summary = run(common, "backup.yml", variables, tags=("restore",), watched="mobius.dhash.restore")
    return finish(common, summary, key="restored", lines=_restored_lines)


@click.command()
@click.argument("topics", nargs=-1, metavar="[service] [logging]", type=click.Choice(["service", "logging"]))
@common_options
def smoke(common: Common, topics: tuple[str, ...]) -> int:
    """Ask the release that every host serves whether it does what it promises, in production mode.

    `service` asks for health, readiness, metrics, right hashes, the API and its refusals; `logging` for the log's form,
    rotation, modes, silence of the console, uncaught exceptions, redacted secrets and the count of lost lines. Both
    without a word. Each host's report lists what was checked and what was seen. Nothing is changed.

    \b
    Examples:
      mobius smoke
      mobius smoke logging --limit lab1 --format json
    """
    variables = {"mobius_smoke": [*dict.fromkeys(topics)]} if topics else {}
    summary = run(common, "smoke.yml", variables, watched="ansible.builtin.command")
    reports = {host: report for host, result in summary.results.items() if (report := _report(result))}
    return finish(common, dataclasses.replace(summary, results=reports), key="smoke", lines=_smoke_lines)


def _report(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the smoke test of one host printed; empty when it did not come so far."""
    try:
        said = json.loads(result.get("stdout", ""))
    except ValueError:
        return {}
    return said if isinstance(said, dict) and "checks" in said else {}


def _smoke_lines(host: str, report: Mapping[str, Any]) -> list[str]:
    checks = report["checks"]
    lines = [f"{host}  {report['release']}: {len(checks) - report['failed']} of {len(checks)} checks passed"]
    return lines + [
        f"  {'ok  ' if one['ok'] else 'FAIL'}  {one['topic']:<7}  {one['name']}: {one['seen']}" for one in checks
    ]


@backup.command("drill")
@common_options
def backup_drill(common: Common) -> int:
    """Restore each host's newest backup aside, start its release on it until it answers, and remove all of it again.

    \b
    Examples:
      mobius backup drill --check
      mobius backup drill -i inventories/production --limit host1
    """
    summary = run(common, "restore_drill.yml", {}, watched="mobius.dhash.restore_drill")
    return finish(common, summary, key="drills", lines=_drill_lines)


def bundle_variables(bundle: str | None) -> dict[str, Any]:
    """`mobius_bundle` as an absolute path, since the playbook is run in the checkout.

    Raises:
        MobiusError: bundle_invalid, when there is no such file.
    """
    if bundle is None:
        return {}
    place = Path(bundle).expanduser().absolute()
    if not place.is_file():
        raise MobiusError(
            "bundle_invalid",
            f"There is no bundle {place}.",
            do_next="Build one with `mobius bundle build`, or give the path of one.",
        )
    return {"mobius_bundle": str(place)}


def release_id_of(text: str) -> str:
    if not manifest.RELEASE_ID.fullmatch(text):
        raise MobiusError("invalid_input", f"{text!r} is not a release id like 1.0.0-0123456789ab.")
    return text


def run(
    common: Common,
    playbook: str,
    variables: Mapping[str, Any],
    *,
    tags: tuple[str, ...] = (),
    watched: str | None = None,
    planning: bool = False,
) -> RunSummary:
    """Run one playbook. What is refused before Ansible starts ends as a summary too: programs get their JSON."""
    try:
        checkout = find_checkout()
        request = RunRequest(
            playbook=checkout / "playbooks" / playbook,
            inventory=find_inventory(common.inventory, checkout),
            checkout=checkout,
            variables=variables,
            extra=tuple(extra_argument(text) for text in common.extra),
            limit=common.limit,
            tags=tags,
            check=common.check,
            diff=common.diff,
            verbosity=common.verbosity,
            timeout=common.timeout,
            watched=watched,
            planning=planning,
        )
        lines = functools.partial(click.echo, err=True)
        with showing(lines, verbose=common.verbosity > 0, lasting=watched is None) as show:
            return run_playbook(request, show)
    except MobiusError as error:
        end = ending(error.outcome, error.reason, do_next=error.do_next)
        return RunSummary("", playbook, common.check, end, {}, {}, 0.0)


def _show_releases(common: Common) -> int:
    summary = run(common, "status.yml", {}, watched="mobius.dhash.release_info")
    return finish(common, summary, key="releases", lines=_release_lines)


def _list_releases(common: Common) -> int:
    """What there is to go back to: text for people, for programs a list with one object a host and release."""
    summary = run(common, "status.yml", {}, watched="mobius.dhash.release_info")
    if common.form == "json":
        rows = [row for host, result in sorted(summary.results.items()) for row in _kept(host, result)]
        click.echo(json.dumps({**summary.as_dict(), "releases": rows}, indent=2, sort_keys=True))
        if summary.ending.code != ExitCode.SUCCESS:
            click.echo(os.linesep.join(summary.ending.lines(summary.run)), err=True)
        return int(summary.ending.code)
    return finish(common, summary, key="releases", lines=_kept_lines)


# An instance that starts or drains does not serve; there is no going back to a release that was removed.
_LISTED = {"serving": "serving", "standby": "standby", "draining": "standby", "starting": "standby"}


def _kept(host: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`{host, release, state, activated, reason}` of each release that the host keeps, the newest activation first.

    `state` is serving, standby, kept or bad; one that is marked bad is bad unless it serves.
    """
    rows = []
    for item in result.get("releases", []):
        if not item["staged"]:
            continue
        state = _LISTED.get(item["state"], "kept")
        if item["bad"] and state != "serving":
            state = "bad"
        dated = {"activated": item["activated"], "reason": item["reason"]}
        rows.append({"host": host, "release": item["release"], "state": state, **dated})
    return sorted(rows, key=lambda row: row["activated"] or "", reverse=True)


def _kept_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    rows = _kept(host, result)
    now = datetime.now(UTC)
    lines = [f"{host}  {'nothing is kept' if not rows else f'{len(rows)} kept'}"]
    for row in rows:
        age = _age(row["activated"], now)
        lines.append(f"  {row['release']:<32}  {row['state']:<8}  {age:<10}  {row['reason'] or ''}".rstrip())
    return lines


def _age(activated: str | None, now: datetime) -> str:
    """How long ago an RFC 3339 time was, in its largest unit; "never" for none."""
    if activated is None:
        return "never"
    seconds = max(0.0, (now - datetime.fromisoformat(activated)).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _show_backups(common: Common, tag: str, variables: Mapping[str, Any]) -> int:
    summary = run(common, "backup.yml", variables, tags=(tag,), watched="mobius.dhash.backup")
    return finish(common, summary, key="backups", lines=_backup_lines)


def _release_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    lines = [f"{host}  serving {result.get('confirmed') or 'nothing'}"]
    pending = result.get("pending")
    if pending:
        lines.append(f"  {pending['release']}  provisional, stage {pending.get('stage', 'unknown')}")
    for item in result.get("releases", []):
        why = f"  {item['reason']}" if item.get("reason") else ""
        lines.append(f"  {item['release']:<32}  {item['state']:<8}  {item.get('activated') or '':<25}{why}".rstrip())
    return lines


def _backup_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    lines = [f"{host}  {len(result.get('backups', []))} backups in {result.get('folder', '')}"]
    return lines + [
        f"  {item['id']:<22}  {item['bytes']:>12} bytes  {item['release'] or 'no release':<32}  {_word(item)}"
        for item in result.get("backups", [])
    ]


def _restored_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    if not result.get("differences"):
        return [f"{host}  is as {result.get('id')} says"]
    saved = " and ".join(result[key] for key in ("saved", "saved_state") if result.get(key))
    before = f"; the state from before is {saved}" if saved else ""
    lost = result.get("lost")
    later = "" if lost is None else f"; {lost} later writes {'are' if saved else 'would be'} lost"
    return [f"{host}  {result['id']}{later}{before}", *(f"  {name}" for name in result["differences"])]


def _drill_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    if "backup" not in result:
        return []
    release = result.get("release") or "no release"
    if result.get("predicted"):
        return [f"{host}  {result['backup']} is whole; a drill would start {release} on it"]
    counted = f", {result['counted']} pictures" if result.get("counted") is not None else ""
    return [f"{host}  {result['backup']} with {release}: {result['files']} files{counted}, {result['seconds']:g} s"]


def _word(item: Mapping[str, Any]) -> str:
    if item["damaged"]:
        return f"damaged: {item['damaged']}"
    return f"verified {item['verified']}" if item["verified"] else "not verified"


def finish(
    common: Common,
    summary: RunSummary,
    *,
    key: str = "",
    lines: Callable[[str, Mapping[str, Any]], list[str]] | None = None,
) -> int:
    """Print the summary, for people or for programs, and give the exit code.

    Args:
        key: name of the watched results in the JSON object.
        lines: how people see the watched result of one host.
    """
    end = summary.ending
    if common.form == "json":
        found = {key: {host: _plain(result) for host, result in sorted(summary.results.items())}} if key else {}
        click.echo(json.dumps({**summary.as_dict(), **found}, indent=2, sort_keys=True))
    else:
        for host, result in sorted(summary.results.items()):
            for line in lines(host, result) if lines else ():
                click.echo(line)
        if summary.changed and not key:
            word = "would change" if summary.check else "changed"
            click.echo(", ".join(f"{host}: {count} {word}" for host, count in summary.changed.items()))
    if common.form == "text" or end.code != ExitCode.SUCCESS:
        text = os.linesep.join(end.lines(summary.run))
        failed = end.code != ExitCode.SUCCESS
        # a terminal that is gone takes the words with it, not the exit code
        with contextlib.suppress(OSError) if failed else contextlib.nullcontext():
            click.echo(text, err=failed)
    return int(end.code)


def _plain(result: Mapping[str, Any]) -> dict[str, Any]:
    """A module's own result, without what Ansible adds to it."""
    return {name: value for name, value in result.items() if not name.startswith("_") and name != "invocation"}
