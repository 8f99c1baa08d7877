# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a record of the history is, and how records are chained.

A record is one line of canonical JSON (RFC 8785). Records hold strings, integers, booleans, null, lists and objects
with ASCII keys only, for which that form is: keys sorted, no spaces, only what must be escaped is escaped. `hash` is
the SHA-256 of the record's canonical form without `hash`; `prev` is the `hash` of the record before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE_NAME = "history.jsonl"
HEAD_NAME = "head.json"
NAMESPACE = "mobius-history"
FIRST = "0" * 64
_LARGEST = 2**53 - 1  # what every JSON reader keeps exactly


class NotCanonical(ValueError):  # noqa: N818 - it says what the value is
    """A value that a record cannot hold."""


def canonical(value: Any) -> bytes:
    """The canonical JSON (RFC 8785) of a value without floats.

    Raises:
        NotCanonical: a float, a huge integer, a key that is not ASCII text, text that is not Unicode, or another type.
    """
    _check(value)
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise NotCanonical("a text is not Unicode") from error


def _check(value: Any) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int) and abs(value) <= _LARGEST:
        return
    if isinstance(value, list | tuple):
        for item in value:
            _check(item)
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise NotCanonical(f"the key {key!r} is not ASCII text")
            _check(item)
        return
    raise NotCanonical(f"{value!r} is neither text, integer, boolean, null, list nor object")


def record_hash(record: Mapping[str, Any]) -> str:
    """The SHA-256 that a record's `hash` must be."""
    return digest({key: value for key, value in record.items() if key != "hash"})


def digest(value: Any) -> str:
    """The SHA-256 of a value's canonical form, as a `decision` has it of each host's evidence."""
    return hashlib.sha256(canonical(value)).hexdigest()


def head_message(head: Mapping[str, Any]) -> bytes:
    """What a head's signature is made over."""
    return canonical({key: head.get(key) for key in ("chain", "hash", "seq")})


def chain_id(records: Sequence[Mapping[str, Any]]) -> str | None:
    """The random name that the first record gave to the chain."""
    data = records[0].get("data") if records else None
    return str(data.get("chain")) if isinstance(data, dict) and data.get("chain") else None


def parse(line: bytes) -> dict[str, Any] | None:
    """The record of one line (without its end), None when it is not one in canonical form."""
    try:
        record = json.loads(line.decode("utf-8"))
        if isinstance(record, dict) and isinstance(record.get("seq"), int) and canonical(record) == line:
            return record
    except (ValueError, RecursionError):
        pass
    return None


def closes_torn(record: Mapping[str, Any] | None, line: bytes) -> bool:
    """Whether this record tells of what stands before it and was cut short by a kill."""
    if record is None or record.get("event") != "torn" or not isinstance(record.get("data"), dict):
        return False
    data = record["data"]
    return bool(data.get("bytes") == len(line)) and bool(data.get("sha256") == hashlib.sha256(line).hexdigest())


def read_head(folder: Path) -> dict[str, Any] | None:
    """The object of the head file, None when there is none that can be read."""
    try:
        head = json.loads((folder / HEAD_NAME).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return head if isinstance(head, dict) else None


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object in a text; None when it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def as_object(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}
