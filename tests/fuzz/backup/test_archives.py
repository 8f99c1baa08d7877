# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Archives as an attacker or a bad disk would write them: refused in a sentence, or restored as they describe.

Two kinds. Bytes that are flipped, cut, dropped, added or swapped anywhere; and manifests with hostile values, with an
archive and digests that fit them, so that nothing but the meaning of the values can refuse them. No exception but
`DamagedError` may come out, and nothing may be written outside of the folder that was given.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.backup.archive import (
    MANIFEST_NAME,
    TOP_NAMES,
    ArchiveEntry,
    DamagedError,
    padding_size,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.archive_writer import write_archive
from ansible_collections.mobius.dhash.plugins.module_utils.backup.extraction import extract_files, finish_files
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_archive
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz.damage import Damage, damaged, damages

HEAD = {"service": "svc", "host": "lab1", "id": "20260131T230501Z-full", "scope": "full"}
HEAD |= {"created": "2026-01-31T23:05:01Z", "release": None, "run": None}
FILES = {
    "activation.json": b"{}\n",
    "config/settings.env": b"A=1\n",
    "state/index/library.sqlite": bytes(700),
    "state/library/a.jpg": bytes(range(256)) * 5,
    "state/library/empty.jpg": b"",
}
FOLDERS = ("config", "state", "state/index", "state/library")
QUICK = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(QUICK, max_examples=5000)


def entries() -> list[ArchiveEntry]:
    about: dict[str, Any] = {"owner": "root", "group": "root", "mtime": 1_760_000_000}
    listed = [ArchiveEntry(path, True, "0750", **about) for path in FOLDERS]
    listed += [
        ArchiveEntry(path, False, "0640", **about, size=len(data), stamp="1.1.1") for path, data in FILES.items()
    ]
    return sorted(listed, key=lambda entry: entry.parts)


def written(place: Path) -> bytes:
    """An archive as a backup writes it."""
    sources = [(entry, None if entry.folder else io.BytesIO(FILES[entry.path])) for entry in entries()]
    with open(place, "w+b", buffering=0) as raw:
        write_archive(raw, lambda: HEAD, sources, place.parent)
    return place.read_bytes()


@contextlib.contextmanager
def restored(data: bytes, expected: str | None = None) -> Iterator[Path]:
    """What check, extraction and publication make of an archive's bytes; its digest fits unless another is given.

    Raises:
        DamagedError: it is refused.
    """
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)  # the child that extracts is nobody
        (top / "x.tar").write_bytes(data)
        (top / "beside").mkdir()
        (top / "beside" / "file").write_text("not to be touched")
        folder = top / "folder"
        folder.mkdir()
        before = outside(top)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            manifest, _ = verify_archive(top / "x.tar", expected or hashlib.sha256(data).hexdigest())
            nobody = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
            extract_files(top / "x.tar", manifest, descriptor, user=nobody)
            finish_files(top / "x.tar", manifest, descriptor, owner_of=lambda _: (-1, -1))
            yield folder
        finally:
            os.close(descriptor)
            assert outside(top) == before


def outside(top: Path) -> dict[str, tuple[int, bytes]]:
    """All in the folder above but for what was restored."""
    contents = {}
    for path in sorted(top.rglob("*")):
        if not path.is_relative_to(top / "folder") or path == top / "folder":
            contents[str(path)] = (stat.S_IFMT(path.lstat().st_mode), path.read_bytes() if path.is_file() else b"")
    return contents


def tree(folder: Path) -> dict[str, bytes | None]:
    """Content by path, None for a folder; only these two may be there, and none that lends its owner's rights."""
    contents = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode), path
        assert not stat.S_IMODE(mode) & 0o7002, path
        contents[str(path.relative_to(folder))] = path.read_bytes() if stat.S_ISREG(mode) else None
    return contents


WHOLE: dict[str, bytes | None] = {**dict.fromkeys(FOLDERS), **FILES}


# --- Bytes ------------------------------------------------------------------------------------------------------------


def any_damage_is_refused_or_harmless(whole: bytes, damage: Damage) -> None:
    """With the digest of the whole archive it is refused; with one that fits, the files are those that were saved."""
    data = damaged(whole, damage)
    if data == whole:
        return
    with pytest.raises(DamagedError), restored(data, hashlib.sha256(whole).hexdigest()):
        pass
    try:
        with restored(data) as folder:
            # only what no other byte vouches for: text of the manifest's head, or a stamp
            assert damage[0] in ("flip", "swap", "add", "drop")
            assert tree(folder) == WHOLE
    except DamagedError as error:
        assert_one_sentence(error)


def assert_one_sentence(error: DamagedError) -> None:
    text = str(error)
    assert text
    assert "\n" not in text
    text.encode()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("archive") / "whole.tar")


def test_the_archive_itself_comes_back(whole: bytes) -> None:
    with restored(whole) as folder:
        assert tree(folder) == WHOLE


LENGTH = 20_000  # not shorter than the archive


@QUICK
@given(damage=damages(LENGTH))
def test_bytes_that_were_flipped_cut_dropped_added_or_swapped(whole: bytes, damage: Damage) -> None:
    any_damage_is_refused_or_harmless(whole, _inside(damage, len(whole)))


@pytest.mark.soak
@LONG
@given(damage=damages(LENGTH))
def test_many_more_damages(whole: bytes, damage: Damage) -> None:
    any_damage_is_refused_or_harmless(whole, _inside(damage, len(whole)))


def _inside(damage: Damage, length: int) -> Damage:
    kind, at, number, added = damage
    return kind, at % length, number if kind == "flip" else number % length, added


# --- Values -----------------------------------------------------------------------------------------------------------

PATHS = st.sampled_from(
    [
        *("", "/", ".", "..", "../x", "/etc/passwd", "state/..", "state/../x", "state//x", "state/", "state/library/."),
        *("state/x\0y", "state/x\ny", "state/\udcff", "state/\ud800", "state/" + "n" * 255, "state/" + "n" * 256),
        *("state/" + "ü" * 127, "state/" + "ü" * 128, "state" + "/d" * 63, "state" + "/d" * 64, "state" + "/d" * 3000),
        *("manifest.jsonl", "manifest.jsonl/x", "other", "config", "state/library", "state/library/a.jpg/x", "STATE"),
    ]
)
NUMBERS = st.sampled_from([-1, 0, 1, 2, 511, 512, 2**31, 2**33, 2**63 - 1, 2**63, 2**64, 10**30, 10**300, 1.5, 1e400])
OTHERS = st.sampled_from([None, True, "", "x", [], {}, [[]], "[" * 1000])
MODES = st.sampled_from(["0777", "4755", "04755", "0o755", "0999", "777", "-755", "0002", "", "٠٧٥٥"])
OWNERS = st.sampled_from(["", "root\nx", "../x", "a" * 33, "a" * 40_000, "-1", "0", "nobody", "ü", "x\0"])
VALUES = {
    "path": PATHS | OTHERS,
    "kind": st.sampled_from(["file", "folder", "link", ""]) | OTHERS,
    "mode": MODES | OTHERS,
    "owner": OWNERS | OTHERS,
    "group": OWNERS | OTHERS,
    "mtime": NUMBERS | OTHERS,
    "size": NUMBERS | OTHERS,
    "sha256": st.sampled_from([hashlib.sha256(b"").hexdigest(), "A" * 64, "0" * 63]) | OTHERS,
    "stored": st.booleans() | OTHERS,
    "stamp": OTHERS,
}
Lines = list[dict[str, Any]]
Change = tuple[str, int, str, Any]


@st.composite
def changes(draw: st.DrawFn) -> list[Change]:
    made: list[Change] = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("value", "value", "value", "drop", "double", "swap", "gone")))
        name = draw(st.sampled_from(sorted(VALUES)))
        value = draw(VALUES[name]) if kind == "value" else None
        made.append((kind, draw(st.integers(0, len(WHOLE) - 1)), name, value))
    return made


def hostile(changed: list[Change], tail: dict[str, Any] | None = None) -> bytes:
    """An archive that fits its manifest as far as a tar file can: headers, contents, counts and places."""
    lines: Lines = [
        json.loads(entry.line()) | ({} if entry.folder else {"sha256": hashlib.sha256(FILES[entry.path]).hexdigest()})
        for entry in entries()
    ]
    for kind, number, name, value in changed:
        at = number % len(lines)
        if kind == "value":
            lines[at] = {**lines[at], name: value}
        elif kind == "drop" and len(lines) > 1:
            del lines[at]
        elif kind == "double":
            lines.insert(at, dict(lines[at]))
        elif kind == "swap":
            lines[at], lines[at - 1] = lines[at - 1], lines[at]
        else:
            lines[at].pop(name, None)
    out, files, size = b"", 0, 0
    for line in lines:
        folder = line.get("kind") == "folder"
        content = b"" if folder else FILES.get(str(line.get("path")), b"")
        files += not folder
        stored = bool(line.get("stored", True))
        declared = line.get("size", 0)
        size += declared if stored and not folder and isinstance(declared, int) else 0
        if folder or stored:
            out += _header(line) + content + bytes(padding_size(len(content)))
    end = {"entries": len(lines), "files": files, "bytes": size, "manifest_at": len(out), **(tail or {})}
    texts = [json.dumps(each, sort_keys=True, separators=(",", ":")) for each in ({**HEAD, "schema": 2}, *lines, end)]
    manifest = "".join(f"{text}\n" for text in texts).encode()
    about = ArchiveEntry(MANIFEST_NAME, False, "0600", "root", "root", 0, len(manifest))
    return out + about.header() + manifest + bytes(padding_size(len(manifest))) + bytes(1024)


def _header(line: dict[str, Any]) -> bytes:
    """The header that the manifest's line describes; an empty file's where no tar file can have it."""
    known = {name: line.get(name) for name in ("path", "mode", "owner", "group", "mtime")}
    try:
        return ArchiveEntry(folder=line["kind"] == "folder", size=line.get("size", 0), **known).header()
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return ArchiveEntry("state/x", False, "0600", "root", "root", 0).header()


def a_hostile_manifest_is_refused_or_means_what_it_says(changed: list[Change]) -> None:
    try:
        with restored(hostile(changed)) as folder:
            contents = tree(folder)
    except DamagedError as error:
        assert_one_sentence(error)
    else:
        assert all(path.split("/")[0] in TOP_NAMES for path in contents)
        assert set(contents.values()) <= {None, *FILES.values()}


def test_without_a_change_the_archive_is_the_one_that_a_backup_writes(whole: bytes) -> None:
    assert hostile([]) == whole


@QUICK
@given(changed=changes())
@example(changed=[("value", 0, "mtime", 10**30)])
@example(changed=[("value", 3, "size", 2**63)])
@example(changed=[("value", 8, "path", "state/library/" + "n" * 256)])
@example(changed=[("value", 8, "path", "state/library/\ud800")])
def test_a_manifest_with_hostile_values(changed: list[Change]) -> None:
    a_hostile_manifest_is_refused_or_means_what_it_says(changed)


@pytest.mark.soak
@LONG
@given(changed=changes())
def test_many_more_hostile_manifests(changed: list[Change]) -> None:
    a_hostile_manifest_is_refused_or_means_what_it_says(changed)


@pytest.mark.parametrize("name", ["entries", "files", "bytes", "manifest_at"])
@QUICK
@given(value=NUMBERS | OTHERS)
def test_a_manifest_whose_end_lies(name: str, value: Any) -> None:
    if hostile([], {name: value}) != hostile([]):
        with pytest.raises(DamagedError), restored(hostile([], {name: value})):
            pass


def test_a_manifest_that_nests_without_end_is_refused(whole: bytes) -> None:
    """A line that fits into a line's limit, but not onto the parser's stack."""
    line = b"[" * 30_000
    manifest_at = whole.index(b'{"created"')
    head = whole[manifest_at : whole.index(b"\n", manifest_at)]
    tail = json.loads(whole.rstrip(b"\0").splitlines()[-1])
    body = b"\n".join([head, line, json.dumps({**tail, "entries": 1, "manifest_at": 0}).encode(), b""])
    about = ArchiveEntry(MANIFEST_NAME, False, "0600", "root", "root", 0, len(body))
    data = about.header() + body + bytes(padding_size(len(body))) + bytes(1024)
    with pytest.raises(DamagedError), restored(data):
        pass
