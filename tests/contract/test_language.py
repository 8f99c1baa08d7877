# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plain words in what people read: task names, texts of roles and playbooks, documents and help pages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import click
import pytest

from mobius.cli import cli

CHECKOUT = Path(__file__).resolve().parents[2]

WORDS: Mapping[str, str] = MappingProxyType(
    {
        r"judge[sd]": "verify, measure, decide",
        r"tells?|told": "report",
        r"asks?|asked": "probe, request, query",
        r"wanted": "expected, required",
        r"(?<!not )(?<!be )(?<!are )found": "the name of what was found",
        r"seen|sees": "read, verify, check",
        r"said|says(?! (so|when|which|what|how|whether|who|why|if))": "report",
        r"(?<!its )(?<!their )(?<!your )(?<!my )(?<!our )(?<!s' )(?<!'s )own": "its name",
        r"mine": "the name of what it is",
        r"looks?|looked": "read, find, check",
        r"strangers?": "unexpected",
        r"rightful(ly)?": "expected",
        r"settle[sd]?": "recover",
        r"folded": "applied",
        r"truth": "activation record",
        r"storeys?": "layer",
        r"houses?": "repository",
        r"(take|takes|taken|took|taking)( \w+){0,3} back": "revert, roll back",
        r"(go|goes|gone|went|going) back": "revert, roll back",
        r"(bring|brings|brought|bringing)( \w+){0,3} back": "restore",
        r"(let|lets|letting) go": "release",
        r"(bring|brings|brought)( \w+){0,3} along": "catch up",
        r"afresh|anew": "again",
        r"mend(s|ed)?": "repair",
        r"nominated?": "candidate",
        r"apart(?! from)": "distance",
        r"(?<!at )most(?! of)": "limit",
        r"room": "space, budget",
        r"rest": "the others; stand by",
        r"understood": "parsed",
        r"whence": "origin",
        r"golden questions?": "golden probe",
    }
)
"""Words that a reader has to translate, as patterns, and what to write in their place."""

NOT_YET = frozenset({})
"""Files, folders and commands whose texts still have such words. The list only becomes shorter."""

_PATTERNS = {re.compile(rf"(?<![\w.`/-])(?:{word})(?![\w`/-])", re.IGNORECASE): word for word in WORDS}
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def findings(text: str) -> list[str]:
    """`word: instead` for each word of the table in a text; code in backquotes does not count."""
    prose = _CODE.sub(" ", text)
    return sorted(
        {
            f"{match.group(0)!r} in {prose[max(0, match.start() - 30) : match.end() + 30]!r}: write {WORDS[word]}"
            for pattern, word in _PATTERNS.items()
            for match in pattern.finditer(prose)
        }
    )


def files() -> Iterator[str]:
    """Every text of the roles, playbooks, scenarios, inventories and documents."""
    for pattern in ("roles/**/*", "playbooks/**/*", "molecule/**/*", "inventories/**/*", "docs/**/*", "*"):
        for path in sorted(CHECKOUT.glob(pattern)):
            if path.is_file() and path.suffix in {".yml", ".j2", ".md"}:
                yield path.relative_to(CHECKOUT).as_posix()


def help_pages() -> Iterator[tuple[str, str]]:
    """Each command with its help page."""

    def within(command: click.Command, name: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
        context = click.Context(command, info_name=name.rpartition(" ")[2], parent=parent)
        yield name, command.get_help(context)
        if isinstance(command, click.Group):
            for part in command.list_commands(context):
                found = command.get_command(context, part)
                assert found is not None
                yield from within(found, f"{name} {part}", context)

    yield from within(cli, "mobius", None)


def is_open(name: str) -> bool:
    return any(name == entry or (entry.endswith("/") and name.startswith(entry)) for entry in NOT_YET)


PAGES = dict(help_pages())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in files() if not is_open(name)])
def test_a_file_that_people_read_has_plain_words(name: str) -> None:
    assert findings((CHECKOUT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", [name for name in PAGES if not is_open(name)])
def test_a_help_page_has_plain_words(name: str) -> None:
    assert findings(PAGES[name]) == []


@pytest.mark.parametrize(
    "text",
    [
        "Let go of the lock",
        "Ask the golden questions",
        "It takes the promotion back.",
        "Take it back",
        "The truth is on the host.",
        "Look which release the host serves",
        "what was brought along",
    ],
)
def test_a_word_of_the_table_is_found(text: str) -> None:
    assert findings(text)


@pytest.mark.parametrize(
    "text",
    [
        "Release the lock",
        "The host has its own list, at most ten entries.",
        "`told` is a field, and so is result.seen",
        "the option --rest",
        "not found",
        "the page says when each hook runs",
    ],
)
def test_plain_english_is_accepted(text: str) -> None:
    assert findings(text) == []
