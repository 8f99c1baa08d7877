# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the command turns what happens below it into an exit code and one sentence."""

from __future__ import annotations

import errno
import importlib
import subprocess
import sys

import click
import pytest

from mobius import cli
from mobius.errors import MobiusError


@pytest.fixture
def raising(monkeypatch):
    """Makes `mobius probe` raise what it is given, through the table of commands."""

    def install(error: BaseException) -> None:
        @click.command()
        def probe() -> None:
            raise error

        module = type(sys)("probe_command")
        module.probe = probe
        monkeypatch.setitem(sys.modules, "probe_command", module)
        monkeypatch.setitem(cli._COMMANDS, "probe", ("probe_command:probe", "Raise."))

    return install


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            MobiusError("disk_full", "No space.", do_next="Buy a disk."),
            5,
            "✗ probe refused\n  why       No space.\n  next      Buy a disk.\n  took      0.0 s, exit 5 (Infrastructure, disk_full)\n",
        ),
        (MobiusError("timeout", "Too slow."), 4, "✗ probe timed out\n  why       Too slow."),
        (KeyboardInterrupt(), 2, "! probe stopped"),
        (click.Abort(), 2, "! probe stopped"),
        (click.UsageError("Wrong."), 1, "Wrong."),
        (MemoryError(), 5, "exit 5 (Infrastructure, out_of_memory)"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 5, "why       No space left on device: /x."),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            3,
            "✗ probe failed\n  why       Permission denied: /x.",
        ),
        (ZeroDivisionError("oops"), 2, "ZeroDivisionError: oops"),
    ],
)
def test_every_exception_ends_with_a_code_of_the_table(raising, capsys, error, code, message):
    raising(error)
    assert cli.run(["probe"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert ("Traceback" in err) is isinstance(error, ZeroDivisionError)


def test_a_command_whose_packages_are_missing_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(cli._COMMANDS, "probe", ("no_such_package.command:probe", "Nothing."))
    assert cli.run(["probe"]) == 3
    assert "no_such_package" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["relase"], "mobius has no command relase. Did you mean release?"),
        (["rollbcak"], "mobius has no command rollbcak. Did you mean rollback?"),
        (["history", "shwo"], "mobius history has no command shwo. Did you mean show?"),
        (["backup", "restroe"], "mobius backup has no command restroe. Did you mean restore?"),
        (["xyzzy"], "mobius has no command xyzzy.\n"),
    ],
)
def test_a_mistyped_command_is_refused_with_the_one_that_was_meant(capsys, arguments, sentence):
    assert cli.run(arguments) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_the_help_imports_neither_ansible_nor_numpy():
    code = (
        "import sys, mobius.cli; mobius.cli.run(['--help']);"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "sys.exit(bool(loaded & {'ansible', 'ansible_runner', 'numpy', 'PIL', 'yaml'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_every_command_of_a_run_can_be_imported_and_has_examples_in_its_help(capsys):
    for name, (path, _) in cli._COMMANDS.items():
        if path.startswith(("mobius.cli.release", "mobius.cli.fleet", "mobius.cli.backup")):
            module, _, attribute = path.partition(":")
            assert isinstance(getattr(importlib.import_module(module), attribute), click.Command)
            assert cli.run([name, "--help"]) == 0
            assert "Example" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "offers_check"), [("status", False), ("smoke", False), ("release", True)])
def test_only_commands_that_change_something_offer_a_check_run(capsys, command, offers_check):
    assert cli.run([command, "--help"]) == 0
    assert ("--check" in capsys.readouterr().out) is offers_check
    if not offers_check:
        assert cli.run([command, "--check"]) == 1
        assert "No such option" in capsys.readouterr().err
