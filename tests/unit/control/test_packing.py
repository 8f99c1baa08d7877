"""Packing any folder: what goes in, what stays out, what is refused, and that the same folder is the same file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobius import manifest
from mobius.cli.bundle import bundle as command
from mobius.control.bundle import builder, folder, writer
from mobius.control.bundle.packing import Packed, pack_folder
from mobius.control.service_file.example import init_project
from mobius.errors import MobiusError
from tests.killing import die_after_writing, kill_at_times, killed
from tests.unit.control.test_bundle import make_wheel

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with an executable, links, a hard link, a file with a long name, and what no bundle needs."""
    root = tmp_path / "shop"
    for path, content in {
        "bin/serve": "#!/bin/sh\necho served\n",
        "lib/part.txt": "part\n",
        "page/index.html": "<p>shop</p>\n",
        f"{'n' * 150}/{'o' * 150}": "long\n",
        "page/__pycache__/x.pyc": "byte code",
        ".git/HEAD": "ref: refs/heads/main\n",
        "sub/.git": "gitdir: elsewhere\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    (root / "bin/serve").chmod(0o755)
    (root / "bin/run").symlink_to("serve")
    (root / "current").symlink_to("lib")
    os.link(root / "lib/part.txt", root / "lib/same.txt")
    (root / "empty").mkdir()
    return root


def pack(root: Path, **changes: Any) -> Packed:
    return pack_folder(
        root, changes.pop("out", root.parent / "dist"), **{"service": "shop", "version": "1.4.0", **changes}
    )


def refusal(root: Path, **changes: Any) -> MobiusError:
    """The one sentence with which it is refused; nothing is left then."""
    out = root.parent / "refused"
    with pytest.raises(MobiusError) as caught:
        pack(root, **{"out": out, **changes})
    assert caught.value.outcome == "invalid_input"
    assert caught.value.reason.endswith(".") and "\n" not in caught.value.reason
    assert not out.exists() or list(out.iterdir()) == []
    return caught.value


def test_a_folder_is_packed_with_its_links_and_executable_bits(shop: Path) -> None:
    packed = pack(shop)
    made = packed.bundle
    assert made.path == shop.parent / "dist/shop-1.4.0.tar.gz"
    assert manifest.read_sidecar(made.path) == made.sha256
    described = manifest.read_bundle(made.path, require_sidecar=True).manifest
    assert {path: entry.mode for path, entry in described.files.items()} == {
        "bin/serve": "0755",
        "lib/part.txt": "0644",
        "lib/same.txt": "0644",
        "page/index.html": "0644",
        f"{'n' * 150}/{'o' * 150}": "0644",
    }
    assert described.links == {"bin/run": "serve", "current": "lib"}
    assert (described.service, described.version) == ("shop", "1.4.0")
    assert (described.commit, described.built_at, described.python, described.platform) == (None, None, None, None)
    assert packed.excluded == {"__pycache__": 1, ".git": 2, "empty folders": 1}


def test_the_same_folder_is_the_same_file_wherever_and_whenever_it_is_packed(shop: Path, tmp_path: Path) -> None:
    first = pack(shop, out=tmp_path / "one").bundle
    other = tmp_path / "somewhere/else"
    other.parent.mkdir()
    subprocess.run(["cp", "-r", "--no-dereference", str(shop), str(other)], check=True)  # other times, no hard links
    before = os.umask(0o077)
    try:
        for path in other.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o700 if path.is_dir() or os.access(shop / path.relative_to(other), os.X_OK) else 0o600)
                os.utime(path, (1, 1))
        second = pack(other, out=tmp_path / "two").bundle
        (tmp_path / "link").symlink_to(other)
        third = pack(tmp_path / "link", out=tmp_path / "three").bundle
    finally:
        os.umask(before)
    assert first.path.read_bytes() == second.path.read_bytes() == third.path.read_bytes()
    assert second.path.stat().st_mode & 0o777 == 0o644
    assert first.path.read_bytes()[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


def test_a_folder_that_the_bundle_is_put_into_is_packed_without_its_bundles(shop: Path) -> None:
    first = pack(shop, out=shop / "dist")
    second = pack(shop, out=shop / "dist")
    assert first.bundle.sha256 == second.bundle.sha256
    assert (first.excluded.get("earlier bundles"), second.excluded["earlier bundles"]) == (None, 3)
    (shop / "dist/app.js").write_text("built\n")
    third = pack(shop, out=shop / "dist", version="1.4.1")
    assert "dist/app.js" in third.bundle.manifest.files
    assert pack(shop, out=shop).bundle.manifest.files.keys() == third.bundle.manifest.files.keys() | {
        "dist/shop-1.4.0.tar.gz",
        "dist/shop-1.4.0.tar.gz.sha256",
        "dist/shop-1.4.1.tar.gz",
        "dist/shop-1.4.1.tar.gz.sha256",
    }


# --- What stays out ---------------------------------------------------------------------------------------------------

IGNORE_FILES = {
    "*.log\n!keep.log\n": {"a.txt", "keep.log", "src/keep.log", "src/main.c", "src/deep/x.o", "build/y"},
    "/build\n*.o\n": {"a.txt", "a.log", "keep.log", "src/a.log", "src/keep.log", "src/main.c"},
    "src/\n!src/main.c\n": {"a.txt", "a.log", "keep.log", "build/y"},
    "*\n!*/\n!*.c\n": {"src/main.c"},
    "/*\n!/src\n/src/*\n!/src/deep/\n": {"src/deep/x.o"},
    "# a comment\n\n**/deep\nsrc/*.log\n": {"a.txt", "a.log", "keep.log", "src/main.c", "build/y"},
}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    root = tmp_path / "sources"
    for path in ("a.txt", "a.log", "keep.log", "src/a.log", "src/keep.log", "src/main.c", "src/deep/x.o", "build/y"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
    return root


@pytest.mark.parametrize("text", IGNORE_FILES, ids=repr)
def test_the_ignore_file_means_what_it_means_to_git(sources: Path, text: str) -> None:
    (sources / ".mobiusignore").write_text(text)
    packed = pack(sources)
    assert set(packed.bundle.manifest.files) == IGNORE_FILES[text]
    assert set(packed.excluded) == {".mobiusignore"}
    subprocess.run(["git", "init", "-q", str(sources)], check=True)
    (sources / ".gitignore").write_text(text)
    listing = ["git", "-C", str(sources), "ls-files", "--others", "--exclude-standard"]
    listed = set(subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split())
    assert listed - {".gitignore", ".mobiusignore"} == IGNORE_FILES[text]


PATTERNS = (
    *(
        "*.log",
        "!keep.log",
        "build/",
        "/build",
        "build",
        "*",
        "!*/",
        "!*.c",
        "src/",
        "src/*",
        "!src/",
        "!/src",
        "**",
        "/*",
    ),
    *(
        "!src/deep/",
        "**/deep",
        "deep/**",
        "src/**",
        "src/**/x.o",
        "*/x.o",
        "!x.o",
        "?.txt",
        "[a-b].txt",
        "!build/y",
        "y ",
    ),
    *("src/main.c", "!src/main.c", "# a.txt", "", "!/*/", "**/src/keep.log", "!**/*.o", "src/**/", "/src/**"),
    *("src/*/", "!src/*/", "**/", "!**/", "deep/", "!deep/", "src/deep/**", "!src/deep/x.o", "/s*", "!/s*/", "keep.*"),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=6))
def test_any_lines_mean_what_they_mean_to_git(sources: Path, lines: list[str]) -> None:
    if not (sources / ".git").exists():
        subprocess.run(["git", "init", "-q", str(sources)], check=True)
    (sources / ".gitignore").write_text("".join(f"{line}\n" for line in lines))
    listing = ["git", "-C", str(sources), "ls-files", "--others", "--exclude-standard"]
    listed = set(subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split())
    assert folder.read_folder(sources, folder.make_exclusion(lines)).files.keys() - {".gitignore"} == listed - {
        ".gitignore"
    }


def test_git_and_byte_code_stay_out_even_when_the_ignore_file_has_them_in(shop: Path) -> None:
    (shop / ".mobiusignore").write_text("*\n!*/\n!*.html\n!.git/\n!__pycache__/\n!x.pyc\n!HEAD\n")
    packed = pack(shop)
    assert set(packed.bundle.manifest.files) == {"page/index.html"}
    assert (packed.excluded["__pycache__"], packed.excluded[".git"]) == (1, 2)


def test_what_is_ignored_may_be_anything(shop: Path) -> None:
    before = pack(shop).bundle
    (shop / "absolute").symlink_to("/etc/passwd")
    os.mkfifo(shop / "pipe")
    (shop / "with\nnewline").write_text("x")
    (shop / ".mobiusignore").write_text("absolute\npipe\nwith*\n")
    assert pack(shop).bundle.sha256 == before.sha256


def test_an_ignore_file_that_is_no_text_or_has_no_pattern_is_refused(shop: Path) -> None:
    (shop / ".mobiusignore").write_bytes(b"\xff\xfe\n")
    assert "is not UTF-8" in refusal(shop).reason
    (shop / ".mobiusignore").write_text("!\n")
    assert "not a pattern" in refusal(shop).reason


# --- What is refused --------------------------------------------------------------------------------------------------


def _socket(path: Path) -> None:
    previous = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have 107 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(previous)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (
            lambda root: (root / "link").symlink_to("/etc/passwd"),
            "The link link leads to '/etc/passwd', which is an abs",
        ),
        (lambda root: (root / "link").symlink_to(root / "lib"), "which is an absolute path"),
        (lambda root: (root / "link").symlink_to("../secret"), "'../secret', which is outside of the tree"),
        (lambda root: (root / "lib/link").symlink_to("../../shop/lib"), "which is outside of the tree"),
        (lambda root: (root / "link").symlink_to("current/../../secret"), "which is outside of the tree"),
        (lambda root: (root / "link").symlink_to("missing"), "leads to 'missing', which the tree does not hold"),
        (lambda root: (root / "link").symlink_to(".git"), "leads to '.git', which the tree does not hold"),
        (lambda root: (root / "link").symlink_to("empty"), "leads to 'empty', which the tree does not hold"),
        (lambda root: (root / "link").symlink_to("link"), "leads in a circle"),
        (lambda root: os.mkfifo(root / "lib/pipe"), "lib/pipe is a FIFO"),
        (lambda root: _socket(root / "s"), "is a socket"),
        (lambda root: (root / "bin/serve").chmod(0o4755), "bin/serve is setuid or setgid"),
        (lambda root: (root / "bin/serve").chmod(0o2755), "bin/serve is setuid or setgid"),
        (lambda root: (root / "a\nb").write_text("x"), "has forbidden characters"),
        (lambda root: (root / "a\\b").write_text("x"), "has forbidden characters"),
        (lambda root: Path(os.fsdecode(os.fsencode(root) + b"/\xff")).write_text("x"), "has forbidden characters"),
        (lambda root: (root / "lib/part.txt").unlink() or (root / "lib/part.txt").mkdir() or None, ""),
    ],
)
def test_what_no_bundle_carries_is_refused_in_one_sentence(
    shop: Path, make: Callable[[Path], object], problem: str
) -> None:
    make(shop)
    if problem:
        assert problem in refusal(shop).reason
    else:
        assert "lib/part.txt" not in pack(shop).bundle.manifest.files  # an empty folder is left out


@pytest.mark.root("makes a device")
def test_a_device_is_refused(shop: Path) -> None:
    os.mknod(shop / "null", 0o20666, os.makedev(1, 3))
    assert "null is a device" in refusal(shop).reason


def test_a_folder_that_is_too_deep_is_refused(shop: Path) -> None:
    (shop / "/".join(["d"] * 130)).mkdir(parents=True)
    assert "is deeper than 128 folders" in refusal(shop).reason


def test_what_is_no_folder_is_refused(shop: Path) -> None:
    assert "part.txt is not a folder" in refusal(shop / "lib/part.txt").reason
    assert "nothing is not a folder" in refusal(shop / "nothing").reason


def test_a_folder_without_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nothing/here").mkdir(parents=True)
    assert "names no files" in refusal(tmp_path / "nothing").reason


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"service": "Shop"}, "The service 'Shop' is not a name"),
        ({"service": "../shop"}, "is not a name"),
        ({"version": "1.0-rc1"}, "The version '1.0-rc1' is not made of"),
        ({"version": "../1"}, "is not made of"),
        ({"python": "2.7"}, "is not a version from 3.11 on"),
        ({"python": "3.13", "platform": "win32"}, "The platform 'win32' is not known"),
        ({"platform": "linux_x86_64"}, "--platform needs --python"),
        ({"requirements": Path("requirements.txt")}, "--requirements needs --python"),
        ({"requirements": Path("/nonexistent"), "python": "3.13"}, "/nonexistent cannot be read"),
    ],
)
def test_an_argument_that_no_bundle_can_have_is_refused(shop: Path, changes: dict[str, Any], problem: str) -> None:
    assert problem in refusal(shop, **changes).reason


def test_a_file_that_cannot_be_read_is_refused(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's answer is simulated, since root reads everything."""
    original = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("part.txt"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    assert "part.txt cannot be read: Permission denied" in refusal(shop).reason


# --- A folder that changes --------------------------------------------------------------------------------------------


def _rewrite(shop: Path) -> None:
    path = shop / "lib/part.txt"
    before = path.stat()
    path.write_text("trap\n")  # as long as it was
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda shop: (shop / "lib/part.txt").write_text("longer than before\n"), id="longer"),
        pytest.param(lambda shop: (shop / "lib/part.txt").write_text("p"), id="shorter"),
        pytest.param(_rewrite, id="same size and time"),
        pytest.param(lambda shop: (shop / "lib/part.txt").unlink(), id="removed"),
        pytest.param(lambda shop: (shop / "lib/new.txt").write_text("new"), id="added"),
        pytest.param(lambda shop: (shop / "lib/part.txt").chmod(0o755), id="mode"),
        pytest.param(lambda shop: ((shop / "current").unlink(), (shop / "current").symlink_to("bin")), id="link"),
        pytest.param(lambda shop: (shop / "another").symlink_to("lib"), id="link added"),
        pytest.param(
            lambda shop: ((shop / "lib/part.txt").unlink(), (shop / "lib/part.txt").symlink_to("same.txt")),
            id="link in its place",
        ),
    ],
)
@pytest.mark.parametrize("moment", ["make_manifest", "_write_archive"])
def test_a_folder_that_changes_while_it_is_packed_is_refused(
    shop: Path, change: Callable[[Path], object], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two readings of the content, and after the second."""
    module: Any = manifest if moment == "make_manifest" else writer
    original = getattr(module, moment)

    def step(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        change(shop)
        return result

    monkeypatch.setattr(module, moment, step)
    refused = refusal(shop)
    assert "changed while it was packed" in refused.reason
    assert ".mobiusignore" in refused.do_next


def test_a_file_that_grows_while_it_is_read_is_refused(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shop / "lib/part.txt"
    source = folder.read_folder(shop, folder.make_exclusion()).files["lib/part.txt"]
    chunks = source.read()
    next(chunks)
    with path.open("a") as stream:
        stream.write("more")
    with pytest.raises(MobiusError, match="changed while it was packed"):
        list(chunks)


# --- Durable ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_packer_killed_at_any_time_leaves_nothing_visible_but_whole_bundles(shop: Path, tmp_path: Path) -> None:
    (shop / "random").write_bytes(os.urandom(3_000_000))
    out = tmp_path / "out"
    program = (
        "from pathlib import Path; from mobius.control.bundle.packing import pack_folder; print('go', flush=True)\n"
        f"pack_folder(Path({str(shop)!r}), Path({str(out)!r}), service='shop', version='1')"
    )
    for _ in kill_at_times(program, 0.02):
        visible = {path.name for path in out.glob("shop*")} if out.exists() else set()
        if "shop-1.tar.gz" in visible:
            manifest.read_bundle(out / "shop-1.tar.gz", require_sidecar=True)
        else:
            assert visible <= {"shop-1.tar.gz.sha256"}
    made = pack(shop, out=out, version="1").bundle
    assert sorted(path.name for path in out.iterdir()) == ["shop-1.tar.gz", "shop-1.tar.gz.sha256", "shop.tar.gz"]
    assert manifest.read_bundle(out / "shop.tar.gz", require_sidecar=True).sha256 == made.sha256


def test_what_a_killed_packer_left_is_removed_but_not_what_a_running_one_writes(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("dead", "living"):
        (out / f".mobius-tmp-bundle-{name}").mkdir(parents=True)
        (out / f".mobius-tmp-bundle-{name}/bundle").write_bytes(b"half")
    living = os.open(out / ".mobius-tmp-bundle-living", os.O_RDONLY)
    try:
        fcntl.flock(living, fcntl.LOCK_EX)
        pack(shop, out=out)
    finally:
        os.close(living)
    assert sorted(path.name for path in out.glob(".*")) == [".mobius-tmp-bundle-living"]


@pytest.mark.slow
def test_a_packer_killed_between_any_two_calls_leaves_nothing_that_the_next_one_does_not_remove(
    shop: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for number in range(1, 200):

        def work(number: int = number) -> None:
            die_after_writing(number)
            pack(shop, out=out, version="1")

        was_killed = killed(work)
        if (out / "shop-1.tar.gz").exists():
            manifest.read_bundle(out / "shop-1.tar.gz", require_sidecar=True)
        assert {path.name for path in out.glob("shop*")} <= {"shop-1.tar.gz", "shop-1.tar.gz.sha256", "shop.tar.gz"}
        pack(shop, out=out, version="1")
        assert list(out.glob(".*")) == []
        if not was_killed:
            return
    raise AssertionError("it never came to its end")


def test_a_refused_bundle_leaves_the_earlier_one_as_it_was(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pack(shop).bundle
    before = {path.name: path.read_bytes() for path in made.path.parent.iterdir()}
    original = writer._write_archive

    def write_and_change(*args: Any) -> str:
        digest = original(*args)
        (shop / "lib/part.txt").write_text("another")
        return digest

    monkeypatch.setattr(writer, "_write_archive", write_and_change)
    with pytest.raises(MobiusError):
        pack(shop)
    assert {path.name: path.read_bytes() for path in made.path.parent.iterdir()} == before


# --- Python dependencies ----------------------------------------------------------------------------------------------


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of one dependency, whose wheel pip finds in a folder and nowhere else."""
    digest = make_wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    path = tmp_path / "requirements.txt"
    path.write_text(f"# locked\nwheelhouse-example==1.0 \\\n    --hash=sha256:{digest}  # one\n    # via shop\n")
    return path


@pytest.mark.slow
def test_locked_requirements_are_installed_into_the_bundle_which_needs_that_python(
    shop: Path, requirements: Path, tmp_path: Path
) -> None:
    (shop / "part").symlink_to("wheelhouse_example/part.so")
    asked = {"requirements": requirements, "python": "3.13", "cache": tmp_path / "cache"}
    made = pack(shop, **asked).bundle.manifest
    assert (made.python, made.platform, made.commit, made.schema) == ("3.13", "linux_x86_64", None, 2)
    assert {"bin/serve", "wheelhouse_example/__init__.py", "wheelhouse_example/part.so"} <= made.files.keys()
    assert pack(shop, **asked, platform="linux_aarch64").bundle.manifest.platform == "linux_aarch64"


@pytest.mark.slow
def test_a_folder_that_has_a_dependency_already_is_refused(shop: Path, requirements: Path, tmp_path: Path) -> None:
    (shop / "wheelhouse_example").mkdir()
    (shop / "wheelhouse_example/__init__.py").write_text("")
    refused = refusal(shop, requirements=requirements, python="3.13", cache=tmp_path / "cache")
    assert "would hold wheelhouse_example/__init__.py twice" in refused.reason


def test_a_python_may_be_required_without_requirements(shop: Path) -> None:
    made = pack(shop, python="3.13").bundle.manifest
    assert (made.python, made.platform) == ("3.13", "linux_x86_64")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("flask", "is not locked"),
        ("flask==3.0", "is not locked"),
        ("flask>=3.0 --hash=sha256:" + "0" * 64, "is not locked"),
        ("flask==3.* --hash=sha256:" + "0" * 64, "is not locked"),
        ("flask @ https://example.org/flask.whl --hash=sha256:" + "0" * 64, "is not locked"),
        ("--index-url https://example.org/simple", "is not a requirement"),
        ("-r other.txt", "is not a requirement"),
        ("-e .", "is not a requirement"),
    ],
)
def test_requirements_that_are_not_locked_are_refused(shop: Path, tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"# mine\n\n{line}\n")
    refused = refusal(shop, requirements=tmp_path / "requirements.txt", python="3.13")
    assert problem in refused.reason and "requirements.txt" in refused.reason
    assert "--generate-hashes" in refused.do_next


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_packs_verifies_and_signs(shop: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    options = [str(shop), "--service", "shop", "--version", "2.0", "--output", str(tmp_path / "out")]
    text = runner.invoke(command, ["pack", *options])
    assert text.exit_code == 0, text.output
    path = tmp_path / "out/shop-2.0.tar.gz"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert text.stdout.splitlines()[0] == f"2.0-{digest[:12]}  {path}"
    assert "for any host, 5 files, 2 links" in text.stdout
    assert text.stdout.splitlines()[2] == "left out: 2 .git, 1 __pycache__, 1 empty folders"
    message = json.loads(runner.invoke(command, ["pack", *options, "--format", "json"]).stdout)
    assert (message["bundle_sha256"], message["files"], message["links"]) == (digest, 5, 2)
    assert message["excluded"] == {"__pycache__": 1, ".git": 2, "empty folders": 1}
    verified = runner.invoke(command, ["verify", str(path), "--format", "json"])
    assert json.loads(verified.stdout) == {
        **{name: value for name, value in message.items() if name != "excluded"},
        "signed_by": None,
    }
    key, signers = tmp_path / "key", tmp_path / "allowed_signers"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    signers.write_text(f'ci@example.org namespaces="mobius-bundle" {key.with_suffix(".pub").read_text()}')
    assert runner.invoke(command, ["sign", str(path), "--key", str(key)]).exit_code == 0
    signed = runner.invoke(command, ["verify", str(path), "--signers", str(signers)])
    assert signed.stdout.splitlines()[-1] == "signed by ci@example.org"
    assert builder.verify(path).signature is not None


@pytest.mark.parametrize("options", [[], ["--service", "shop"]])
def test_the_command_needs_a_version(shop: Path, options: list[str]) -> None:
    assert CliRunner().invoke(command, ["pack", str(shop), *options]).exit_code == 2


def test_the_service_is_that_of_the_project_unless_it_is_named(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["pack", str(shop), "--version", "1.0.0"]
    refused = CliRunner().invoke(command, arguments).exception
    assert isinstance(refused, MobiusError)
    assert refused.reason == "There is no mobius.yml here that names the service; give --service NAME."
    (tmp_path / "mobius.yml").write_text("service: books\nexec: bin/serve\n")
    assert CliRunner().invoke(command, arguments).exit_code == 0
    assert (tmp_path / "dist/books-1.0.0.tar.gz").exists()


def test_nothing_of_a_new_project_but_the_service_is_packed(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    init_project(folder, "shop")
    (folder / "serve").touch()
    (folder / ".env").write_text("SECRET=1")
    packed = pack_folder(folder, folder / "dist", service="shop", version="1.0.0")
    assert set(packed.bundle.manifest.files) == {"serve"}


@pytest.mark.parametrize("place", ["here", "in the folder"])
def test_the_file_of_secrets_stays_out_whatever_the_ignore_file_has(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(shop if place == "here" else tmp_path)
    (shop / "vault").mkdir()
    (shop / "vault/shop.env").write_text("TOKEN=hunter2\n")
    (shop / ".mobiusignore").write_text("!vault/\n!vault/**\n")
    arguments = ["pack", str(shop), "--service", "shop", "--version", "1.0.0", "--output", str(tmp_path / "dist")]
    for named in ("vault/shop.env", "vault/link.env"):
        if named == "vault/link.env":
            (shop / named).symlink_to("shop.env")
        (shop / "mobius.yml").write_text(f"service: shop\nexec: bin/serve\nenvironment_file: {named}\n")
        done = CliRunner().invoke(command, arguments)
        assert (done.exit_code, "environment_file of mobius.yml" in done.output) == (0, True), done.output
        packed = manifest.read_bundle(tmp_path / "dist/shop-1.0.0.tar.gz")
        assert "vault/shop.env" not in packed.manifest.files
