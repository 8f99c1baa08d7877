# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups for tests: a host with data, and archives that are changed as an attacker or a bad disk would."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import tarfile
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.mobius.dhash.plugins.module_utils.backup.retention import KeepRules
from ansible_collections.mobius.dhash.plugins.module_utils.backup.service import (
    BackupResult,
    create_backup,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host

START = datetime(2026, 1, 31, 23, 5, 1, tzinfo=UTC)
"""When backups are made; no test reads the clock."""

PICTURE = bytes(range(256)) * 40


def prepare_host(tmp_path: Path, run_dir: Path) -> Host:
    """A prepared host on which a release serves, with a library of two pictures and an index in WAL mode."""
    folders = {"run_dir": run_dir} | {
        name: tmp_path / folder
        for name, folder in {
            "root": "opt",
            "state_dir": "state",
            "config_dir": "etc",
            "backup_dir": "backups",
            "log_dir": "log",
        }.items()
    }
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    description = {
        "schema": 1,
        "service": "svc",
        "user": "root",  # who exists on every machine; only root gives files away
        "health_path": "/health",
        "start_timeout": 60,
        "drain_deadline": 30,
        "kind": "http",
        "front": {"port": 8080, "first_port": 18080, "internal_port": 18084},
        **{name: str(folder) for name, folder in folders.items()},
    }
    config = tmp_path / "mobius-host"
    config.mkdir()
    (config / "svc.json").write_text(json.dumps(description))
    host = Host.load("svc", config)
    (host.root / "activation.json").write_text('{"schema": 1, "confirmed": "1.0.0-0123456789ab"}\n')
    (host.root / "activation.lock").touch()
    host.journal_path.write_text('{"event": "confirmed"}\n')
    (host.config_dir / "settings.env").write_text("A=1\n")
    (host.config_dir / "settings.env").chmod(0o640)
    (host.state_dir / "library" / "deep").mkdir(parents=True)
    (host.state_dir / "library" / "a.jpg").write_bytes(PICTURE)
    (host.state_dir / "library" / "deep" / "b.jpg").write_bytes(PICTURE * 2)
    (host.state_dir / "index").mkdir()
    with contextlib.closing(sqlite3.connect(host.state_dir / "index" / "library.sqlite")) as database, database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table images (path text)")
        database.execute("insert into images values ('a.jpg')")
    database.close()
    return host


def back_up(host: Host, *, now: datetime = START, keep: int | KeepRules = 5, **options) -> BackupResult:
    scratch = host.root.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    arguments = {"scope": "full", "scratch": scratch, "clock": lambda: now, **options}
    result = create_backup(host, keep=KeepRules(keep) if isinstance(keep, int) else keep, **arguments)
    assert list(scratch.iterdir()) == []
    return result


def touch_state(host: Host, number: int = 0) -> None:
    with open(host.state_dir / "note", "a") as stream:
        stream.write(f"{number}\n")


def names(host: Host) -> list[str]:
    """The names in the backup folder, without locks and records."""
    return sorted(name for name in os.listdir(host.backup_dir) if not name.endswith((".lock", "-verified.json")))


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened if not member.isdir()}


def manifest_of(archive: Path) -> tuple[dict, dict[str, dict]]:
    """The head, and the entries by path."""
    head, *entries, _ = (json.loads(line) for line in members(archive)["manifest.jsonl"].splitlines())
    return head, {entry["path"]: entry for entry in entries}


def everything(folder: Path) -> dict[str, tuple]:
    """Every path under a folder with its kind, mode, times and content."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        if path.name.startswith((".svc-verified.", ".svc-restore.lock")):  # every verification, every restore
            continue
        about = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        # a folder's time changes with these records
        mtime = 0 if path.is_dir() and path.name in ("backups", "scratch") else about.st_mtime_ns
        entries[str(path)] = (about.st_mode, mtime, content)
    return entries


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def rewrite(result: BackupResult, change) -> None:
    """Write the archive again with changed members and a digest that fits: only the manifest shows it.

    `change` gets a list of `[header, content]`, in their order; the offset of the manifest is made to fit, too.
    """
    with tarfile.open(result.backup.path) as archive:
        items = [[member, b"" if member.isdir() else archive.extractfile(member).read()] for member in archive]
    change(items)
    out = b""
    for member, content in items:
        if member.name == "manifest.jsonl" and content.count(b"\n") > 2:
            *lines, tail = content.splitlines(keepends=True)
            tail = json.dumps({**json.loads(tail), "manifest_at": len(out)}, sort_keys=True, separators=(",", ":"))
            content = b"".join(lines) + tail.encode() + b"\n"
        member.size = len(content)
        member.pax_headers = {}
        out += member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)
    path = result.backup.path
    path.write_bytes(out + bytes(1024))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    Path(f"{path}.sha256").write_text(f"{digest}  {path.name}\n")


def member(items, name):
    return next(item for item in items if item[0].name == name)


def add(items, name, content=b"added", **about) -> None:
    info = tarfile.TarInfo(name)
    info.uname = info.gname = "root"
    for key, value in about.items():
        setattr(info, key, value)
    items.insert(len(items) - 1, [info, content])


def edit(items, old: bytes, new: bytes) -> None:
    item = member(items, "manifest.jsonl")
    assert old in item[1]
    item[1] = item[1].replace(old, new, 1)


PICTURE_PATH = "state/library/a.jpg"
CHANGES = {
    "swapped": lambda items: member(items, PICTURE_PATH).__setitem__(1, PICTURE[::-1]),
    "shorter": lambda items: member(items, PICTURE_PATH).__setitem__(1, PICTURE[:-1]),
    "dropped": lambda items: items.remove(member(items, PICTURE_PATH)),
    "doubled": lambda items: items.insert(3, member(items, PICTURE_PATH)),
    "added": lambda items: add(items, "state/zz"),
    "added, absolute": lambda items: add(items, "/etc/cron.d/x"),
    "added, above": lambda items: add(items, "../x"),
    "added, a link": lambda items: add(items, "state/zz", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "added, a hard link": lambda items: add(items, "state/zz", b"", type=tarfile.LNKTYPE, linkname=PICTURE_PATH),
    "added, a device": lambda items: add(items, "state/zz", b"", type=tarfile.CHRTYPE),
    "a link instead": lambda items: (
        setattr(member(items, PICTURE_PATH)[0], "type", tarfile.SYMTYPE),
        member(items, PICTURE_PATH).__setitem__(1, b""),
    ),
    "setuid": lambda items: setattr(member(items, PICTURE_PATH)[0], "mode", 0o4755),
    "setuid, in the manifest too": lambda items: (
        setattr(member(items, "config/settings.env")[0], "mode", 0o4640),
        edit(items, b'"0640"', b'"4640"'),
    ),
    "owner": lambda items: setattr(member(items, PICTURE_PATH)[0], "uname", "daemon"),
    "order": lambda items: items.insert(0, items.pop(1)),
    "behind the manifest": lambda items: items.append(items.pop(0)),
    "no manifest": lambda items: items.pop(),
    "an empty manifest": lambda items: items[-1].__setitem__(1, b"{}\n"),
    "a manifest that is no JSON": lambda items: items[-1].__setitem__(1, b"no JSON" * 100),
    "another name in the manifest": lambda items: edit(items, b"state/library/a.jpg", b"state/library/b.jpg"),
    "above, in the manifest": lambda items: edit(items, b"state/library/a.jpg", b"state/../../../.jpg"),
    "absolute, in the manifest": lambda items: edit(items, b"state/library/a.jpg", b"/tate/library/a.jpg"),
    "a folder that is not there": lambda items: edit(items, b"state/library/a.jpg", b"state/librarx/a.jpg"),
    "another digest": lambda items: edit(
        items, hashlib.sha256(PICTURE).hexdigest().encode(), hashlib.sha256(b"").hexdigest().encode()
    ),
    "another count": lambda items: edit(items, b'"entries":11', b'"entries":10'),
    "another id": lambda items: edit(items, b"20260131T230501Z-full", b"20260131T230502Z-full"),
}
