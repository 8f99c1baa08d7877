# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command `mobius-backup` on a host: what its timers run at night, with no controller in sight.

The same code as the modules', installed by the role backup, with its settings in `/etc/mobius-backup/<service>.json`.
Every run renews the metrics for Prometheus' node exporter, also one that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ansible_collections.mobius.dhash.plugins.module_utils import errors
from ansible_collections.mobius.dhash.plugins.module_utils.backup import copies, drill
from ansible_collections.mobius.dhash.plugins.module_utils.backup import metrics as backup_metrics
from ansible_collections.mobius.dhash.plugins.module_utils.backup import service as backup
from ansible_collections.mobius.dhash.plugins.module_utils.backup import settings as backup_settings
from ansible_collections.mobius.dhash.plugins.module_utils.backup.settings import Settings
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import CONFIG_DIR, Host, only_service
from ansible_collections.mobius.dhash.plugins.module_utils.host.failures import to_failure
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import TOOL_MODULES

COMMAND = "/usr/local/bin/mobius-backup"
SOURCES = (
    *TOOL_MODULES,
    *("gate", "backup", "backup.archive", "backup.console", "backup.copies", "backup.drill", "backup.metrics"),
    *("backup.restore", "backup.service", "backup.settings"),
)


def _create(host: Host, settings: Settings, _: argparse.Namespace) -> str:
    keep = backup.Keep(**settings.get("keep", {}))
    with tempfile.TemporaryDirectory() as scratch:
        taken = backup.take(
            host, scope=settings.get("scope", "full"), keep=keep, scratch=Path(scratch), name=settings.get("name")
        )
    newest = taken.backup.id if taken.backup else ""
    gone = f"; removed: {', '.join(taken.removed)}" if taken.removed else ""
    return f"{newest} written{gone}." if taken.written else f"Nothing changed since {newest}{gone}."


def _verify(host: Host, settings: Settings, options: argparse.Namespace) -> str:
    found = backup.verify(host, backup.part_of(options.subset or settings.get("subset")))
    if damaged := {name: why for name, why in found.items() if why is not None}:
        told = "; ".join(f"{name}: {why}" for name, why in damaged.items())
        raise MobiusError("backup_damaged", f"{len(damaged)} of {len(found)} backups are damaged: {told}.")
    return f"{len(found)} backups read, all whole."


def _drill(host: Host, settings: Settings, _: argparse.Namespace) -> str:
    asked = settings.get("drill", {})
    questions = drill.Questions.parse(asked.get("environment", {}), asked.get("probes", []), asked.get("count"))
    done = drill.drill(host, questions, name=settings.get("name"))
    return f"{done.backup.id} with {done.release or 'no release'}: {done.files} files, {done.seconds:g} s."


def _list(host: Host, _: Settings, options: argparse.Namespace) -> str:
    found = [item.as_dict() for item in backup.existing(host, options.of_host)]
    if options.json:
        return json.dumps(found, indent=2)
    return "\n".join(
        f"{item['id']:<22}  {item['bytes']:>14} bytes  {item['verified'] or 'not verified'}" for item in found
    )


def _push(host: Host, settings: Settings, _: argparse.Namespace) -> str:
    lines = []
    for place in backup_settings.places(settings):
        pushed = copies.push(host, place, settings.get("name") or os.uname().nodename)
        lines.append(f"{place.name}: {', '.join(pushed) if pushed else 'has the newest'}.")
    return "\n".join(lines) or "No place for copies is set."


def _pull(host: Host, settings: Settings, options: argparse.Namespace) -> str:
    places = {place.name: place for place in backup_settings.places(settings)}
    chosen = options.place or next(iter(places), "")
    if chosen not in places:
        raise MobiusError("invalid_input", f"There is no place for copies {chosen!r}; there are: {', '.join(places)}.")
    pulled = copies.pull(
        host,
        places[chosen],
        options.id,
        name=settings.get("name") or os.uname().nodename,
        of_host=options.of_host,
        identity=options.identity,
    )
    return f"{pulled} is whole."


def _metrics(host: Host, settings: Settings, _options: argparse.Namespace) -> str:
    backup_metrics.write(host, settings)
    return ""


# --- The command ------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mobius-backup",
        description="Backs this host's service up, proves the backups, and keeps copies elsewhere.",
        epilog="examples: mobius-backup verify --subset today/7; mobius-backup pull latest --of-host web1",
    )
    parser.add_argument("--service", help="which service; may be left out when the host has only one")
    parser.add_argument("--config-dir", default=backup_settings.CONFIG_DIR, help=argparse.SUPPRESS)
    parser.add_argument("--host-config-dir", default=CONFIG_DIR, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[Host, Settings, argparse.Namespace], str], text: str
    ) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.set_defaults(run=run)
        return found

    command("create", _create, "write a verified backup when anything changed, then rotate")
    verify = command("verify", _verify, "read the backups again and compare every digest")
    verify.add_argument("--subset", metavar="K/N", help="only the K-th part of N; today/N: another part each day")
    command("drill", _drill, "restore the newest backup aside and run its release on it")
    listing = command("list", _list, "show the backups")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.add_argument("--of-host", metavar="NAME", help="those that were pulled here of this other host")
    command("push", _push, "copy the newest backups to the places for copies")
    pull = command("pull", _pull, "bring a copy back into the backup folder")
    pull.add_argument("id", metavar="ID", help="the backup, or latest for the newest full one")
    pull.add_argument("--from", dest="place", metavar="NAME", help="the place; the first one when left out")
    pull.add_argument("--of-host", metavar="NAME", help="the host whose copy it is; this one when left out")
    pull.add_argument("--identity", metavar="FILE", help="the age key that opens an encrypted copy")
    command("metrics", _metrics, "renew the metrics, and do nothing else")
    return parser


def _warn(text: str) -> None:
    print(f"mobius-backup: {text}", file=sys.stderr)


def _stopped(*_: object) -> NoReturn:
    raise KeyboardInterrupt  # so that a drill that systemd stops removes what it made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code of the table in errors.py."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(errors.ExitCode.INPUT if stop.code else errors.ExitCode.SUCCESS)
    signal.signal(signal.SIGTERM, _stopped)
    try:
        service = options.service or only_service(options.host_config_dir)
        host = Host.load(service, options.host_config_dir)
        settings = backup_settings.read(service, options.config_dir)
        only_read = options.command in ("list", "metrics")
        with backup_metrics.renewed(host, options.config_dir, _warn, only_read=only_read):
            said = options.run(host, settings, options)
        if said:
            print(said)
        return int(errors.ExitCode.SUCCESS)
    except KeyboardInterrupt:
        failure = MobiusError("interrupted", "Interrupted.")
    except (MobiusError, OSError) as error:
        failure = to_failure(error)
    print(f"mobius-backup: {failure.reason}\n{failure.do_next}", file=sys.stderr)
    return int(failure.code)
