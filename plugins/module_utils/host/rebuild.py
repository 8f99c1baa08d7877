# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rebuilds the activation record when neither it nor its copy can be relied on.

The journal has every switch, mark and pin of the host; what is staged and what serves decide where it ends too early.
What is rebuilt is written by `mobius-host repair` only. Until then, an instance that starts and the guard go by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..errors import MobiusError
from ..manifest import REVISION
from .clock import utc_now
from .config import Host
from .journal import read_journal, without_digest
from .state import (
    Activation,
    ActivationEntry,
    Pending,
    boot_id,
    read_activation_file,
    read_current_link,
    read_lease,
    read_pending,
    read_record,
    read_window,
    staged_releases,
)


def read_known_activation(host: Host) -> Activation:
    """The activation record, or what is known of it when it is lost: an instance that starts must get a role."""
    try:
        return read_record(host).activation
    except MobiusError as error:
        if error.outcome != "state_damaged":
            raise
        return rebuild_activation(host)


def read_known_pending(host: Host) -> Pending | None:
    """The pending promotion; None also when its file is damaged: what is confirmed serves then."""
    try:
        return read_pending(host)
    except MobiusError as error:
        if error.outcome != "state_damaged":
            raise
        return None


def rebuild_activation(host: Host, serving: Collection[str] = (), boot: str | None = None) -> Activation:
    """The record by the newest file that can be read, the journal after it, and what is staged.

    A release that serves alone and is staged was confirmed, whatever the journal says, unless it is being promoted: so
    a repair never takes clients away from what serves.

    Args:
        serving: the releases whose instances serve.
        boot: the name of this boot, for the promotion that is pending.
    """
    activation = _newest_file(host)
    lines, _ = read_journal(host)
    for line in _lines_after(activation, lines):
        activation = replay(activation, line)
    staged = staged_releases(host)
    pending = read_known_pending(host)
    is_pending = pending is not None and pending.boot_id == (boot or boot_id())
    adopted = [release for release in serving if release in staged]
    if pending is not None and is_pending:
        adopted = [release for release in adopted if release != pending.release]
    current = read_current_link(host)
    if activation.confirmed is None and current in staged and (current in adopted or not adopted):
        adopted = [current]
    if activation.confirmed is None and len(adopted) > 1:
        adopted = sorted(adopted)[:1]  # any of them rather than none: without a confirmed release all would be stopped
    if len(adopted) == 1 and adopted[0] != activation.confirmed:
        activation = _with_confirmed(activation, adopted[0])
    tokens = [item.token for item in (pending if is_pending else None, read_window(host), read_lease(host)) if item]
    return dataclasses.replace(activation, token=max([activation.token, *tokens]))


def replay(activation: Activation, line: Mapping[str, Any]) -> Activation:
    """The record after the command that wrote this line of the journal; the same one when no record was written."""
    event, before, after = line.get("event"), line.get("from"), line.get("to")
    at, run, reason, token = (line.get(name) for name in ("at", "run", "reason", "token"))
    releases = [release for release in (before, after) if release is not None]
    if not all(isinstance(release, str) and REVISION.fullmatch(release) for release in releases):
        return activation
    if type(token) is not int or not all(value is None or isinstance(value, str) for value in (at, run, reason)):
        return activation
    last = without_digest(line)
    match event:
        case "confirmed" | "repaired" if after:
            entry = ActivationEntry(after, at, at, False, reason, run)
            history = (*activation.history, entry)
            if event == "repaired" and activation.confirmed == after:
                history = activation.history
            return dataclasses.replace(activation, token=token, confirmed=after, history=history, last=last)
        case "rollback" if before:
            left = dict.fromkeys([before, *([activation.confirmed] if after and activation.confirmed else [])])
            for release in left:
                if release != after:
                    activation = activation.marked(release, True, reason or "rolled back", run)
            if after and after != activation.confirmed:
                entry = ActivationEntry(after, at, at, False, f"rolled back from {before}", run)
                activation = dataclasses.replace(activation, confirmed=after, history=(*activation.history, entry))
            return dataclasses.replace(activation, token=token, last=last)
        case "marked_bad" | "marked_good" if after:
            return dataclasses.replace(activation.marked(after, event == "marked_bad", reason, run), last=last)
        case "reverted" if before and line.get("bad") is True:
            return dataclasses.replace(activation.marked(before, True, reason, run), last=last)
        case "pinned" | "unpinned" if after:
            return activation.with_pin(after, event == "pinned")
    return activation


def _newest_file(host: Host) -> Activation:
    files = (read_activation_file(host, path)[0] for path in (host.activation_path, host.activation_copy_path))
    return max(
        (item for item in files if item is not None), key=lambda item: item.token, default=Activation(host.service)
    )


def _lines_after(activation: Activation, lines: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The lines of the journal that are later than a record."""
    if activation.last is None and activation.token == 0:
        return lines
    for number in range(len(lines) - 1, -1, -1):
        if without_digest(lines[number]) == activation.last:
            return lines[number + 1 :]
    return [line for line in lines if type(line.get("token")) is int and line["token"] > activation.token]


def _with_confirmed(activation: Activation, release: str) -> Activation:
    entry = ActivationEntry(release, None, utc_now(), False, "it served when the record was rebuilt", None)
    return dataclasses.replace(activation, confirmed=release, history=(*activation.history, entry))
