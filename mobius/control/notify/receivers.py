# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The receivers of messages, from the variable `mobius_notify`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

EVENTS = ("start", "success", "failure", "rollback")
PLAYBOOKS = ("deploy", "promote", "release", "rollback")

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_COMMON_KEYS = {"kind", "name", "events", "playbooks"}
_KEYS_BY_KIND = {
    "slack": {"url"},
    "teams": {"url"},
    "email": {"host", "port", "sender", "to", "tls", "user", "password"},
}


@dataclass(frozen=True)
class Receiver:
    """Who gets messages, about what, and how. What is secret of it does not show in its `repr`."""

    kind: str
    name: str
    events: tuple[str, ...] = EVENTS
    playbooks: tuple[str, ...] = PLAYBOOKS
    url: str = field(default="", repr=False)
    host: str = ""
    port: int = 587
    sender: str = ""
    to: tuple[str, ...] = ()
    tls: str = "starttls"
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def parse_receivers(value: Any) -> tuple[list[Receiver], list[str]]:
    """The receivers in `mobius_notify`, and one sentence for each that is not used, without its values."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [], ["mobius_notify is no list."]
    receivers: list[Receiver] = []
    problems = []
    for number, item in enumerate(value, start=1):
        try:
            receivers.append(_receiver(item, number, {receiver.name for receiver in receivers}))
        except ValueError as error:
            problems.append(f"Entry {number} of mobius_notify is not used: {error}.")
    return receivers, problems


def _receiver(item: Any, number: int, names: set[str]) -> Receiver:
    if not isinstance(item, Mapping) or item.get("kind") not in _KEYS_BY_KIND:
        raise ValueError(f"its kind is none of {', '.join(_KEYS_BY_KIND)}")
    kind = str(item["kind"])
    if unknown := sorted(str(key) for key in set(item) - _COMMON_KEYS - _KEYS_BY_KIND[kind]):
        raise ValueError(f"{kind} has no {unknown[0]}")
    fields: dict[str, Any] = {"kind": kind, "name": str(item.get("name") or f"{kind} {number}")}
    if fields["name"] in names:
        raise ValueError("its name is that of another one")
    for key, known in (("events", EVENTS), ("playbooks", None)):
        if key in item:
            fields[key] = _words(item[key], key, known)
    if kind != "email":
        return Receiver(**fields, url=_url(item.get("url")))
    fields |= {key: str(item[key]) for key in ("host", "sender", "tls", "user", "password") if item.get(key)}
    fields["to"] = _words(item.get("to"), "to", None)
    with contextlib.suppress(TypeError, ValueError):
        fields["port"] = int(item.get("port", 587))
    if not fields.get("host") or not fields.get("sender") or "port" not in fields:
        raise ValueError("email needs host, port, sender and to")
    if fields.get("tls", "starttls") not in ("starttls", "tls", "none"):
        raise ValueError("its tls is none of starttls, tls, none")
    receiver = Receiver(**fields)
    if receiver.user and receiver.tls == "none" and receiver.host not in _LOOPBACK:
        raise ValueError("a password would go through the network in the clear")
    return receiver


def _words(value: Any, key: str, known: Sequence[str] | None) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else ()
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"its {key} are no list of words")
    if known and not set(words) <= set(known):
        raise ValueError(f"its {key} are not among {', '.join(known)}")
    return words


def _url(value: Any) -> str:
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_valid = False
    if not is_valid or any(letter.isspace() or not letter.isprintable() for letter in value):
        raise ValueError("its url is none of http or https")
    return str(value)
