# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command `mobius`: its groups, imported only when they are used, and the one place where failures become codes."""

from __future__ import annotations

import errno
import importlib
import itertools
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import click

from mobius import __version__
from mobius.cli.groups import CommandGroup
from mobius.errors import ExitCode, MobiusError

# name: where the command is, and its line in `mobius --help`, which thus imports none of them
_COMMANDS: dict[str, tuple[str, str]] = {
    "apply": ("mobius.cli.plan:apply", "Run what was planned and approved, and verify that it was that."),
    "approve": ("mobius.cli.plan:approve", "Sign a plan in a role."),
    "backup": ("mobius.cli.backup:backup", "Back up the hosts, list or verify their backups."),
    "bundle": ("mobius.cli.bundle:bundle", "Build a bundle of the service, verify or sign one."),
    "checklist": ("mobius.cli.checklist:checklist", "Go through the checklist of a release, and record who answered."),
    "decommission": ("mobius.cli.fleet:decommission", "Take a service off its hosts for good."),
    "deploy": ("mobius.cli.release:deploy", "Stage a bundle and prove it in standby; nothing public changes."),
    "dhash": ("mobius.cli.dhash:dhash", "Hash and compare images, and serve them."),
    "history": ("mobius.cli.history:history", "Show who ran what and how it ended, and verify that record."),
    "init": ("mobius.cli.init:init", "Begin a project: write mobius.yml, which describes your service."),
    "lab": ("mobius.cli.lab:lab", "Start and stop the lab's hosts."),
    "maintenance": ("mobius.cli.fleet:maintenance", "Give clients a page of maintenance, or let them in again."),
    "plan": ("mobius.cli.plan:plan", "Keep a check run as a file: what would change, for approval."),
    "pr": ("mobius.cli.pr:pr", "Fill a pull request with what was really run on this commit."),
    "promote": ("mobius.cli.release:promote", "Let a staged release serve, if it passes its gate."),
    "provision": ("mobius.cli.fleet:provision", "Prepare the hosts for the service."),
    "release": ("mobius.cli.release:release", "Backup, deploy and promote in one run."),
    "rollback": ("mobius.cli.release:rollback", "Roll back to an earlier release, or list the kept ones."),
    "smoke": ("mobius.cli.fleet:smoke", "Check that the serving releases do what they promise."),
    "try": ("mobius.cli.try_service:try_command", "Run a bundle on this machine as a host would, and report."),
    "status": ("mobius.cli.fleet:status", "Show what every host keeps and serves."),
}
# Commands of a group that another module has: group, name, where.
_ADDED_COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("dhash", "migrate", "mobius.cli.migrate:migrate"),
    ("dhash", "serve", "mobius.cli.service:serve"),
    ("dhash", "token", "mobius.cli.service:token"),
)
_GROUPS = frozenset(("backup", "bundle", "dhash", "history", "lab"))


class _LazyGroup(CommandGroup):
    """A group whose commands are imported when one of them is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        try:
            command = _load(_COMMANDS[cmd_name][0])
            for group, name, location in _ADDED_COMMANDS:
                if group == cmd_name:
                    assert isinstance(command, click.Group)
                    command.add_command(_load(location), name)
        except ModuleNotFoundError as error:
            raise MobiusError(
                "missing_dependency",
                f"`mobius {cmd_name}` needs the Python package {error.name}, which is not installed.",
                do_next="Run `make setup` in the checkout, or install mobius-dhash[control].",
            ) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in sorted(_COMMANDS.items())])


def _load(location: str) -> click.Command:
    """The command at `module:name`."""
    module, _, name = location.partition(":")
    command = getattr(importlib.import_module(module), name)
    assert isinstance(command, click.Command)
    return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mobius")
def cli() -> None:
    """Releases a service to a fleet of hosts and can always roll it back.

    \b
    Exit codes: 0 success, 1 input, 2 processing or a failed gate, 3 environment,
    4 time-out, 5 resources. docs/EXIT_CODES.md says which team each code alerts.

    \b
    Examples:
      mobius init shop
      mobius bundle build
      mobius release --bundle dist/mobius-dhash-1.0.0.tar.gz --check --diff
      mobius release --bundle dist/mobius-dhash-1.0.0.tar.gz
      mobius rollback --reason "wrong hashes"
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give how it ended: a code of `ExitCode` in every case. Failures go to stderr, and as JSON
    to stdout where that was requested."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    began = time.monotonic()
    try:
        result: Any = cli.main(args=given, prog_name="mobius", standalone_mode=False)
    except MobiusError as error:
        failure = error
    except click.UsageError as error:
        failure = _usage_failure(error)
    except click.ClickException as error:
        failure = MobiusError("invalid_input", _sentence(error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        failure = MobiusError("interrupted", "Stopped.")
    except MemoryError:
        failure = MobiusError("out_of_memory", "There was not enough memory.")
    except OSError as error:
        outcome = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "environment_failed"
        place = f": {error.filename}" if error.filename else ""
        failure = MobiusError(outcome, f"{error.strerror or error}{place}.")
    except Exception:  # noqa: BLE001 - a defect of mobius: print everything about it
        traceback.print_exc()
        failure = MobiusError("task_failed", "This is a defect in mobius.", do_next="Report the lines above.")
    else:
        return result if isinstance(result, int) else int(ExitCode.SUCCESS)
    return _fail(failure, given, time.monotonic() - began)


def _usage_failure(error: click.UsageError) -> MobiusError:
    """Wrong arguments: what is wrong, and the command whose help shows the right ones."""
    path = error.ctx.command_path if error.ctx else "mobius"
    return MobiusError(
        "invalid_input", _sentence(error.format_message()), do_next=f"Read `{path} --help` and run it again."
    )


def _sentence(text: str) -> str:
    joined = " ".join(text.split())
    return joined if joined.endswith((".", "?", "!")) else f"{joined}."


def _fail(error: MobiusError, given: Sequence[str], seconds: float) -> int:
    """Print the ending of a command that was refused or has failed, in the form of every ending."""
    from mobius.cli.output import print_failure

    print_failure(error, _command_of(given), seconds, as_json=_wants_json(given))
    return int(error.code)


def _command_of(given: Sequence[str]) -> str:
    """The command as it was given, without options: `backup create`."""
    names = itertools.takewhile(lambda text: not text.startswith("-"), given)
    return " ".join(itertools.islice(names, 2 if given and given[0] in _GROUPS else 1)) or "mobius"


def _wants_json(given: Sequence[str]) -> bool:
    """Whether stdout is to get JSON, also where the arguments could not be read."""
    pairs = itertools.pairwise(given)
    return "--format=json" in given or ("--format", "json") in pairs


def main() -> None:
    """The console script."""
    code = run()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would flush it once more at its end, and exit with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
