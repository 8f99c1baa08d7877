# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bundles as an attacker would write them: refused in a sentence, or staged as they describe, and inside the folder.

Two kinds. Bytes of the tar stream that are flipped, cut, dropped, added or swapped, compressed and vouched for again; and
manifests with hostile paths, links, sizes and modes, with an archive and digests that fit them, so that nothing but the
meaning of the values can refuse them.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import manifest, staged_tree
from ansible_collections.mobius.dhash.plugins.module_utils.manifest import ManifestError
from ansible_collections.mobius.dhash.plugins.module_utils.tar_members import END_MARK, Member
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz.damage import Damage, damaged, damages

QUICK = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(QUICK, max_examples=5000)
FILES = {"bin/run": b"#!/bin/sh\n", "lib/deep/a": bytes(range(256)) * 5, "lib/b": b"", "n" * 130: b"long name"}
LINKS = {"current": "lib/deep", "bin/again": "run", "lib/up": "../bin"}
Change = tuple[str, str, Any]


def described(changes: list[Change]) -> dict[str, Any]:
    """The manifest of the small tree after some changes, with a tree digest that fits where there can be one."""
    value: dict[str, Any] = {
        "schema": 2,
        "service": "shop",
        "version": "1.0",
        **dict.fromkeys(("commit", "built_at", "python", "platform")),
        "files": {
            path: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "mode": "0755"}
            for path, data in FILES.items()
        },
        "links": dict(LINKS),
    }
    for kind, name, new in changes:
        if kind == "field":
            value[name] = new
        elif kind == "path":
            value["files"][name] = value["files"].pop(
                new, {"sha256": hashlib.sha256(b"").hexdigest(), "size": 0, "mode": "0644"}
            )
        elif kind == "link":
            value["links"][name] = new
        elif kind == "drop":
            value["files"].pop(name, None)
        else:
            value["files"]["lib/b"] = {**value["files"].get("lib/b", {}), name: new}
    if "tree_sha256" not in value:
        try:
            entries = {path: manifest.FileEntry(**entry) for path, entry in value["files"].items()}
            value["tree_sha256"] = manifest.tree_sha256(entries, value["links"])
        except (TypeError, AttributeError, UnicodeEncodeError, ValueError):
            value["tree_sha256"] = "0" * 64
    return value


def stream_of(value: dict[str, Any]) -> bytes:
    """A tar stream that fits the manifest as far as one can: headers, contents and order."""
    raw = json.dumps(value).encode("utf-8", "surrogatepass")
    out = io.BytesIO()

    def add(member: Member, content: bytes) -> None:
        try:
            header = member.header()
        except (ValueError, TypeError, AttributeError, OverflowError):
            header = Member("tree/x", 0, len(content), 0o644).header()
        out.write(header + content + bytes(-len(content) % 512))

    add(Member(manifest.MANIFEST_NAME, 0, len(raw), 0o644), raw)
    files, links = value.get("files"), value.get("links")
    files, links = files if isinstance(files, dict) else {}, links if isinstance(links, dict) else {}
    for path in sorted({*files, *links}):
        if path in links:
            add(Member(f"tree/{path}", 0, target=links[path]), b"")
            continue
        content = FILES.get(path, b"")
        mode = manifest.MODES.get(str(files[path].get("mode")), 0o644) if isinstance(files[path], dict) else 0o644
        add(Member(f"tree/{path}", 0, len(content), mode), content)
    return out.getvalue() + END_MARK


@contextlib.contextmanager
def staged(stream: bytes) -> Iterator[Path]:
    """The staged release of a tar stream, vouched for; nothing outside of its folder may change.

    Raises:
        ManifestError: it is refused; nothing is visible then.
    """
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        (top / "beside").mkdir()
        (top / "beside/file").write_text("not to be touched")
        releases = top / "releases"
        releases.mkdir()
        bundle = top / "x.tar.gz"
        # the gzip header that MOBIUS writes, so that only the content matters
        bundle.write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + gzip.compress(stream, 1, mtime=0)[10:])
        before = listing(top)
        try:
            release = staged_tree.stage(bundle, releases)
        except ManifestError:
            assert list(releases.iterdir()) == []
            raise
        finally:
            assert listing(top) == before
        yield releases / release


def listing(top: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a folder but what is below `releases`."""
    return {
        str(path): (stat.S_IFMT(path.lstat().st_mode), path.read_bytes() if path.is_file() else b"")
        for path in sorted(top.rglob("*"))
        if not path.is_relative_to(top / "releases") or path == top / "releases"
    }


def require_harmless(folder: Path) -> None:
    """It is what its manifest says, and every link stays inside of the tree."""
    assert staged_tree.verify_tree(folder) == []
    tree = (folder / "tree").resolve()
    for path in tree.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
        assert path.exists()
        assert path.resolve().is_relative_to(tree)
        assert stat.S_ISLNK(mode) or not mode & 0o7022


def require_refused_or_harmless(stream: bytes) -> None:
    try:
        with staged(stream) as folder:
            require_harmless(folder)
    except ManifestError as error:
        text = str(error)
        assert text.endswith(".")
        assert "\n" not in text
        text.encode()


WHOLE = stream_of(described([]))


def test_the_bundle_itself_is_staged() -> None:
    with staged(WHOLE) as folder:
        require_harmless(folder)
        assert {path: os.readlink(folder / "tree" / path) for path in LINKS} == LINKS
        assert {path: (folder / "tree" / path).read_bytes() for path in FILES} == FILES


# --- Bytes ------------------------------------------------------------------------------------------------------------


@QUICK
@given(damage=damages(len(WHOLE)))
def test_a_damaged_stream(damage: Damage) -> None:
    require_refused_or_harmless(damaged(WHOLE, damage))


@pytest.mark.soak
@LONG
@given(damage=damages(len(WHOLE)))
def test_many_more_damaged_streams(damage: Damage) -> None:
    require_refused_or_harmless(damaged(WHOLE, damage))


# --- Values -----------------------------------------------------------------------------------------------------------

PATHS = st.sampled_from(
    [
        *("", "/", ".", "..", "../x", "/etc/passwd", "lib/..", "lib/../x", "lib//x", "lib/", "current/x", "lib/up/x"),
        *(
            "x\0y",
            "x\ny",
            "x\\y",
            "\udcff",
            "\ud800",
            "n" * 255,
            "n" * 256,
            "ü" * 127,
            "ü" * 128,
            "lib",
            "lib/b",
            "bin/run",
        ),
        *(
            "/".join(["d"] * 128),
            "/".join(["d"] * 129),
            "/".join(["n" * 200] * 5),
            "/".join(["n" * 200] * 6),
            "bin/again",
        ),
        *("manifest.json", "release.json", "bin/again/x", "BIN/RUN", "-rf", ".staging-x", "x y", "tree/x", "lib/new"),
    ]
)
TARGETS = st.one_of(
    PATHS,
    st.lists(st.sampled_from(["..", ".", "", "lib", "deep", "bin", "current", "up", "again", "a"]), max_size=8).map(
        "/".join
    ),
    st.sampled_from(["../" * 400, "lib/../" * 200, "current/" * 150, "x" * 1025]),
)
NUMBERS = st.sampled_from([-1, 0, 1, 511, 512, 2**33, 2**53, 2**63, 2**64, 10**30, 10**300, 1.5, 1e400])
OTHERS = st.sampled_from([None, True, "", "x", [], {}, [[]], "[" * 1000])
FIELD_VALUES = {
    "schema": st.sampled_from([0, 1, 2, 3, "2", True, 2.0]) | OTHERS,
    "files": OTHERS,
    "links": st.sampled_from([{"a": 1}, {"a": None}, {"lib/b": "run"}, {}]) | OTHERS,
    "service": PATHS | OTHERS,
    "version": PATHS | OTHERS,
    "python": st.sampled_from(["3.11", "2.7"]) | OTHERS,
    "platform": st.sampled_from(["linux_x86_64"]) | OTHERS,
    "built_at": st.sampled_from(["2026-01-01T00:00:00Z", "2026-13-45T99:99:99Z", "9999-12-31T23:59:59Z"]) | OTHERS,
    "commit": st.just("c" * 40) | OTHERS,
    "surplus": OTHERS,
}
ENTRY_VALUES = {
    "size": NUMBERS | OTHERS,
    "mode": st.sampled_from(["0777", "4755", "04755", "0644", "link", "0o755"]) | OTHERS,
    "sha256": st.sampled_from(["A" * 64, "0" * 63, "0" * 64]) | OTHERS,
    "surplus": OTHERS,
}


@st.composite
def changes(draw: st.DrawFn) -> list[Change]:
    made: list[Change] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(("link", "link", "link", "path", "drop", "field", "entry")))
        if kind == "link":
            made.append((kind, draw(PATHS), draw(TARGETS)))
        elif kind == "path":
            made.append((kind, draw(PATHS), draw(st.sampled_from(sorted(FILES)))))
        elif kind == "drop":
            made.append((kind, draw(st.sampled_from(sorted(FILES))), None))
        else:
            values = FIELD_VALUES if kind == "field" else ENTRY_VALUES
            name = draw(st.sampled_from(sorted(values)))
            made.append((kind, name, draw(values[name])))
    # a whole new value of files or links only at the end, since the others change what is in them
    return sorted(made, key=lambda change: change[0] == "field")


@QUICK
@given(changed=changes())
@example(changed=[("link", "x", "../../../beside/file")])
@example(changed=[("link", "x", "/etc/passwd")])
@example(changed=[("link", "bin", "../../beside"), ("path", "bin/run2", "bin/run")])
@example(changed=[("link", "one", "two"), ("link", "two", "one")])
@example(changed=[("link", "one", "lib/up/../.."), ("link", "x", "one/x")])
@example(changed=[("link", "lib/b", "../bin/run")])
@example(changed=[("link", "lib/b/x", "../b")])
@example(changed=[("drop", "bin/run", None)])
@example(changed=[("path", "current/evil", "lib/b")])
@example(changed=[("entry", "size", 2**63)])
@example(changed=[("entry", "mode", "4755")])
@example(changed=[("field", "schema", 1)])
def test_a_hostile_manifest(changed: list[Change]) -> None:
    require_refused_or_harmless(stream_of(described(changed)))


@pytest.mark.soak
@LONG
@given(changed=changes())
def test_many_more_hostile_manifests(changed: list[Change]) -> None:
    require_refused_or_harmless(stream_of(described(changed)))


@pytest.mark.parametrize(
    "changed",
    [
        [("link", "x", "../../../beside/file")],
        [("link", "x", "/etc/passwd")],
        [("link", "bin", "../../beside")],
        [("path", "current/evil", "lib/b")],
        [("path", "../evil", "lib/b")],
        [("drop", "bin/run", None)],
    ],
)
def test_what_would_write_or_read_outside_is_refused(changed: list[Change]) -> None:
    with pytest.raises(ManifestError), staged(stream_of(described(changed))):
        pass


def test_links_that_would_take_a_reader_hours_are_refused_or_read_at_once() -> None:
    """Each of them leads over the next one many times; each is followed once."""
    count = 2000
    links = {f"l{number:04}": f"l{number + 1:04}/../" * 60 + "bin" for number in range(count)} | {f"l{count:04}": "lib"}
    value = described([("field", "links", links)])
    with pytest.raises(ManifestError, match="40 links"):
        manifest.parse_manifest(json.dumps(value).encode())
