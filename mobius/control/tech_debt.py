# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The entries of TECH_DEBT.md: what is open, how urgent it is, whose it is, and since when it is known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from mobius.errors import MobiusError

PRIORITIES = ("P1", "P2", "P3")
EFFORTS = ("S", "M", "L")
OWNERS = (
    *("release owner", "deploy operator", "media engineer", "triage lead"),
    *("SRE", "QA", "DevOps", "performance engineer", "infrastructure engineer"),
)
_FACTS = ("priority", "owner", "effort", "since")


@dataclass(frozen=True)
class DebtEntry:
    """One entry. `since` is the day on which it was first seen; `text` is Markdown."""

    title: str
    priority: str
    owner: str
    effort: str
    since: date
    text: str


def parse_entries(page: str) -> list[DebtEntry]:
    """All entries, the most urgent and then the oldest first.

    Raises:
        MobiusError: invalid_input, when an entry lacks one of its four lines or has a value that is not known.
    """
    entries = [_parse_entry(*section.split("\n", 1)) for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]]
    return sorted(entries, key=lambda entry: (entry.priority, entry.since))


def _parse_entry(title: str, body: str) -> DebtEntry:
    facts = dict(re.findall(rf"^- ({'|'.join(_FACTS)}): (.+)$", body, re.MULTILINE))
    allowed = {"priority": PRIORITIES, "owner": OWNERS, "effort": EFFORTS}
    for name in _FACTS:
        if name not in facts:
            raise _invalid(title, f"has no line `- {name}: …`")
        if name in allowed and facts[name] not in allowed[name]:
            raise _invalid(title, f"has the {name} {facts[name]!r}; known are {', '.join(allowed[name])}")
    try:
        since = date.fromisoformat(facts["since"])
    except ValueError:
        raise _invalid(title, f"is known since {facts['since']!r}, which is no day like 2026-01-31") from None
    text = re.sub(rf"^- ({'|'.join(_FACTS)}): .+\n", "", body, flags=re.MULTILINE).strip()
    if not text:
        raise _invalid(title, "says nothing")
    return DebtEntry(title.strip(), facts["priority"], facts["owner"], facts["effort"], since, text)


def _invalid(title: str, problem: str) -> MobiusError:
    return MobiusError("invalid_input", f"The entry {title.strip()!r} of TECH_DEBT.md {problem}.")
