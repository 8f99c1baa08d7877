"""Staged releases: they appear and disappear in one step, and every difference from what was built is reported."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable, manifest, staged_tree
from ansible_collections.mobius.dhash.plugins.module_utils.manifest import ManifestError

from tests.killing import kill_at_times
from tests.small_bundle import FIELDS, FILES, LINKS, LONG_PATH, make_linked_bundle, make_small_bundle

CHECKOUT = Path(__file__).resolve().parents[3]
# for programs that run in the checkout
IMPORT = (
    "import sys; sys.path.insert(0, '.ansible/collections'); "
    "from ansible_collections.mobius.dhash.plugins.module_utils import durable, staged_tree"
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle with its `.sha256`."""
    return make_small_bundle(tmp_path)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A bundle for any host, with links and a long name."""
    return make_linked_bundle(tmp_path)


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    folder = tmp_path / "releases"
    folder.mkdir()
    return folder


def test_a_staged_release_is_intact_and_records_what_it_is(bundle: Path, releases: Path) -> None:
    release = staged_tree.stage(bundle, releases)
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
    assert staged_tree.verify_tree(folder) == []


def test_a_bundle_with_links_is_staged_with_them_and_records_that_it_is_for_any_host(
    linked: Path, releases: Path
) -> None:
    folder = releases / staged_tree.stage(linked, releases)
    assert {path: os.readlink(folder / "tree" / path) for path in LINKS} == LINKS
    assert (folder / "tree/current/numbers.bin").read_bytes() == FILES["app/data/numbers.bin"]
    assert (folder / "tree" / LONG_PATH).read_bytes() == b"long"
    record = staged_tree.read_release(folder)
    assert (record["schema"], record["python"], record["platform"], record["commit"]) == (2, None, None, None)
    assert staged_tree.verify_tree(folder) == []
    assert staged_tree.stage(linked, releases) == folder.name


def test_no_link_exists_while_files_are_written(linked: Path, releases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a manifest could say, nothing is ever written through a link."""
    original, written = manifest._write_file, []

    def write_file(path: Path, *args: Any) -> None:
        written.append(path)
        assert not [item for item in path.parents[0].rglob("*") if item.is_symlink()]
        original(path, *args)

    monkeypatch.setattr(manifest, "_write_file", write_file)
    staged_tree.stage(linked, releases)
    assert len(written) == len(FILES) + 2


def test_modes_and_owner_of_a_staged_release_do_not_depend_on_the_umask(bundle: Path, releases: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = releases / staged_tree.stage(bundle, releases)
    finally:
        os.umask(before)
    modes = {str(path.relative_to(folder)): path.stat().st_mode & 0o7777 for path in folder.rglob("*")}
    assert folder.stat().st_mode & 0o7777 == 0o755
    assert modes["tree/lib.so"] == modes["tree/app"] == modes["tree/app/data"] == 0o755
    assert modes["tree/app/__main__.py"] == modes["manifest.json"] == modes["release.json"] == 0o644
    assert {path.stat().st_uid for path in folder.rglob("*")} == {os.geteuid()}


def test_staging_twice_changes_nothing(bundle: Path, releases: Path) -> None:
    release = staged_tree.stage(bundle, releases)
    before = (releases / release).stat()
    assert staged_tree.stage(bundle, releases) == release
    after = (releases / release).stat()  # reading it changes st_atime
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


@pytest.mark.slow
def test_two_runs_that_stage_the_same_release_at_once_both_succeed(bundle: Path, releases: Path) -> None:
    program = f"{IMPORT}; print(staged_tree.stage({str(bundle)!r}, {str(releases)!r}))"
    runs = [subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE) for _ in range(4)]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 4
    assert len(set(outputs)) == 1
    assert [path.name for path in releases.iterdir()] == [outputs[0].decode().strip()]


@pytest.mark.parametrize("taken_before", ["os.open", "fcntl.flock"])
def test_a_folder_that_another_run_removes_as_a_leftover_is_made_again(
    bundle: Path, releases: Path, monkeypatch: pytest.MonkeyPatch, taken_before: str
) -> None:
    module, name = {"os.open": (os, "open"), "fcntl.flock": (fcntl, "flock")}[taken_before]
    original = getattr(module, name)
    taken = []

    def step(first: Any, *args: Any, **kwargs: Any) -> Any:
        hidden = list(releases.glob(".staging-*"))
        if hidden and not taken:
            taken.extend(hidden)
            staged_tree.remove_leftovers(releases)
            assert not hidden[0].exists()
        return original(first, *args, **kwargs)

    monkeypatch.setattr(module, name, step)
    release = staged_tree.stage(bundle, releases)
    assert taken and staged_tree.verify_tree(releases / release) == []
    assert [path.name for path in releases.iterdir()] == [release]


def test_a_bundle_of_another_service_is_refused(bundle: Path, releases: Path) -> None:
    with pytest.raises(ManifestError, match="of the service mobius-dhash, not of other"):
        staged_tree.stage(bundle, releases, service="other")
    assert list(releases.iterdir()) == []


def test_a_damaged_release_is_refused_and_replaced_only_on_request(bundle: Path, releases: Path) -> None:
    release = staged_tree.stage(bundle, releases)
    (releases / release / "tree/lib.so").write_bytes(b"other")
    with pytest.raises(ManifestError, match=r"damaged: changed tree/lib.so"):
        staged_tree.stage(bundle, releases)
    assert (releases / release / "tree/lib.so").read_bytes() == b"other"
    assert staged_tree.stage(bundle, releases, replace_damaged=True) == release
    assert staged_tree.verify_tree(releases / release) == []
    assert [path.name for path in releases.iterdir()] == [release]


@pytest.mark.slow
def test_a_run_killed_at_any_time_leaves_nothing_visible_that_is_not_whole(bundle: Path, releases: Path) -> None:
    program = (
        f"import sys; {IMPORT}; print('go', flush=True)\n"
        f"while True:\n"
        f"    release = staged_tree.stage({str(bundle)!r}, {str(releases)!r})\n"
        f"    staged_tree.unstage(release, {str(releases)!r})\n"
    )
    for _ in kill_at_times(program, 0.003):
        visible = [path for path in releases.iterdir() if not path.name.startswith(".")]
        assert [staged_tree.verify_tree(path) for path in visible] == [[] for _ in visible]
    release = staged_tree.stage(bundle, releases)
    assert [path.name for path in releases.iterdir()] == [release]


def test_what_a_killed_run_left_is_removed_but_not_what_a_living_one_holds(bundle: Path, releases: Path) -> None:
    (releases / ".staging-dead/tree").mkdir(parents=True)
    with staged_tree.hidden_folder(releases) as living:
        release = staged_tree.stage(bundle, releases)
        assert sorted(path.name for path in releases.iterdir()) == sorted([living.name, release])
    assert [path.name for path in releases.iterdir()] == [release]


def test_a_disk_that_becomes_full_leaves_nothing_visible(bundle: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    program = (
        f"import os, sys; {IMPORT}\n"
        f"try: staged_tree.stage({str(bundle)!r}, {str(disk)!r})\n"
        f"except OSError as e: print(e.errno in durable.DISK_FULL_ERRNOS, os.listdir({str(disk)!r}))\n"
    )
    mount = f'mount -t tmpfs -o size=12k tmpfs {disk} && exec {sys.executable} -c "$0"'
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    done = subprocess.run([*namespace, "sh", "-c", mount, program], cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True []\n", "")


def test_the_required_space_is_what_staging_takes(bundle: Path, releases: Path) -> None:
    read = manifest.read_bundle(bundle).manifest
    folder = releases / staged_tree.stage(bundle, releases)
    taken = sum(-(-path.stat().st_size // 4096) * 4096 for path in [folder, *folder.rglob("*")])
    assert taken <= manifest.needs_bytes(read) <= taken + 3 * 4096


def test_a_release_is_removed_in_one_step(bundle: Path, releases: Path) -> None:
    release = staged_tree.stage(bundle, releases)
    assert staged_tree.unstage(release, releases) is True
    assert list(releases.iterdir()) == []
    assert staged_tree.unstage(release, releases) is False
    with pytest.raises(ManifestError):
        staged_tree.unstage("../releases", releases)


# --- Comparing a staged release with what was built --------------------------------------------------------------------


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
def test_each_difference_from_what_was_built_is_reported(
    bundle: Path, releases: Path, damage: Callable[[Path], None], found: list[str]
) -> None:
    folder = releases / staged_tree.stage(bundle, releases)
    damage(folder)
    assert staged_tree.verify_tree(folder) == found


def _link(path: str, target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).unlink(missing_ok=True)
        (folder / path).symlink_to(target)

    return change


def _make_folder_of_link(folder: Path) -> None:
    (folder / "tree/current").unlink()
    (folder / "tree/current").mkdir()


@pytest.mark.parametrize(
    ("damage", "problems"),
    [
        (lambda f: (f / "tree/current").unlink(), ["missing tree/current"]),
        (_link("tree/current", "/etc"), ["changed tree/current: it leads to '/etc', not to 'app/data'"]),
        (_link("tree/current", "./app/data"), ["changed tree/current: it leads to './app/data', not to 'app/data'"]),
        (_link("tree/another", "current"), ["extra tree/another"]),
        (_make_folder_of_link, ["extra tree/current/"]),
        (
            lambda f: ((f / "tree/current").unlink(), (f / "tree/current").write_bytes(b""))[0],
            ["changed tree/current: it is not a symbolic link"],
        ),
        (_edit_json("release.json", python="3.11"), ["changed release.json: its python is not the manifest's"]),
        (_edit_json("release.json", schema=1), ["changed release.json: its schema is not the manifest's"]),
        (
            _edit_json("release.json", schema=3),
            ["unreadable release.json is not a release record of the schemas 1 and 2"],
        ),
    ],
)
def test_each_difference_of_a_link_is_reported(
    linked: Path, releases: Path, damage: Callable[[Path], None], problems: list[str]
) -> None:
    folder = releases / staged_tree.stage(linked, releases)
    damage(folder)
    assert staged_tree.verify_tree(folder) == problems


def test_byte_code_beside_the_sources_is_a_difference(bundle: Path, releases: Path) -> None:
    folder = releases / staged_tree.stage(bundle, releases)
    subprocess.run([sys.executable, "-m", "app"], cwd=folder / "tree", check=True, env={"PYTHONDONTWRITEBYTECODE": ""})
    subprocess.run([sys.executable, "-c", "import app.__main__"], cwd=folder / "tree", check=True, env={})
    assert any(problem.startswith("extra tree/app/__pycache__/") for problem in staged_tree.verify_tree(folder))


def test_a_renamed_release_is_reported(bundle: Path, releases: Path) -> None:
    folder = releases / staged_tree.stage(bundle, releases)
    other = folder.rename(releases / "1.2.0-000000000000")
    assert len(staged_tree.verify_tree(other)) == 1
    assert staged_tree.verify_tree(other)[0].startswith("changed release.json: it names the release '1.2.0-")


def test_a_tree_changed_together_with_its_manifest_is_reported(bundle: Path, releases: Path) -> None:
    folder = releases / staged_tree.stage(bundle, releases)
    (folder / "tree/lib.so").write_bytes(b"evil")
    read = manifest.read_bundle(bundle).manifest
    entry = manifest.FileEntry(hashlib.sha256(b"evil").hexdigest(), 4, "0755")
    forged = manifest.make_manifest({**read.files, "lib.so": entry}, **FIELDS)
    (folder / "manifest.json").write_bytes(durable.json_bytes(forged.as_dict()))
    assert staged_tree.verify_tree(folder) == ["changed release.json: its tree_sha256 is not the manifest's"]
