"""The format of bundles and staged releases: what is refused, what is visible when, what a later look finds."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobius import manifest
from mobius.control.bundle.builder import pack
from mobius.manifest import ManifestError

CHECKOUT = Path(__file__).resolve().parents[2]
FIELDS = {
    "service": "mobius-dhash",
    "version": "1.2.0",
    "commit": "c" * 40,
    "built_at": "2026-01-02T03:04:05Z",
    "python": "3.11",
    "platform": "linux_x86_64",
}
FILES = {
    "app/__init__.py": b"",
    "app/__main__.py": b"print('served')\n" * 40,
    "app/data/numbers.bin": bytes(range(256)) * 9,
    "lib.so": b"\x7fELF" + b"\0" * 700,
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle with its `.sha256`; `lib.so` is executable."""
    tree = tmp_path / "tree"
    for path, content in FILES.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
    (tree / "lib.so").chmod(0o755)
    return pack([tree], tmp_path / "dist", **FIELDS).path


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    folder = tmp_path / "releases"
    folder.mkdir()
    return folder


def vouch(path: Path) -> None:
    """Write the `.sha256` that belongs to the file as it is now, as an attacker would."""
    manifest.sidecar(path).write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar.getmembers()]  # type: ignore[union-attr]


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
        manifest.stage(path, target)
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


def test_a_bundle_without_its_sha256_is_refused_where_it_is_wanted(bundle: Path) -> None:
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
        manifest.stage(bundle, releases, "0" * 64)
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
    value = {"schema": 1, **FIELDS, "files": files, "tree_sha256": manifest.tree_sha256(entries), **changes}
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


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(ManifestError, match="characters that no path has"):
        manifest.parse_manifest(described().replace(b'"a/b"', b'"a/\\udcff"'))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100000, b'{"schema": 1, "schema": 1}'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        manifest.parse_manifest(data)


def test_a_time_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ManifestError, match="no time"):
        manifest.parse_manifest(described(built_at="2026-13-45T99:99:99Z"))


# --- Staging ----------------------------------------------------------------------------------------------------------


def test_a_staged_release_is_whole_and_says_what_it_is(bundle: Path, releases: Path) -> None:
    release = manifest.stage(bundle, releases)
    folder = releases / release
    assert [path.name for path in releases.iterdir()] == [release]
    assert {path: (folder / "tree" / path).read_bytes() for path in FILES} == FILES
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    tree = json.loads((folder / "manifest.json").read_text())["tree_sha256"]
    assert json.loads((folder / "release.json").read_text()) == {
        "schema": 1,
        "release": release,
        "bundle_sha256": digest,
        "tree_sha256": tree,
        **FIELDS,
    }
    assert manifest.verify_tree(folder) == []


def test_modes_and_owner_of_a_staged_release_do_not_depend_on_the_umask(bundle: Path, releases: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = releases / manifest.stage(bundle, releases)
    finally:
        os.umask(before)
    modes = {str(path.relative_to(folder)): path.stat().st_mode & 0o7777 for path in folder.rglob("*")}
    assert folder.stat().st_mode & 0o7777 == 0o755
    assert modes["tree/lib.so"] == modes["tree/app"] == modes["tree/app/data"] == 0o755
    assert modes["tree/app/__main__.py"] == modes["manifest.json"] == modes["release.json"] == 0o644
    assert {path.stat().st_uid for path in folder.rglob("*")} == {os.geteuid()}


def test_staging_twice_changes_nothing(bundle: Path, releases: Path) -> None:
    release = manifest.stage(bundle, releases)
    before = (releases / release).stat()
    assert manifest.stage(bundle, releases) == release
    assert (releases / release).stat() == before


@pytest.mark.slow
def test_two_runs_that_stage_the_same_release_at_once_both_succeed(bundle: Path, releases: Path) -> None:
    program = f"from mobius import manifest; print(manifest.stage({str(bundle)!r}, {str(releases)!r}))"
    runs = [subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE) for _ in range(4)]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 4
    assert len(set(said)) == 1
    assert [path.name for path in releases.iterdir()] == [said[0].decode().strip()]


@pytest.mark.parametrize("taken_before", ["os.open", "fcntl.flock"])
def test_a_folder_that_another_run_takes_for_a_leftover_is_made_again(
    bundle: Path, releases: Path, monkeypatch: pytest.MonkeyPatch, taken_before: str
) -> None:
    module, name = {"os.open": (os, "open"), "fcntl.flock": (fcntl, "flock")}[taken_before]
    original = getattr(module, name)
    taken = []

    def step(first: Any, *args: Any, **kwargs: Any) -> Any:
        hidden = list(releases.glob(".staging-*"))
        if hidden and not taken:
            taken.extend(hidden)
            manifest.remove_leftovers(releases)
            assert not hidden[0].exists()
        return original(first, *args, **kwargs)

    monkeypatch.setattr(module, name, step)
    release = manifest.stage(bundle, releases)
    assert taken and manifest.verify_tree(releases / release) == []
    assert [path.name for path in releases.iterdir()] == [release]


def test_a_bundle_of_another_service_is_refused(bundle: Path, releases: Path) -> None:
    with pytest.raises(ManifestError, match="of the service mobius-dhash, not of other"):
        manifest.stage(bundle, releases, service="other")
    assert list(releases.iterdir()) == []


def test_a_damaged_release_is_refused_and_replaced_only_when_asked(bundle: Path, releases: Path) -> None:
    release = manifest.stage(bundle, releases)
    (releases / release / "tree/lib.so").write_bytes(b"other")
    with pytest.raises(ManifestError, match=r"damaged: changed tree/lib.so"):
        manifest.stage(bundle, releases)
    assert (releases / release / "tree/lib.so").read_bytes() == b"other"
    assert manifest.stage(bundle, releases, replace_damaged=True) == release
    assert manifest.verify_tree(releases / release) == []
    assert [path.name for path in releases.iterdir()] == [release]


@pytest.mark.slow
def test_a_run_killed_at_any_time_leaves_nothing_visible_that_is_not_whole(bundle: Path, releases: Path) -> None:
    program = (
        f"import sys; from mobius import manifest; print('go', flush=True)\n"
        f"while True:\n"
        f"    release = manifest.stage({str(bundle)!r}, {str(releases)!r})\n"
        f"    manifest.unstage(release, {str(releases)!r})\n"
    )
    for attempt in range(12):
        run = subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE)
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(0.003 * attempt)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        visible = [path for path in releases.iterdir() if not path.name.startswith(".")]
        assert [manifest.verify_tree(path) for path in visible] == [[] for _ in visible]
    release = manifest.stage(bundle, releases)
    assert [path.name for path in releases.iterdir()] == [release]


def test_what_a_killed_run_left_is_removed_but_not_what_a_living_one_holds(bundle: Path, releases: Path) -> None:
    (releases / ".staging-dead/tree").mkdir(parents=True)
    with manifest._hidden_folder(releases) as living:
        release = manifest.stage(bundle, releases)
        assert sorted(path.name for path in releases.iterdir()) == sorted([living.name, release])
    assert [path.name for path in releases.iterdir()] == [release]


def test_a_disk_that_becomes_full_leaves_nothing_visible(bundle: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    program = (
        "import os, sys; from mobius import manifest\n"
        f"try: manifest.stage({str(bundle)!r}, {str(disk)!r})\n"
        f"except OSError as e: print(e.errno in manifest.FULL, os.listdir({str(disk)!r}))\n"
    )
    mount = f'mount -t tmpfs -o size=12k tmpfs {disk} && exec {sys.executable} -c "$0"'
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    done = subprocess.run([*namespace, "sh", "-c", mount, program], cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True []\n", "")


def test_the_space_that_is_asked_for_is_what_staging_takes(bundle: Path, releases: Path) -> None:
    read = manifest.read_bundle(bundle).manifest
    folder = releases / manifest.stage(bundle, releases)
    taken = sum(-(-path.stat().st_size // 4096) * 4096 for path in [folder, *folder.rglob("*")])
    assert taken <= manifest.needs_bytes(read) <= taken + 3 * 4096


def test_a_release_is_removed_in_one_step(bundle: Path, releases: Path) -> None:
    release = manifest.stage(bundle, releases)
    assert manifest.unstage(release, releases) is True
    assert list(releases.iterdir()) == []
    assert manifest.unstage(release, releases) is False
    with pytest.raises(ManifestError):
        manifest.unstage("../releases", releases)


# --- A later look -----------------------------------------------------------------------------------------------------


def _edit(path: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes(content) and None


def _edit_json(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**value, **changes}))

    return change


def _linked(folder: Path) -> None:
    (folder / "tree/lib.so").unlink()
    (folder / "tree/lib.so").symlink_to("/bin/true")


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda f: (f / "tree/app/__init__.py").unlink(), ["missing tree/app/__init__.py"]),
        (_edit("tree/lib.so", b"x"), ["changed tree/lib.so: 1 bytes, not 704"]),
        (_edit("tree/lib.so", FILES["lib.so"][:-1] + b"x"), ["changed tree/lib.so"]),
        (_edit("tree/app/new.py", b"x"), ["extra tree/app/new.py"]),
        (_edit("surplus", b"x"), ["extra surplus"]),
        (lambda f: (f / "tree/empty").mkdir(), ["extra tree/empty/"]),
        (lambda f: (f / "tree/lib.so").chmod(0o777), ["mode tree/lib.so: 0777, not 0755"]),
        (lambda f: (f / "tree/app").chmod(0o777), ["mode tree/app/: 0777, not 0755"]),
        (lambda f: f.chmod(0o777), ["mode ./: 0777, not 0755"]),
        (lambda f: (f / "manifest.json").chmod(0o666), ["mode manifest.json: 0666, not 0644"]),
        (lambda f: (f / "release.json").chmod(0o666), ["mode release.json: 0666, not 0644"]),
        (_linked, ["changed tree/lib.so: it is not a regular file"]),
        (
            _edit_json("release.json", commit="d" * 40),
            ["changed release.json: its commit is not the manifest's"],
        ),
        (
            lambda f: (f / "release.json").unlink(),
            ["unreadable release.json cannot be read: No such file or directory"],
        ),
        (
            lambda f: (f / "manifest.json").unlink(),
            ["unreadable manifest.json: No such file or directory"],
        ),
        (
            _edit_json("manifest.json", files={}),
            ["unreadable manifest.json names no files"],
        ),
    ],
)
def test_each_difference_from_what_was_built_is_found(
    bundle: Path, releases: Path, damage: Callable[[Path], None], found: list[str]
) -> None:
    folder = releases / manifest.stage(bundle, releases)
    damage(folder)
    assert manifest.verify_tree(folder) == found


def test_byte_code_beside_the_sources_is_a_difference(bundle: Path, releases: Path) -> None:
    folder = releases / manifest.stage(bundle, releases)
    subprocess.run([sys.executable, "-m", "app"], cwd=folder / "tree", check=True, env={"PYTHONDONTWRITEBYTECODE": ""})
    subprocess.run([sys.executable, "-c", "import app.__main__"], cwd=folder / "tree", check=True, env={})
    assert any(problem.startswith("extra tree/app/__pycache__/") for problem in manifest.verify_tree(folder))


def test_a_release_that_was_renamed_is_found(bundle: Path, releases: Path) -> None:
    folder = releases / manifest.stage(bundle, releases)
    other = folder.rename(releases / "1.2.0-000000000000")
    assert len(manifest.verify_tree(other)) == 1
    assert manifest.verify_tree(other)[0].startswith("changed release.json: it speaks of the release '1.2.0-")


def test_a_tree_changed_together_with_its_manifest_is_found(bundle: Path, releases: Path) -> None:
    folder = releases / manifest.stage(bundle, releases)
    (folder / "tree/lib.so").write_bytes(b"evil")
    read = manifest.read_bundle(bundle).manifest
    entry = manifest.FileEntry(hashlib.sha256(b"evil").hexdigest(), 4, "0755")
    forged = manifest.make_manifest({**read.files, "lib.so": entry}, **FIELDS)
    (folder / "manifest.json").write_bytes(manifest.json_bytes(forged.as_dict()))
    assert manifest.verify_tree(folder) == ["changed release.json: its tree_sha256 is not the manifest's"]


def test_hosts_use_the_same_file() -> None:
    link = CHECKOUT / "plugins/module_utils/manifest.py"
    assert os.readlink(link) == "../../mobius/manifest.py"
