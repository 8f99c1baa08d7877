"""Building a bundle: what goes in, what stays out, and that two builds of one commit are the same file."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from mobius import manifest
from mobius.cli.bundle import bundle as command
from mobius.control.bundle import builder as bundles
from mobius.control.bundle import dependencies
from mobius.errors import MobiusError

CHECKOUT = Path(__file__).resolve().parents[3]
LOCKS = CHECKOUT / "tools/locks"
SOURCES = {
    "pyproject.toml": '[project]\nname = "mobius-dhash"\nversion = "0.7.1"\n',
    "mobius/__init__.py": "",
    "mobius/errors.py": "# errors\n",
    "mobius/py.typed": "",
    "mobius/dhash/__init__.py": "# hashing\n",
    "mobius/service/__init__.py": "",
    "mobius/service/__main__.py": "print('served')\n",
    "mobius/control/__init__.py": "# stays on the control node\n",
    "plugins/modules/release.py": "# not in a bundle either\n",
}


def git(folder: Path, *arguments: str, **environment: str) -> str:
    identity = {f"GIT_{person}_{what}": "test" for person in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **identity, **environment},
    )
    return done.stdout.strip()


def make_wheel(folder: Path, name: str = "wheelhouse_example", body: str = "VALUE = 1\n") -> str:
    """A wheel with a module, a script and a compiled part; its SHA-256."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": body,
        f"{name}/part.so": "binary",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = io.StringIO()
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        csv.writer(record).writerow([path, f"sha256={digest}", len(content)])
    csv.writer(record).writerow([f"{info}/RECORD", "", ""])
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**files, f"{info}/RECORD": record.getvalue()}.items():
            member = zipfile.ZipInfo(path)
            member.external_attr = (0o100755 if path.endswith(".so") else 0o100644) << 16
            archive.writestr(member, content)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout with a lock of one dependency, whose wheel pip finds in a folder and nowhere else."""
    digest = make_wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    lock = (
        "# made by a test\n"
        f"wheelhouse-example==1.0 ; python_full_version < '3.12' \\\n    --hash=sha256:{digest}\n    # via something\n"
        f"only-elsewhere==9.9 ; python_full_version >= '3.12' or sys_platform == 'win32' \\\n    --hash=sha256:{digest}\n"
    )
    folder = tmp_path / "checkout"
    for path, content in {**SOURCES, bundles.LOCK: lock}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    git(folder.parent, "init", "-q", "-b", "main", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "One", GIT_COMMITTER_DATE="2026-01-02T03:04:05+02:00")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def failure(source: Path, cache: Path, **arguments: str) -> MobiusError:
    with pytest.raises(MobiusError) as caught:
        bundles.build(source, source.parent / "refused", cache=cache, **arguments)  # type: ignore[arg-type]
    assert caught.value.reason.endswith(".") and "\n" not in caught.value.reason
    assert not (source.parent / "refused").exists()
    return caught.value


@pytest.mark.slow
def test_a_bundle_holds_the_services_storeys_and_its_dependencies_and_nothing_else(source: Path, cache: Path) -> None:
    built = bundles.build(source, source.parent / "dist", cache=cache)
    assert built.path.name == "mobius-dhash-0.7.1.tar.gz"
    assert manifest.read_sidecar(built.path) == built.sha256
    assert sorted(built.manifest.files) == [
        "mobius/__init__.py",
        "mobius/dhash/__init__.py",
        "mobius/errors.py",
        "mobius/py.typed",
        "mobius/service/__init__.py",
        "mobius/service/__main__.py",
        "wheelhouse_example-1.0.dist-info/METADATA",
        "wheelhouse_example-1.0.dist-info/WHEEL",
        "wheelhouse_example-1.0.dist-info/entry_points.txt",
        "wheelhouse_example/__init__.py",
        "wheelhouse_example/part.so",
    ]
    assert built.manifest.files["wheelhouse_example/part.so"].mode == "0755"
    assert built.manifest.commit == git(source, "rev-parse", "HEAD")
    assert built.manifest.built_at == "2026-01-02T01:04:05Z"
    assert (built.manifest.python, built.manifest.platform) == ("3.11", "linux_x86_64")


@pytest.mark.slow
def test_two_builds_of_one_commit_are_the_same_file(
    source: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bundles.build(source, tmp_path / "one", version="1.0.0", cache=cache)
    other = tmp_path / "somewhere" / "else"
    shutil.copytree(source, other)
    git(tmp_path, "clone", "-q", str(source), str(tmp_path / "cloned"))
    time.sleep(1.1)  # so that a time of now, which has whole seconds, would show
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    before = os.umask(0o077)
    try:
        second = bundles.build(other, tmp_path / "two", version="1.0.0", cache=tmp_path / "other cache")
        third = bundles.build(tmp_path / "cloned", tmp_path / "three", version="1.0.0", cache=tmp_path / "third")
    finally:
        os.umask(before)
        monkeypatch.undo()
        time.tzset()
    assert first.path.read_bytes() == second.path.read_bytes() == third.path.read_bytes()


@pytest.mark.slow
def test_no_member_shows_when_where_or_by_whom_the_bundle_was_built(source: Path, cache: Path) -> None:
    built = bundles.build(source, source.parent / "dist", cache=cache)
    with tarfile.open(built.path) as tar:
        infos = tar.getmembers()
        contents = b"".join(tar.extractfile(info).read() for info in infos)  # type: ignore[union-attr]
    assert [info.name for info in infos][:2] == ["manifest.json", "tree/mobius/__init__.py"]
    assert {(info.uid, info.gid, info.uname, info.gname, info.mtime) for info in infos} == {(0, 0, "", "", 1767315845)}
    assert built.path.read_bytes()[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    assert str(source.parent).encode() not in contents
    assert b".pyc" not in contents


@pytest.mark.slow
def test_what_is_not_committed_is_not_in_the_bundle_and_is_reported(source: Path, cache: Path) -> None:
    messages: list[str] = []
    clean = bundles.build(source, source.parent / "one", cache=cache, tell=messages.append)
    assert not [line for line in messages if "not committed" in line]
    (source / "mobius/errors.py").write_text("changed = True\n")
    (source / "mobius/dhash/new.py").write_text("new = True\n")
    dirty = bundles.build(source, source.parent / "two", cache=cache, tell=messages.append)
    assert dirty.sha256 == clean.sha256
    assert [line for line in messages if "not committed" in line]
    git(source, "add", ".")
    git(source, "commit", "-q", "-m", "Two")
    assert "mobius/dhash/new.py" in bundles.build(source, source.parent / "three", cache=cache).manifest.files


@pytest.mark.slow
def test_another_version_is_another_release(source: Path, cache: Path) -> None:
    one = bundles.build(source, source.parent / "dist", version="1.0.0", cache=cache)
    two = bundles.build(source, source.parent / "dist", version="1.0.1", cache=cache)
    assert (one.manifest.tree_sha256, one.manifest.version) == (two.manifest.tree_sha256, "1.0.0")
    assert one.release_id.startswith("1.0.0-") and two.release_id.startswith("1.0.1-")
    assert one.sha256 != two.sha256


@pytest.mark.slow
def test_the_last_bundle_built_is_found_under_the_services_name(source: Path, cache: Path) -> None:
    out = source.parent / "dist"
    for version in ("1.0.0", "1.0.1"):
        built = bundles.build(source, out, version=version, cache=cache)
        result = manifest.read_bundle(out / "mobius-dhash.tar.gz", require_sidecar=True)
        assert result.release_id == built.release_id


@pytest.mark.parametrize("version", ["1.0-rc1", "1..0", "../x", "1.0+local", "V1", "1.0\n", "."])
def test_a_version_that_no_release_id_can_have_is_refused(source: Path, cache: Path, version: str) -> None:
    assert failure(source, cache, version=version).outcome == "invalid_input"


@pytest.mark.parametrize(
    "arguments", [{"python": "3.10"}, {"python": "3"}, {"python": "3.x"}, {"platform": "win_amd64"}, {"platform": ""}]
)
def test_an_unknown_target_is_refused(source: Path, cache: Path, arguments: dict[str, str]) -> None:
    assert failure(source, cache, **arguments).outcome == "invalid_input"


def test_a_source_that_is_no_checkout_or_has_no_service_is_refused(source: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert failure(tmp_path / "plain", cache).outcome == "invalid_input"
    git(source, "rm", "-q", "mobius/service/__main__.py")
    git(source, "commit", "-q", "-m", "Two")
    assert "has no mobius/service/__main__.py" in failure(source, cache).reason


@pytest.mark.slow
def test_a_wheel_that_is_not_the_locked_one_is_refused(source: Path, cache: Path, tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", body="VALUE = 'another'\n")
    refused = failure(source, cache)
    assert refused.outcome == "environment_failed"
    assert list(cache.iterdir()) == []


@pytest.mark.slow
def test_a_lock_without_a_digest_is_refused(source: Path, cache: Path) -> None:
    (source / bundles.LOCK).write_text("wheelhouse-example==1.0\n")
    git(source, "commit", "-q", "-a", "-m", "Two")
    assert failure(source, cache).outcome == "environment_failed"


@pytest.mark.slow
def test_a_commit_with_the_lock_in_its_earlier_folder_is_built(source: Path, cache: Path, tmp_path: Path) -> None:
    earlier = source / "mobius/control/locks/service.txt"
    earlier.parent.mkdir(parents=True)
    (source / bundles.LOCK).rename(earlier)
    git(source, "add", "--all")
    git(source, "commit", "-q", "-m", "As it was")
    assert bundles.build(source, tmp_path / "out", cache=cache).path.exists()


def test_a_commit_without_a_lock_is_refused(source: Path, cache: Path) -> None:
    git(source, "rm", "-q", bundles.LOCK)
    git(source, "commit", "-q", "-m", "None")
    refused = failure(source, cache)
    assert (refused.outcome, bundles.LOCK in refused.reason) == ("invalid_input", True)


@pytest.mark.slow
def test_dependencies_are_installed_once_for_each_target(source: Path, cache: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    one = bundles.build(source, tmp_path / "one", cache=cache, tell=messages.append)
    shutil.rmtree(tmp_path / "wheels")
    two = bundles.build(source, tmp_path / "two", cache=cache, tell=messages.append)
    assert one.sha256 == two.sha256
    assert len([line for line in messages if line.startswith("Installing the 1 dependencies")]) == 1


@pytest.mark.slow
def test_kept_dependencies_that_were_changed_are_installed_again(source: Path, cache: Path, tmp_path: Path) -> None:
    one = bundles.build(source, tmp_path / "one", cache=cache)
    (part,) = cache.glob("*/tree/wheelhouse_example/__init__.py")
    part.write_text("VALUE = 'not what was locked'\n")
    assert bundles.build(source, tmp_path / "two", cache=cache).sha256 == one.sha256
    part.with_name("added.py").write_text("")
    assert bundles.build(source, tmp_path / "two", cache=cache).sha256 == one.sha256


def test_markers_are_evaluated_for_the_hosts_and_not_for_the_python_that_builds() -> None:
    lock = "".join(
        f"{name}==1 ; {marker} \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{'1' * 64}\n    # via x\n"
        for name, marker in {
            "old": "python_full_version < '3.12'",
            "new": "python_full_version >= '3.12'",
            "arm": "platform_machine == 'aarch64'",
            "windows": "sys_platform == 'win32'",
        }.items()
    )
    names = {
        target: re.findall(r"(?m)^\w+", dependencies.locked_for(lock, *target))
        for target in [("3.11", "linux_x86_64"), ("3.13", "linux_aarch64")]
    }
    assert names == {("3.11", "linux_x86_64"): ["old"], ("3.13", "linux_aarch64"): ["new", "arm"]}
    assert dependencies.locked_for(lock, "3.11", "linux_x86_64").count("--hash=sha256:") == 2


def test_a_link_out_of_the_tree_and_a_file_twice_are_refused(tmp_path: Path) -> None:
    fields = {
        "service": "any-service",
        "version": "1",
        "commit": "0" * 40,
        "built_at": "2026-01-01T00:00:00Z",
        "python": "3.11",
        "platform": "linux_x86_64",
    }
    linked, one = tmp_path / "linked", tmp_path / "one"
    for folder in (linked, one):
        folder.mkdir()
        (folder / "file").write_text("x")
    assert bundles.pack([one], tmp_path / "out", **fields).manifest.service == "any-service"
    (linked / "link").symlink_to("../one/file")
    for roots in ([linked], [one, one]):
        with pytest.raises(MobiusError) as caught:
            bundles.pack(roots, tmp_path / "refused", **fields)
        assert caught.value.outcome == "invalid_input"
    assert not (tmp_path / "refused").exists()


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_builds_and_verifies(source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundles, "CHECKOUT", tmp_path)  # no checkout, so the dependencies are kept in the user's cache
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (source / "uncommitted").write_text("")
    runner = CliRunner()
    built = runner.invoke(
        command,
        ["build", "--source", str(source), "--out", str(tmp_path / "d"), "--version", "2.0", "--format", "json"],
    )
    assert built.exit_code == 0, built.output
    message = json.loads(built.stdout)
    assert message["release"] == f"2.0-{message['bundle_sha256'][:12]}"
    assert "not committed" in built.stderr
    verified = runner.invoke(command, ["verify", message["bundle"]])
    assert verified.exit_code == 0
    assert verified.stdout.split()[0] == message["release"]
    assert json.loads(runner.invoke(command, ["verify", message["bundle"], "--format", "json"]).stdout) == message


@pytest.mark.slow
def test_the_command_refuses_a_damaged_bundle(source: Path, cache: Path, tmp_path: Path) -> None:
    path = bundles.build(source, tmp_path / "dist", cache=cache).path
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        stream.write(b"\x00\xff\x00")
    message = CliRunner().invoke(command, ["verify", str(path)])
    assert isinstance(message.exception, MobiusError)
    assert (message.exception.outcome, message.exception.code) == ("bundle_invalid", 1)
    missing = CliRunner().invoke(command, ["verify", str(tmp_path / "none.tar.gz")])
    assert isinstance(missing.exception, MobiusError)
    assert (missing.exception.outcome, missing.exception.code) == ("invalid_input", 1)


@pytest.fixture
def signing(source: Path, cache: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A bundle, a key, and a list of signers that has the key."""
    path = bundles.build(source, tmp_path / "dist", cache=cache).path
    key, signers = tmp_path / "key", tmp_path / "allowed_signers"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    signers.write_text(f'ci@example.org namespaces="mobius-bundle" {key.with_suffix(".pub").read_text()}')
    return path, key, signers


@pytest.mark.slow
def test_the_command_signs_and_ssh_keygen_itself_accepts_the_signature(signing: tuple[Path, Path, Path]) -> None:
    path, key, signers = signing
    unsigned = CliRunner().invoke(command, ["verify", str(path), "--signers", str(signers)])
    assert isinstance(unsigned.exception, MobiusError)
    assert unsigned.exception.outcome == "bundle_unsigned"
    signed = CliRunner().invoke(command, ["sign", str(path), "--key", str(key)])
    assert signed.exit_code == 0, signed.output
    assert f"{path}.sig" in signed.stdout
    message = CliRunner().invoke(command, ["verify", str(path), "--signers", str(signers), "--format", "json"])
    assert json.loads(message.stdout)["signed_by"] == "ci@example.org"
    by_hand = (
        f"cut -c1-64 {path}.sha256 | ssh-keygen -Y verify -f {signers} -I ci@example.org -n mobius-bundle -s {path}.sig"
    )
    assert subprocess.run(["bash", "-c", by_hand], capture_output=True).returncode == 0
    other = key.with_name("other")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    assert CliRunner().invoke(command, ["sign", str(path), "--key", str(other)]).exit_code == 0
    outsider = CliRunner().invoke(command, ["verify", str(path), "--signers", str(signers)])
    assert isinstance(outsider.exception, MobiusError)
    assert outsider.exception.outcome == "bundle_unsigned"


@pytest.mark.slow
def test_nothing_is_signed_that_is_damaged_or_with_a_key_that_is_none(signing: tuple[Path, Path, Path]) -> None:
    path, key, signers = signing
    for wrong in (signers, path.with_name("none")):
        message = CliRunner().invoke(command, ["sign", str(path), "--key", str(wrong)])
        assert isinstance(message.exception, MobiusError)
        assert message.exception.outcome == "invalid_input"
    path.write_bytes(path.read_bytes()[:-1])
    message = CliRunner().invoke(command, ["sign", str(path), "--key", str(key)])
    assert isinstance(message.exception, MobiusError)
    assert message.exception.outcome == "bundle_invalid"
    assert not manifest.signature_path(path).exists()


@pytest.mark.slow
def test_a_digest_from_elsewhere_stands_in_for_the_sha256_file(source: Path, cache: Path, tmp_path: Path) -> None:
    built = bundles.build(source, tmp_path / "dist", cache=cache)
    manifest.sidecar(built.path).unlink()
    assert bundles.verify(built.path, built.sha256).release_id == built.release_id
    for sha256 in (None, "0" * 64):
        with pytest.raises(MobiusError) as caught:
            bundles.verify(built.path, sha256)
        assert caught.value.outcome == "bundle_invalid"


# --- The locks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.txt")), ids=lambda path: path.name)
def test_a_lock_has_digests_and_no_path_of_the_machine_that_made_it(lock: Path) -> None:
    text = lock.read_text()
    assert not re.search(r"://|--index|--find-links|-r /|[\s=]/|\.\.|@ ", text)
    pinned = re.findall(r"(?m)^(\S+)==", text)
    blocks = re.split(r"(?m)^(?=\S+==)", text)[1:]
    assert len(pinned) == len(blocks) > 5
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_service_lock_pins_every_dependency_of_the_service_once_for_each_python(python: str) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    expected = [*project["dependencies"], *project["optional-dependencies"]["service"]]
    lines = dependencies.locked_for((LOCKS / "service.txt").read_text(), python, "linux_x86_64").splitlines()
    pinned = [Requirement(line.split(" --hash")[0]) for line in lines]
    versions = {requirement.name.lower(): str(requirement.specifier) for requirement in pinned}
    assert len(versions) == len(pinned)
    for text in expected:
        requirement = Requirement(text)
        assert requirement.specifier.contains(versions[requirement.name.lower()].removeprefix("==")), text


def test_the_locks_cover_everything_that_a_checkout_and_its_benchmarks_need() -> None:
    read = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    project = read["project"]
    expected = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    groups = read["dependency-groups"]
    assert groups["development"].pop(0) == {"include-group": "portable"}
    development = [*groups["portable"], *groups["development"]]
    for lock, wants in (
        ("portable.txt", [*project["dependencies"], *project["optional-dependencies"]["heic"], *groups["portable"]]),
        ("development.txt", [*expected, *development]),
        ("bench.txt", [*expected, *development, *groups["bench"]]),
    ):
        pinned = {name.lower() for name in re.findall(r"(?m)^(\S+)==", (LOCKS / lock).read_text())}
        assert {Requirement(text).name.lower() for text in wants} <= pinned, lock
    both = re.compile(r"(?m)^(\S+==\S+)")
    for lock in ("service.txt", "portable.txt"):
        assert set(both.findall((LOCKS / lock).read_text())) <= set(
            both.findall((LOCKS / "development.txt").read_text())
        ), lock


@pytest.mark.slow
def test_a_bundle_has_every_module_that_the_hosts_own_command_imports() -> None:
    script = (
        "import sys, mobius.cli; code = mobius.cli.run(['dhash', 'scan', '--help']); assert code == 0, code; "
        "print(*(getattr(m, '__file__', None) for n, m in sys.modules.items() if n.split('.')[0] == 'mobius'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    imported = [Path(name).relative_to(CHECKOUT).as_posix() for name in done.stdout.splitlines()[-1].split()]
    assert "mobius/cli/dhash.py" in imported
    assert [name for name in imported if not bundles._SOURCES.fullmatch(name)] == []
