# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one form of every ending: what serves where, why, the next command, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mobius.cli.render.block import SWITCHING_COMMANDS, ending_block, team_of, verb_of
from mobius.cli.render.text import TextStyle, host_list
from mobius.control.run.account import RunAccount, release_labels
from mobius.control.run.fates import Fate, HostFate
from mobius.errors import ExitCode

_WITH_RELEASE: Mapping[str, str] = MappingProxyType(
    {"release": "release", "deploy": "deploy", "promote": "promotion of", "rollback": "rollback to"}
)
"""What a run with a release is called before the release's name."""
_READ_ONLY = ("status", "smoke")


def outcome_lines(account: RunAccount, style: TextStyle | None = None) -> list[str]:
    """The block at the end of a run, or in place of one."""
    style, ending = style or TextStyle(), account.ending
    why = [_with_hosts(account, item.reason, item.hosts) for item in account.why]
    fields = [("hosts", _host_rows(account)), ("why", why)]
    if (changes := changes_text(account)) and account.command not in _READ_ONLY:
        fields.append(("changes", [changes]))
    return ending_block(
        style,
        ending.outcome,
        headline(account),
        fields=fields,
        do_next=ending.do_next,
        run=account.run,
        seconds=account.seconds,
    )


def ending_dict(account: RunAccount) -> dict[str, Any]:
    """The same facts as fields, with the first line as `headline`, and the `team`."""
    return {**account.as_dict(), "headline": headline(account), "team": team_of(account.ending.outcome)}


def headline(account: RunAccount) -> str:
    """`release 1.5.0 refused: 1.4.0 still serves on all 3 hosts`."""
    ending = account.ending
    if account.command == "status" and ending.hosts:
        wrong = "" if ending.code == ExitCode.SUCCESS else "the hosts are not as they should be"
        return "; ".join(part for part in (_where(account), wrong) if part)
    good = "checked" if account.check else "done"
    verb = good if ending.code == ExitCode.SUCCESS else verb_of(ending.outcome)
    after = [what for what in (_where(account), "nothing was changed" if account.check else "") if what]
    return f"{_subject(account)} {verb}{': ' if after else ''}{'; '.join(after)}"


def changes_text(account: RunAccount) -> str:
    """How many tasks changed each host, hosts with the same number together; empty when there is no host."""
    by_count: dict[int, list[str]] = {}
    for host, count in sorted(account.changed.items()):
        if host != "localhost" or count:
            by_count.setdefault(count, []).append(host)
    everyone = sum(map(len, by_count.values()))
    word = "would change" if account.check else "changed"
    if set(by_count) <= {0}:
        return f"nothing {word}" if by_count else ""
    if len(by_count) == 1 and everyone > 1:
        return f"{next(iter(by_count))} {word} on each of {everyone} hosts"
    parts = [f"{count} on {host_list(hosts)}" for count, hosts in sorted(by_count.items(), reverse=True)]
    return f"{word}: {'; '.join(parts)}"


def _subject(account: RunAccount) -> str:
    release = account.ending.release
    if release and account.command in _WITH_RELEASE:
        return f"{_WITH_RELEASE[account.command]} {_labels(account)[release]}"
    return account.command.replace("_", " ") or "mobius"


def _labels(account: RunAccount) -> dict[str, str]:
    """The names of all releases that this ending is about."""
    ending = account.ending
    named = {release for item in ending.hosts for release in (*(item.serves or ()), *(item.before or ()))}
    named |= {item.pending for item in ending.hosts if item.pending} | ({ending.release} if ending.release else set())
    return release_labels(sorted(named))


def _where(account: RunAccount) -> str:
    """What serves where, hosts with the same answer together."""
    hosts = account.ending.hosts
    if not hosts:
        is_refusal = account.ending.code != ExitCode.SUCCESS and not account.run
        return "no host was contacted" if is_refusal and account.command in SWITCHING_COMMANDS else ""
    labels = _labels(account)
    groups: dict[str, list[str]] = {}
    for item in hosts:
        groups.setdefault(_serving(item, labels, is_still=_is_still(account, item)), []).append(item.host)
    if set(groups) == {"?"}:
        return ""  # the run is about something else than releases
    parts: list[str] = []
    for text, names in groups.items():
        be = "is" if len(names) == 1 else "are"
        everyone = {"any": "any host", "none": "no host is"}
        these = (
            everyone
            if len(names) == len(hosts) > 1
            else {"any": host_list(names), "none": f"{host_list(names)} {be} not"}
        )
        parts.append(text.format(on=host_list(names, len(hosts)), be=be, **these))
    return "; ".join(parts)


def _is_still(account: RunAccount, item: HostFate) -> bool:
    is_done = account.ending.code == ExitCode.SUCCESS and not account.check
    return not is_done and account.command != "status" and item.before == item.serves


def _serving(item: HostFate, labels: Mapping[str, str], *, is_still: bool) -> str:
    """A sentence with `{on}` for the hosts; "?" where nothing is known."""
    if item.fate == Fate.UNREACHABLE:
        return "{on} {be} unreachable"
    if item.provisioned is False:
        return "{none} provisioned"
    if item.fate == Fate.PROVISIONAL and item.pending:
        return f"{labels[item.pending]} is provisional on {{on}}"
    if item.serves is None:
        return "?" if item.before is None and item.fate in (Fate.UNTOUCHED, Fate.KEPT) else "not known on {on}"
    if not item.serves:
        return "nothing serves on {any}"
    verb = "serve" if len(item.serves) > 1 else "serves"
    return f"{' and '.join(labels[release] for release in item.serves)} {'still ' if is_still else ''}{verb} on {{on}}"


def _host_rows(account: RunAccount) -> list[str]:
    """Each fate with its hosts, where a run did not end well, or where there are several."""
    ending = account.ending
    if account.command == "status":
        return []  # each host has its own lines
    known = [item for item in ending.hosts if item.serves is not None or item.fate == Fate.UNREACHABLE]
    labels = _labels(account)
    groups: dict[str, list[str]] = {}
    for item in known:
        groups.setdefault(fate_text(item, labels), []).append(item.host)
    if ending.code == ExitCode.SUCCESS and len(groups) < 2:
        return []
    names = {text: host_list(hosts) for text, hosts in groups.items()}
    width = min(max(map(len, names.values()), default=0), 24)
    return [f"{names[text]:<{width}}  {text}" for text in groups]


def fate_text(item: HostFate, labels: Mapping[str, str]) -> str:
    """A host's word: `serves 1.5.0`, `kept 1.4.0`, `reverted to 1.4.0`, `untouched, 1.4.0 serves`, `unreachable`."""

    def named(releases: Sequence[str] | None) -> str:
        return " and ".join(labels[release] for release in releases or ()) or "nothing"

    serves = named(item.serves)
    match item.fate:
        case Fate.SERVES:
            return f"serves {serves}"
        case Fate.PROVISIONAL:
            return f"provisional: reverts {labels[item.pending or '']} to {serves} by itself, unless it is confirmed"
        case Fate.REVERTED:
            return f"reverted to {serves}"
        case Fate.KEPT:
            return f"kept {serves}"
        case Fate.UNTOUCHED:
            return f"untouched, {serves} serves"
        case Fate.UNREACHABLE:
            pending = f", with {labels[item.pending]} provisional" if item.pending else ""
            return f"unreachable; last served {serves}{pending}" if item.serves is not None else "unreachable"


def _with_hosts(account: RunAccount, reason: str, hosts: Sequence[str]) -> str:
    """A reason with its hosts, and with releases named as everywhere in the block."""
    labels = _labels(account)
    for release in sorted(labels, key=len, reverse=True):
        reason = reason.replace(release, labels[release])
    if not hosts:
        return reason
    everyone = len(account.ending.hosts) or None
    return f"{reason.rstrip('.')} ({host_list(hosts, everyone)})"
