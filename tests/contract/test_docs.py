"""The pages say what the code says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from mobius.cli import cli
from mobius.errors import OUTCOMES, TEAMS, ExitCode
from tools.exit_codes_page import page

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("roles/*/README.md")])


def test_the_page_of_exit_codes_is_made_from_the_table() -> None:
    assert (CHECKOUT / "docs/EXIT_CODES.md").read_text(encoding="utf-8") == page()


def test_every_exit_code_has_a_team_and_every_outcome_says_what_to_do() -> None:
    assert set(TEAMS) == set(ExitCode)
    for name, outcome in OUTCOMES.items():
        assert outcome.name == name
        assert outcome.meaning.endswith(".")
        assert outcome.do_next.endswith(".")


def test_every_outcome_that_the_code_names_is_in_the_table() -> None:
    called = re.compile(r'MobiusError\(\s*"([a-z_]+)"|outcome="([a-z_]+)"')
    named: dict[str, Path] = {}
    for folder in ("mobius", "plugins"):
        for path in (CHECKOUT / folder).rglob("*.py"):
            for match in called.finditer(path.read_text(encoding="utf-8")):
                named[match.group(1) or match.group(2)] = path
    for folder in ("roles", "playbooks"):
        for path in (CHECKOUT / folder).rglob("*.yml"):
            for match in re.finditer(r"^\s+outcome: ([a-z_]+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
                named[match.group(1)] = path
    assert named
    assert not {name: path for name, path in named.items() if name not in OUTCOMES}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_every_link_to_a_file_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def documented_commands() -> list[str]:
    """Every command line of `mobius` in a fenced block of a page."""
    found = []
    for path in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            found += [line.split("#")[0].strip() for line in block.splitlines() if line.startswith("mobius ")]
    return found


@pytest.mark.parametrize("line", documented_commands())
def test_every_documented_command_is_one_that_the_command_line_takes(line: str) -> None:
    command: click.Command = cli
    words = shlex.split(line)[1:]
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"{line}: there is no {words[0]}"
        command, words = found, words[1:]
    command.make_context(line, words, parent=context)


def test_every_test_that_a_page_names_exists() -> None:
    named = {name for path in PAGES for name in re.findall(r"`(test_[a-z0-9_]+)`", path.read_text(encoding="utf-8"))}
    defined = set()
    for path in (CHECKOUT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(named) > 15
    assert named - defined == set()


@pytest.mark.parametrize("line", re.findall(r"`(make [a-z-]+)", (CHECKOUT / "README.md").read_text(encoding="utf-8")))
def test_every_documented_make_target_exists(line: str) -> None:
    assert re.search(rf"^{line.split()[1]}:", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
