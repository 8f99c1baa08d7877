# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the history of runs: append-only, chained, fsynced, safe against a kill after any byte.

A folder holds `history.jsonl` (one record a line; its form is `verifier/records.py`'s), `head.json` (the last record's
hash, signed when there is a key), `digest.key` (keys the digests of variables; it never leaves the folder) and `lock`.
The order is always: record, fsync, head. So a head is never ahead of its records unless somebody cut them off.

The events: `begin` (the chain's name), `intent`, `result`, `decision` (for all hosts of a promotion), `end`,
`unwitnessed` (hosts that do not keep the head of a run's end), `replaced` (by a new history), `torn` (a line that a
kill cut short).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mobius import durable
from mobius.control import signatures
from mobius.control.history import verifier as form
from mobius.errors import OUTCOMES, MobiusError

FOLDER_NAME = "MOBIUS_HISTORY_DIR"
SCHEMA = 1
_TEXT_LIMIT = 300
_TAIL = 1 << 16


def default_folder(environment: Mapping[str, str]) -> Path:
    """MOBIUS_HISTORY_DIR, else `mobius/history` in the user's state folder."""
    configured = environment.get(FOLDER_NAME)
    if configured:
        return Path(configured).expanduser().absolute()
    state = environment.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "mobius/history"


def now() -> str:
    """The present moment in UTC, as records have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def plain(value: Any) -> Any:
    """A value as a record may hold it: floats as decimal text, long texts cut, everything else as its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 2**53 else str(value)
    if isinstance(value, float):
        return format(value, ".6g")
    if isinstance(value, Mapping):
        return {str(key).encode("ascii", "replace").decode(): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…"


@dataclass(frozen=True)
class Holder:
    """The process that a run lives and dies with. A reused process id, or one of before a reboot, is another holder."""

    machine: str
    boot: str
    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Holder:
        """The holder with this process id on this machine."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return cls(socket.gethostname(), boot, pid, _start_of(pid) or 0)

    @classmethod
    def read(cls, data: Any) -> Holder | None:
        """The holder that a record has."""
        try:
            return cls(str(data["machine"]), str(data["boot"]), int(data["pid"]), int(data["started"]))
        except (KeyError, TypeError, ValueError):
            return None

    def as_dict(self) -> dict[str, Any]:
        """`{machine, boot, pid, started}`; `started` in clock ticks since boot."""
        return {"machine": self.machine, "boot": self.boot, "pid": self.pid, "started": self.started}

    def is_gone(self) -> bool:
        """Whether it is certain that the process has ended; of another machine's nothing is certain."""
        here = Holder.of(os.getpid())
        if self.machine != here.machine:
            return False
        return self.boot != here.boot or _start_of(self.pid) != self.started


def _start_of(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


class History:
    """One folder's history. Every method takes the folder's lock by itself."""

    def __init__(self, folder: Path, key: Path | None = None) -> None:
        self.folder = folder
        self.key = key

    @property
    def path(self) -> Path:
        """The file of records."""
        return self.folder / form.FILE_NAME

    @property
    def is_new(self) -> bool:
        """Whether nothing is recorded in this folder yet."""
        return not self.path.exists()

    def open(
        self, run: str, holder: Holder, data: Mapping[str, Any], replaces: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Record a run's intent, once, and close the runs that died. Gives the head then.

        Args:
            replaces: what the first record names of the histories that a new one replaces: `{reason, chains}`.

        Raises:
            MobiusError: history_failed or disk_full, when it cannot be written; history_damaged, when its end is not
                what was written last; invalid_input, when another run had this id. Nothing may change then on any host.
        """
        with self._writing():
            records = self._all(replaces)
            opened = {record["run"]: record for record in records if record["event"] == "intent"}
            ended = {record["run"] for record in records if record["event"] == "end"}
            if run in opened:
                if Holder.read(opened[run]["data"].get("holder")) == holder and run not in ended:
                    return self.head()
                raise MobiusError(
                    "invalid_input",
                    f"The history has a run {run} already.",
                    do_next="Unset MOBIUS_RUN_ID; every run makes an id of its own.",
                )
            for lost in opened.keys() - ended:
                was = Holder.read(opened[lost]["data"].get("holder"))
                if was is not None and was.is_gone():
                    self._append("end", lost, {**_ending_data("interrupted"), "closed_by": run, "hosts": {}})
            self._append("intent", run, {**data, "holder": holder.as_dict()})
            return self.head()

    def open_holder(self, run: str) -> Holder | None:
        """The holder of an open run; None when it has ended or was never opened. Reads what was recorded since.

        Raises:
            MobiusError: history_failed, when it cannot be read; history_damaged, when a record lacks its fields.
        """
        try:
            for line in self._newest_first():
                if run.encode() not in line or not any(event in line for event in (b'"intent"', b'"end"')):
                    continue  # every task of a run comes here, so only what may matter is parsed
                record = _parse(line) or {}
                if record.get("run") == run and record["event"] == "end":
                    return None
                if record.get("run") == run and record["event"] == "intent":
                    return Holder.read(record["data"].get("holder"))
        except OSError as error:
            raise MobiusError("history_failed", f"{self.path} cannot be read: {error.strerror or error}.") from error
        return None

    def add(self, run: str, data: Mapping[str, Any]) -> None:
        """Record what one task of an open run did on one host."""
        with self._writing():
            self._append("result", run, data)

    def decide(self, run: str, data: Mapping[str, Any]) -> int:
        """Record a decision for all hosts of an open run, before any is confirmed or reverted. Gives its number.

        Raises:
            MobiusError: history_failed or disk_full, when it cannot be written; history_damaged, when the history's end
                is not what was written last. The decision does not hold then.
        """
        with self._writing():
            events = [record["event"] for record in self._all() if record.get("run") == run]
            if "intent" not in events or "end" in events:
                raise MobiusError("history_failed", f"The history in {self.folder} has no open run {run}.")
            return int(self._append("decision", run, data)["seq"])

    def close(self, run: str, outcome: str, data: Mapping[str, Any]) -> bool:
        """Record a run's end, unless it has one or was never opened. Gives whether it was recorded now."""
        with self._writing():
            events = [record["event"] for record in self._all() if record.get("run") == run]
            if "intent" not in events or "end" in events:
                return False
            self._append("end", run, {**_ending_data(outcome), **data})
            return True

    def name_successor(self, chain: str, reason: str, run: str) -> None:
        """Record, once, that a new history with this chain replaces this one."""
        with self._writing():
            named = (record["data"].get("chain") for record in self._all() if record["event"] in ("begin", "replaced"))
            if chain not in named:
                self._append("replaced", None, {"chain": chain, "reason": reason, "run": run})

    def name_unwitnessed(self, run: str, hosts: Sequence[str]) -> None:
        """Record which hosts do not keep the head of a run's end."""
        with self._writing():
            self._append("unwitnessed", run, {"hosts": list(hosts)})

    def head(self) -> dict[str, Any]:
        """The head now, without its signature: what a host keeps of it."""
        head = form.read_head(self.folder) or {}
        return {name: head.get(name) for name in ("chain", "seq", "hash", "at")}

    def digest(self, value: Any) -> str:
        """A keyed digest of a value: the same value is recognised, and nobody without the key can guess it."""
        try:
            key = (self.folder / "digest.key").read_bytes()
        except FileNotFoundError:
            with self._writing():
                if not (self.folder / "digest.key").exists():
                    durable.write_bytes(self.folder / "digest.key", secrets.token_bytes(32), mode=0o600)
            key = (self.folder / "digest.key").read_bytes()
        text = json.dumps(value, sort_keys=True, default=str)
        return "hmac-sha256:" + hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            with durable.locked(self.folder / "lock"):
                yield
        except TimeoutError as error:
            raise MobiusError("history_failed", f"The history cannot be written: {error}.") from error
        except OSError as error:
            outcome = "disk_full" if error.errno in durable.DISK_FULL_ERRNOS else "history_failed"
            reason = f"The history in {self.folder} cannot be written: {error.strerror or error}."
            raise MobiusError(outcome, reason) from error

    def _all(self, replaces: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Every record, or the first ones that a new history begins with."""
        self._repair_tail()
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            lines = []
        records = [record for record in map(_parse, lines) if record is not None]
        if not records:
            begin = {"chain": secrets.token_hex(16), "schema": SCHEMA}
            self._append("begin", None, {**begin, **({"replaces": replaces} if replaces else {})})
            return self._all()
        return records

    def _last(self) -> tuple[dict[str, Any] | None, bytes]:
        """The last whole record, and what stands after its line."""
        try:
            with self.path.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                reach = _TAIL
                while True:
                    stream.seek(max(0, size - reach))
                    lines = stream.read().split(b"\n")
                    for number in range(len(lines) - 2, -1, -1):
                        record = _parse(lines[number])
                        if record is not None:
                            return record, b"\n".join(lines[number + 1 :])
                    if reach >= size:
                        return None, b"\n".join(lines)
                    reach *= 4
        except FileNotFoundError:
            return None, b""

    def _newest_first(self) -> Iterator[bytes]:
        """Every line of the file, the last one first."""
        with self.path.open("rb") as stream:
            left, rest = stream.seek(0, os.SEEK_END), b""
            while left:
                reach = min(_TAIL, left)
                left -= reach
                stream.seek(left)
                first, *lines = (stream.read(reach) + rest).split(b"\n")
                yield from reversed(lines)
                rest = first
            yield rest

    def _repair_tail(self) -> None:
        """End a line that a kill cut short, and refuse a tail that lacks what its head names."""
        last, tail = self._last()
        head = form.read_head(self.folder)
        seq = -1 if last is None else int(last["seq"])
        if last is not None and form.record_hash(last) != last["hash"]:
            raise _damaged(f"record {seq} was edited")
        if head is not None:
            behind = head.get("seq") == seq and last is not None and head.get("hash") != last["hash"]
            if behind or not isinstance(head.get("seq"), int) or int(head["seq"]) > seq:
                raise _damaged(f"record {seq + 1} or what followed is cut off or rewritten")
        elif seq > 0:
            raise _damaged(f"{form.HEAD_NAME} is missing")
        if not tail:
            return
        *fragments, end = tail.split(b"\n")
        whole = _parse(end)
        complete = whole is not None and whole["seq"] == seq + 1 and form.record_hash(whole) == whole["hash"]
        if complete and (not fragments or form.closes_torn(whole, b"\n".join(fragments))):
            self._write(b"\n")  # all of it was written but its end
            return
        if not tail.endswith(b"\n"):
            self._write(b"\n")
        fragment = tail.removesuffix(b"\n")
        self._append("torn", None, {"bytes": len(fragment), "sha256": hashlib.sha256(fragment).hexdigest()}, after=last)

    def _append(
        self, event: str, run: str | None, data: Mapping[str, Any], *, after: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        if event not in ("begin", "torn"):
            self._repair_tail()
        last = after or self._last()[0]
        record = {
            "seq": 0 if last is None else int(last["seq"]) + 1,
            "at": now(),
            "event": event,
            "run": run,
            "data": plain_data(data),
            "prev": form.FIRST if last is None else last["hash"],
        }
        record["hash"] = form.record_hash(record)
        self._write(form.canonical(record) + b"\n")
        self._write_head(record)
        return record

    def _write(self, data: bytes) -> None:
        existed = self.path.exists()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not existed:
            durable.fsync_dir(self.folder)

    def _write_head(self, record: Mapping[str, Any]) -> None:
        chain = record["data"]["chain"] if record["seq"] == 0 else self._chain()
        head = {"chain": chain, "seq": record["seq"], "hash": record["hash"], "at": record["at"]}
        if self.key is not None:
            head["signature"] = _sign(self.key, form.head_message(head))
        durable.write_json(self.folder / form.HEAD_NAME, head, mode=0o640)

    def _chain(self) -> str:
        with self.path.open("rb") as stream:
            first = form.parse(stream.readline().rstrip(b"\n"))
        return form.chain_id([first] if first else []) or ""


def plain_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """`plain` of a record's data."""
    return {str(key): plain(value) for key, value in data.items()}


def _ending_data(outcome: str) -> dict[str, Any]:
    return {"outcome": outcome, "exit_code": int(OUTCOMES[outcome].code)}


_TEXTS = ("at", "event", "prev", "hash")


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of one line, None when it is not one.

    Raises:
        MobiusError: history_damaged, when it lacks what every record has.
    """
    record = form.parse(line)
    if record is not None and not (
        isinstance(record.get("data"), dict)
        and isinstance(record.get("run", 0), str | None)
        and all(isinstance(record.get(name), str) for name in _TEXTS)
    ):
        raise _damaged(f"record {record['seq']} lacks what every record has")
    return record


def _damaged(what: str) -> MobiusError:
    return MobiusError("history_damaged", f"The history is damaged: {what}.")


def _sign(key: Path, message: bytes) -> str:
    """An SSH signature of the message, as text.

    Raises:
        MobiusError: history_failed, when the key cannot sign (also one that would ask for a pass phrase).
    """
    try:
        return signatures.sign(key, form.NAMESPACE, message)
    except MobiusError as error:
        raise MobiusError("history_failed", f"The history's head cannot be signed: {error.reason}") from error
