"""The format of bundles: which ones are refused, by reading and by staging them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import manifest, staged_tree
from ansible_collections.mobius.dhash.plugins.module_utils.manifest import ManifestError

from tests.small_bundle import FIELDS, FILES, LINKS, LONG_PATH, make_linked_bundle, make_small_bundle

CHECKOUT = Path(__file__).resolve().parents[3]
CONTENT_OF_0_1_0 = "6cc2e5f00ac39172490da7128419bc16d584289ac377602a8b30138ee7adf4a6"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle with its `.sha256`."""
    return make_small_bundle(tmp_path)


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    folder = tmp_path / "releases"
    folder.mkdir()
    return folder


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A bundle for any host, with links and a long name."""
    return make_linked_bundle(tmp_path)


def vouch(path: Path) -> None:
    """Write the `.sha256` that belongs to the file as it is now, as an attacker would."""
    manifest.sidecar(path).write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return [(info, tar.extractfile(info).read() if info.isreg() else b"") for info in tar.getmembers()]  # type: ignore[union-attr]


def rewrite(path: Path, items: list[tuple[tarfile.TarInfo, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> None:
    """Put other members into a bundle, in the form that MOBIUS writes, and vouch for it."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=buffer, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tar_format) as tar,
    ):
        for info, content in items:
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(buffer.getvalue())
    vouch(path)


def refusal(path: Path) -> str:
    """The one sentence with which a bundle is refused, by reading it and by staging it alike."""
    with pytest.raises(ManifestError) as caught:
        manifest.read_bundle(path)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    target = path.parent / "staged"
    target.mkdir(exist_ok=True)
    with pytest.raises(ManifestError):
        staged_tree.stage(path, target)
    assert list(target.iterdir()) == []
    return sentence


# --- Reading ----------------------------------------------------------------------------------------------------------


def test_a_whole_bundle_is_read(bundle: Path) -> None:
    read = manifest.read_bundle(bundle, require_sidecar=True)
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert read.sha256 == digest
    assert read.release_id == f"1.2.0-{digest[:12]}"
    assert manifest.RELEASE_ID.fullmatch(read.release_id)
    assert read.size == bundle.stat().st_size
    assert {path: entry.size for path, entry in read.manifest.files.items()} == {p: len(c) for p, c in FILES.items()}
    assert read.manifest.files["lib.so"].mode == "0755"


def test_a_bundle_for_any_host_names_its_links_and_nothing_that_it_needs(linked: Path) -> None:
    read = manifest.read_bundle(linked, require_sidecar=True).manifest
    assert read.as_dict()["schema"] == 2
    assert (read.commit, read.built_at, read.python, read.platform) == (None, None, None, None)
    assert read.links == LINKS
    assert set(read.files) == {*FILES, LONG_PATH}
    assert manifest.parse_manifest(json.dumps(read.as_dict()).encode()) == read


def test_gnu_tar_itself_reads_links_and_long_names(linked: Path, tmp_path: Path) -> None:
    (tmp_path / "by_tar").mkdir()
    subprocess.run(["tar", "-xzf", str(linked)], cwd=tmp_path / "by_tar", check=True)
    assert (tmp_path / "by_tar/tree" / LONG_PATH).read_bytes() == b"long"
    assert {path: os.readlink(tmp_path / "by_tar/tree" / path) for path in LINKS} == LINKS


def test_a_bundle_of_schema_1_is_the_file_that_it_always_was(bundle: Path) -> None:
    """Hosts keep what was released before; the digest is of the bundle that version 0.1.0 wrote."""
    read = manifest.read_bundle(bundle).manifest
    assert (read.schema, "links" in read.as_dict()) == (1, False)
    content = gzip.decompress(bundle.read_bytes())
    assert hashlib.sha256(content).hexdigest() == CONTENT_OF_0_1_0


def test_sha256sum_itself_accepts_the_sha256_beside_a_bundle(bundle: Path) -> None:
    subprocess.run(["sha256sum", "-c", manifest.sidecar(bundle).name], cwd=bundle.parent, check=True)


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_refused(bundle: Path) -> None:
    whole = bundle.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        bundle.write_bytes(damaged)
        with pytest.raises(ManifestError):
            manifest.read_bundle(bundle)


@pytest.mark.slow
def test_a_flipped_bit_never_changes_the_content_even_when_the_sha256_was_made_to_fit(bundle: Path) -> None:
    whole = bundle.read_bytes()
    read = manifest.read_bundle(bundle).manifest
    refused = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        bundle.write_bytes(damaged)
        vouch(bundle)
        try:
            assert manifest.read_bundle(bundle).manifest == read  # a bit that deflate does not use
        except ManifestError:
            refused += 1
    assert refused > 0.99 * len(whole)


@pytest.mark.slow
def test_a_bundle_that_is_cut_short_is_refused(bundle: Path) -> None:
    whole = bundle.read_bytes()
    for length in range(0, len(whole), 7):
        bundle.write_bytes(whole[:length])
        vouch(bundle)
        refusal(bundle)


def test_a_bundle_that_goes_on_after_its_end_is_refused(bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes() + gzip.compress(b"more"))
    vouch(bundle)
    refusal(bundle)


def test_a_bundle_without_its_sha256_is_refused_where_it_is_required(bundle: Path) -> None:
    manifest.sidecar(bundle).unlink()
    manifest.read_bundle(bundle)
    with pytest.raises(ManifestError, match="is missing"):
        manifest.read_bundle(bundle, require_sidecar=True)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "0" * 64 + "  {name}\n",
        "{digest}  other.tar.gz\n",
        "{digest}\n",
        "{digest}  {name}\n{digest}  {name}\n",
        "{digest}  ../{name}\n",
    ],
)
def test_a_wrong_sha256_file_is_refused(bundle: Path, line: str) -> None:
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    manifest.sidecar(bundle).write_text(line.format(digest=digest, name=bundle.name))
    assert ".sha256" in refusal(bundle)


def test_another_digest_than_expected_is_refused(bundle: Path, releases: Path) -> None:
    with pytest.raises(ManifestError, match="was expected"):
        manifest.read_bundle(bundle, expected_sha256="0" * 64)
    with pytest.raises(ManifestError, match="was expected"):
        staged_tree.stage(bundle, releases, "0" * 64)
    assert list(releases.iterdir()) == []


def _of_type(kind: bytes, linkname: str = "") -> Callable[[list[Any]], None]:
    def change(items: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        items[1][0].type, items[1][0].linkname = kind, linkname  # an empty file, so that nothing else differs

    return change


def _renamed(name: str) -> Callable[[list[Any]], None]:
    def change(items: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        items[2][0].name = name

    return change


def _with(**changes: Any) -> Callable[[list[Any]], None]:
    def change(items: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        for name, value in changes.items():
            setattr(items[2][0], name, value)

    return change


def _added(items: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    info = tarfile.TarInfo("tree/zzz")
    info.mtime = items[0][0].mtime
    items.append((info, b""))


def _swapped(items: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    items[1], items[2] = items[2], items[1]


def _other_content(items: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    items[2] = (items[2][0], items[2][1][:-1] + b"!")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda items: items.pop(2), id="dropped"),
        pytest.param(lambda items: items.pop(0), id="no manifest"),
        pytest.param(lambda items: items.pop(), id="last dropped"),
        pytest.param(_added, id="added"),
        pytest.param(lambda items: items.insert(2, items[2]), id="twice"),
        pytest.param(_swapped, id="swapped"),
        pytest.param(_other_content, id="other content"),
        pytest.param(_of_type(tarfile.SYMTYPE, "/etc/passwd"), id="symbolic link"),
        pytest.param(_of_type(tarfile.LNKTYPE, "manifest.json"), id="hard link"),
        pytest.param(_of_type(tarfile.CHRTYPE), id="device"),
        pytest.param(_of_type(tarfile.FIFOTYPE), id="fifo"),
        pytest.param(_of_type(tarfile.DIRTYPE), id="folder"),
        pytest.param(_renamed("/etc/cron.d/x"), id="absolute"),
        pytest.param(_renamed("tree/../../x"), id="outside"),
        pytest.param(_renamed("tree/./app/__main__.py"), id="another way to say it"),
        pytest.param(_with(mode=0o4755), id="setuid"),
        pytest.param(_with(mode=0o755), id="other mode"),
        pytest.param(_with(uid=1000), id="owner"),
        pytest.param(_with(uname="eve"), id="owner's name"),
        pytest.param(_with(mtime=1), id="time"),
    ],
)
def test_a_member_that_is_not_what_the_manifest_says_is_refused(bundle: Path, change: Callable[[Any], None]) -> None:
    items = members(bundle)
    rewrite(bundle, items)
    manifest.read_bundle(bundle)
    change(items)
    rewrite(bundle, items)
    refusal(bundle)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda items, at: setattr(items[at][0], "linkname", "../../etc"), id="other target"),
        pytest.param(lambda items, at: setattr(items[at][0], "type", tarfile.LNKTYPE), id="hard link"),
        pytest.param(lambda items, at: setattr(items[at][0], "type", tarfile.REGTYPE), id="a file in its place"),
        pytest.param(lambda items, at: setattr(items[at][0], "mode", 0o644), id="mode"),
        pytest.param(lambda items, at: setattr(items[at][0], "uname", "eve"), id="owner"),
        pytest.param(lambda items, at: setattr(items[at][0], "name", "tree/elsewhere"), id="renamed"),
        pytest.param(lambda items, at: items.pop(at), id="dropped"),
        pytest.param(lambda items, at: items.insert(at, items[at]), id="twice"),
        pytest.param(lambda items, at: setattr(items[-1][0], "name", "n" * 320), id="another long name"),
        pytest.param(lambda items, at: items.pop(), id="the long name dropped"),
    ],
)
def test_a_link_that_is_not_what_the_manifest_says_is_refused(linked: Path, change: Callable[..., None]) -> None:
    items = members(linked)
    rewrite(linked, items, tarfile.PAX_FORMAT)
    manifest.read_bundle(linked)
    for info, _ in items:
        info.pax_headers = {}
    change(items, [info.name for info, _ in items].index("tree/current"))
    rewrite(linked, items, tarfile.PAX_FORMAT)
    refusal(linked)


def test_an_extended_header_is_refused(bundle: Path) -> None:
    items = members(bundle)
    items[2][0].pax_headers = {"path": "/etc/passwd"}
    rewrite(bundle, items, tarfile.PAX_FORMAT)
    refusal(bundle)


# --- The manifest -----------------------------------------------------------------------------------------------------


def described(**changes: Any) -> bytes:
    """A manifest whose tree digest fits, with some fields changed."""
    files = changes.pop("files", {"a/b": {"sha256": "0" * 64, "size": 3, "mode": "0644"}})
    entries = {p: manifest.FileEntry(e["sha256"], e["size"], e["mode"]) for p, e in files.items() if len(e) == 3}
    links = {path: str(target) for path, target in dict(changes.get("links") or {}).items()}
    value = {"schema": 1, **FIELDS, "files": files, "tree_sha256": manifest.tree_sha256(entries, links), **changes}
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"surplus": 1},
        {"files": {}},
        {"tree_sha256": "0" * 64},
        {"service": "../x"},
        {"version": "1.0.0-rc1"},
        {"version": ".."},
        {"version": "1.0\n"},
        {"version": 1},
        {"commit": "HEAD"},
        {"built_at": "2026-01-02 03:04:05"},
        {"python": "2.7"},
        {"platform": "linux x86"},
        *(
            {"files": {path: {"sha256": "0" * 64, "size": 0, "mode": "0644"}}}
            for path in ["", "/a", "a/", "a//b", "..", "../a", "a/../b", ".", "./a", "a\\b", "a\nb", "a\0b"]
        ),
        {"files": {"a": {"sha256": "0" * 64, "size": 0, "mode": "4755"}}},
        {"files": {"a": {"sha256": "0" * 63, "size": 0, "mode": "0644"}}},
        {"files": {"a": {"sha256": "0" * 64, "size": -1, "mode": "0644"}}},
        {"files": {"a": {"sha256": "0" * 64, "size": True, "mode": "0644"}}},
        {"files": {"a": {"sha256": "0" * 64, "size": 0}}},
        {"files": {name: {"sha256": "0" * 64, "size": 0, "mode": "0644"} for name in ("a", "a/b")}},
    ],
    ids=lambda changes: repr(changes)[:60],
)
def test_a_malformed_manifest_is_refused(changes: dict[str, Any]) -> None:
    manifest.parse_manifest(described())
    with pytest.raises(ManifestError):
        manifest.parse_manifest(described(**changes))


LINKED = {"links": {"link": "a/b"}, "commit": None, "built_at": None, "python": None, "platform": None, "schema": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 1},
        {"schema": 3},
        {"schema": True},
        {"schema": None},
        {"links": {"link": "/etc/passwd"}},
        {"links": {"link": "../outside"}},
        {"links": {"link": "nothing"}},
        {"links": {"link": "link"}},
        {"links": {"one": "two", "two": "../outside"}},
        {"links": {"../link": "a/b"}},
        {"links": {"a/b": "c"}},
        {"links": {"a/b/link": "../b"}},
        {"links": {"a": "b"}},
        {"links": {"link": 1}},
        {"links": {"link": None}},
        {"links": []},
        {"links": None},
        {"python": "3.11"},
        {"platform": "linux_x86_64"},
        {"service": None},
        {"version": None},
        {"tree_sha256": "0" * 64},
        {"files": {}},
        {"files": {"a": {"sha256": "0" * 64, "size": 1 << 60, "mode": "0644"}}},
    ],
    ids=lambda changes: repr(changes)[:60],
)
def test_a_malformed_manifest_with_links_is_refused(changes: dict[str, Any]) -> None:
    manifest.parse_manifest(described(**LINKED))
    with pytest.raises(ManifestError) as caught:
        manifest.parse_manifest(described(**{**LINKED, **changes}))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_path_through_a_link_is_refused_however_valid_the_link_is() -> None:
    files = {path: {"sha256": "0" * 64, "size": 0, "mode": "0644"} for path in ("real/x", "link/y")}
    for links in ({"link": "real"}, {"link": "real/x"}):
        with pytest.raises(ManifestError, match="'link' both as a link and as a folder"):
            manifest.parse_manifest(described(**{**LINKED, "files": files, "links": links}))


def test_a_manifest_that_an_older_schema_can_express_has_that_schema() -> None:
    with pytest.raises(ManifestError, match="that of schema 1"):
        manifest.parse_manifest(described(schema=2, links={}))
    nothing_needed = dict.fromkeys(("commit", "built_at", "python", "platform"))
    assert manifest.parse_manifest(described(schema=2, links={}, **nothing_needed)).schema == 2


def test_a_tree_with_a_link_has_another_digest_than_one_without_or_with_another() -> None:
    files = {"a": manifest.FileEntry("0" * 64, 3, "0644")}
    digests = [manifest.tree_sha256(files, links) for links in ({}, {"b": "a"}, {"b": "./a"}, {"c": "a"})]
    assert len(set(digests)) == 4
    assert digests[0] == manifest.tree_sha256(files)


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(ManifestError, match="forbidden characters"):
        manifest.parse_manifest(described().replace(b'"a/b"', b'"a/\\udcff"'))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100000, b'{"schema": 1, "schema": 1}', b"1" * 5000])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        manifest.parse_manifest(data)


def test_a_time_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ManifestError, match="not a time"):
        manifest.parse_manifest(described(built_at="2026-13-45T99:99:99Z"))


def test_hosts_use_the_same_file() -> None:
    link = CHECKOUT / "plugins/module_utils/manifest.py"
    assert os.readlink(link) == "../../mobius/manifest.py"
