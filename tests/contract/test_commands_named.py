# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every command that a help page, a message or a docstring names exists, with the options that are named with it."""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mobius.cli import cli
from mobius.control.history.verifier import __main__ as verifier

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / ".ansible/collections"))
from ansible_collections.mobius.dhash.plugins.module_utils.backup import console as backup_console  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host import console as host_console  # noqa: E402

PARSERS = {
    "mobius-host": host_console._parser(),
    "mobius-backup": backup_console._parser(),
    "python3 -m verifier": verifier._parser(),
}
# in backquotes, or a line of its own as in the examples of a help page
_NAMED = re.compile(r"`(mobius(?:-host|-backup)?(?: [^`\n]*)?)`|^ +(mobius(?:-host|-backup)? [^\n]*)$", re.MULTILINE)


def _pages_of_click(command: click.Command, name: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    context = click.Context(command, info_name=name.rpartition(" ")[2], parent=parent)
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for part in command.list_commands(context):
            found = command.get_command(context, part)
            assert found is not None
            yield from _pages_of_click(found, f"{name} {part}", context)


def _parts_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def help_pages() -> Iterator[tuple[str, str]]:
    """Each help page of each command, by the command."""
    yield from _pages_of_click(cli, "mobius", None)
    for name, parser in PARSERS.items():
        yield name, parser.format_help()
        yield from ((f"{name} {part}", command.format_help()) for part, command in _parts_of(parser).items())


def texts() -> Iterator[tuple[str, str]]:
    """Each string of each file of the code: messages, docstrings, documentation of modules."""
    for folder in ("mobius", "plugins", "tools", "bench"):
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            if not path.is_symlink():
                strings = (
                    node.value for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Constant)
                )
                text = "\n".join(value for value in strings if isinstance(value, str))
                yield path.relative_to(CHECKOUT).as_posix(), text


def commands_in(text: str) -> set[str]:
    """Every command that a text names."""
    return {(match[1] or match[2]).strip() for match in _NAMED.finditer(text)}


def _options_and_parts(command: object) -> tuple[set[str], dict[str, object]]:
    """The options of a command, and its commands by name."""
    if isinstance(command, argparse.ArgumentParser):
        return set(command._option_string_actions), dict(_parts_of(command))
    assert isinstance(command, click.Command)
    context = click.Context(command)
    options = {"--help", *(name for parameter in command.get_params(context) for name in parameter.opts)}
    parts = command.list_commands(context) if isinstance(command, click.Group) else ()
    return options, {part: command.get_command(context, part) for part in parts}  # type: ignore[attr-defined]


def missing_in(line: str) -> str | None:
    """What of a named command does not exist; None when all of it does."""
    words = line.split("#")[0].split()
    command: object = {"mobius": cli, **PARSERS}[words[0]]
    options, parts = _options_and_parts(command)
    for word in words[1:]:
        if word == "…":
            return None
        for name in word.strip("[]().,;:").split("|"):
            if name.startswith("--"):
                if name.split("=")[0] not in options:
                    return name
            elif parts and name.isidentifier() and name.islower():
                if name not in parts:
                    return name
                if "|" not in word:
                    more, parts = _options_and_parts(parts[name])
                    options |= more
    return None


PAGES = dict(help_pages())
TEXTS = dict(texts())


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_help_page_names_exists(page: str) -> None:
    assert {line: name for line in commands_in(PAGES[page]) if (name := missing_in(line))} == {}


@pytest.mark.parametrize("path", [path for path in TEXTS if commands_in(TEXTS[path])])
def test_every_command_that_the_code_names_exists(path: str) -> None:
    assert {line: name for line in commands_in(TEXTS[path]) if (name := missing_in(line))} == {}


def test_commands_that_do_not_exist_are_noticed() -> None:
    assert missing_in("mobius history witnesses") == "witnesses"
    assert missing_in("mobius history verify --save-heads FILE") == "--save-heads"
    assert missing_in("mobius-host undo") == "undo"
    assert missing_in("mobius history verify --save-witnesses FILE") is None
    assert missing_in("mobius backup create|verify") is None
    assert len(commands_in(PAGES["mobius release"])) >= 2
