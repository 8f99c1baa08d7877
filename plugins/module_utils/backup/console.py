# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command `mobius-backup` on a host: what its timers run at night, without a controller.

The same code as the modules', installed by the role backup, with its settings in `/etc/mobius-backup/<service>.json`.
Every run writes the metrics for Prometheus' node exporter again, also one that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ExitCode, MobiusError
from ..host.config import CONFIG_DIR as HOST_CONFIG_DIR
from ..host.config import Host, only_service
from ..host.failures import to_failure
from ..host.install import TOOL_MODULES
from .copies import pull_copy, push_copies
from .drill import run_drill
from .drill_instance import DrillChecks
from .metrics import update_metrics, write_metrics
from .retention import KeepRules
from .service import create_backup, require_sound_source
from .settings import CONFIG_DIR, BackupSettings, copy_targets, read_settings
from .store import list_backups
from .verification import describe_whole, parse_part, require_whole, verify_backups

BACKUP_TOOL_MODULES = (
    *TOOL_MODULES,
    *("disk_space", "gate", "gate.probes", "gate.requests", "backup"),
    *("backup.archive", "backup.archive_writer", "backup.clock", "backup.console", "backup.copies", "backup.database"),
    *("backup.drill", "backup.drill_instance", "backup.extraction", "backup.live_state", "backup.metrics"),
    *("backup.restore", "backup.retention", "backup.safe_open", "backup.service", "backup.settings"),
    *("backup.snapshot", "backup.source", "backup.store", "backup.swap", "backup.verification"),
)
"""What the installed command consists of, by module name; its digest covers every file."""

_READING_COMMANDS = ("list", "metrics")


def _create(host: Host, settings: BackupSettings, _: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        result = create_backup(
            host,
            scope=settings.get("scope", "full"),
            keep=KeepRules(**settings.get("keep", {})),
            scratch=Path(scratch),
            host_name=settings.get("name"),
            databases=settings.get("databases", []),
        )
    require_sound_source(host, result)
    newest = result.backup.id if result.backup else ""
    removed = f"; removed: {', '.join(result.removed)}" if result.removed else ""
    return f"{newest} written{removed}." if result.written else f"Nothing changed since {newest}{removed}."


def _verify(host: Host, settings: BackupSettings, options: argparse.Namespace) -> str:
    part = parse_part(options.subset or settings.get("subset"))
    results = verify_backups(host, part)
    require_whole(results, part)
    return describe_whole(len(results), part)


def _drill(host: Host, settings: BackupSettings, _: argparse.Namespace) -> str:
    drill = settings.get("drill", {})
    checks = DrillChecks.parse(drill.get("environment", {}), drill.get("probes", []), drill.get("count"))
    result = run_drill(host, checks, host_name=settings.get("name"))
    return f"{result.backup.id} with {result.release or 'no release'}: {result.files} files, {result.seconds:g} s."


def _list(host: Host, _: BackupSettings, options: argparse.Namespace) -> str:
    backups = [backup.as_dict() for backup in list_backups(host, options.of_host)]
    if options.json:
        return json.dumps(backups, indent=2)
    return "\n".join(
        f"{backup['id']:<22}  {backup['bytes']:>14} bytes  {_describe_knowledge(backup)}" for backup in backups
    )


def _describe_knowledge(backup: Mapping[str, Any]) -> str:
    """What is known of a backup: its damage, when it was last verified, and whether it was made of damaged data."""
    known = f"damaged: {backup['damaged']}" if backup["damaged"] else backup["verified"] or "not verified"
    return f"{known}, made of damaged data: {backup['source_damage']}" if backup["source_damage"] else known


def _push(host: Host, settings: BackupSettings, _: argparse.Namespace) -> str:
    lines = []
    for target in copy_targets(settings):
        pushed = push_copies(host, target, _host_name(settings))
        lines.append(f"{target.name}: {', '.join(pushed) if pushed else 'has the newest'}.")
    return "\n".join(lines) or "The settings name no copy target."


def _pull(host: Host, settings: BackupSettings, options: argparse.Namespace) -> str:
    targets = {target.name: target for target in copy_targets(settings)}
    name = options.target or next(iter(targets), "")
    if name not in targets:
        raise MobiusError("invalid_input", f"There is no copy target {name!r}; there are: {', '.join(targets)}.")
    path = pull_copy(
        host,
        targets[name],
        options.id,
        host_name=_host_name(settings),
        of_host=options.of_host,
        identity=options.identity,
    )
    return f"{path} is whole."


def _metrics(host: Host, settings: BackupSettings, _: argparse.Namespace) -> str:
    write_metrics(host, settings)
    return ""


def _host_name(settings: BackupSettings) -> str:
    return settings.get("name") or os.uname().nodename


# --- The command ------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mobius-backup",
        description="Backs up this host's service, verifies the backups, and keeps copies on other hosts.",
        epilog="examples: mobius-backup verify --subset today/7; mobius-backup pull latest --of-host web1",
    )
    parser.add_argument("--service", help="which service; may be left out when the host has only one")
    parser.add_argument("--config-dir", default=CONFIG_DIR, help=argparse.SUPPRESS)
    parser.add_argument("--host-config-dir", default=HOST_CONFIG_DIR, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add_command(
        name: str, run: Callable[[Host, BackupSettings, argparse.Namespace], str], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    add_command("create", _create, "write a verified backup when anything changed, then rotate")
    verify = add_command("verify", _verify, "read the backups again and compare every digest")
    verify.add_argument("--subset", metavar="K/N", help="only the K-th part of N; today/N: another part each day")
    add_command("drill", _drill, "restore the newest backup aside and run its release on it")
    listing = add_command("list", _list, "show the backups")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.add_argument("--of-host", metavar="NAME", help="those that were pulled here of this other host")
    add_command("push", _push, "copy the newest backups to the copy targets")
    pull = add_command("pull", _pull, "fetch a copy into the backup folder")
    pull.add_argument("id", metavar="ID", help="the backup, or latest for the newest full one")
    pull.add_argument("--from", dest="target", metavar="NAME", help="the copy target; the first one when left out")
    pull.add_argument("--of-host", metavar="NAME", help="the host whose copy it is; this one when left out")
    pull.add_argument("--identity", metavar="FILE", help="the age key that decrypts an encrypted copy")
    add_command("metrics", _metrics, "write the metrics, and do nothing else")
    return parser


def _warn(text: str) -> None:
    print(f"mobius-backup: {text}", file=sys.stderr)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt  # so that a drill that systemd stops removes what it made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code of the table in errors.py."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(ExitCode.INPUT if stop.code else ExitCode.SUCCESS)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        service = options.service or only_service(options.host_config_dir)
        host = Host.load(service, options.host_config_dir)
        settings = read_settings(service, options.config_dir)
        read_only = options.command in _READING_COMMANDS
        with update_metrics(host, options.config_dir, _warn, read_only=read_only):
            report = options.run(host, settings, options)
        if report:
            print(report)
        return int(ExitCode.SUCCESS)
    except KeyboardInterrupt:
        failure = MobiusError("interrupted", "Interrupted.")
    except (MobiusError, OSError) as error:
        failure = to_failure(error)
    print(f"mobius-backup: {failure.reason}\n{failure.do_next}", file=sys.stderr)
    return int(failure.code)
