"""`make setup` finds out cheaply whether all is there, and says what is missing where it may not install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tools import setup

LOCK_TEXT = """\
# made by a tool
Some.Package==1.2.3 \\
    --hash=sha256:00 \\
    --hash=sha256:11
other_package==4.5.post1 ; python_full_version < '3.12' \\
    --hash=sha256:22
third==6 \\
    --hash=sha256:33
    # via other_package
"""


def a_checkout(root: Path) -> Path:
    """A checkout with what setup reads, and a virtual environment that looks complete."""
    for name, text in ((str(setup.LOCK), LOCK_TEXT), ("pyproject.toml", "[project]\n")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    venv = root / ".venv"
    (venv / "bin").mkdir(parents=True)
    for name in ("python", "mobius", "ansible-playbook"):
        (venv / "bin" / name).touch()
    packages = venv / "lib" / "python3.11" / "site-packages"
    for name in ("some_package-1.2.3", "third-6", "mobius_dhash-0.1.0", "pip-24"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
        (packages / f"{name}.dist-info" / "RECORD").touch()
    (venv / "pyvenv.cfg").write_text(
        f"home = /usr/bin\nversion = {setup.python_version()}.7\ncommand = /usr/bin/python3 -m venv {venv}\n"
    )
    (venv / setup.STAMP).write_text(json.dumps(setup.wanted_stamp(root)))
    return root


def test_a_lock_names_each_package_that_every_machine_gets() -> None:
    assert setup.locked_distributions(LOCK_TEXT) == {("some-package", "1.2.3"), ("third", "6")}


def test_the_projects_lock_can_be_read() -> None:
    text = (setup.CHECKOUT / setup.LOCK).read_text()
    assert {"click", "pytest", "ansible-runner"} <= {name for name, _ in setup.locked_distributions(text)}


def test_a_complete_environment_is_recognised(tmp_path: Path) -> None:
    assert setup.environment_is_whole(a_checkout(tmp_path))


@pytest.mark.parametrize(
    "gone", ["bin/python", "bin/ansible-playbook", setup.STAMP, "lib/python3.11/site-packages/third-6.dist-info/RECORD"]
)
def test_an_environment_that_lost_something_is_not_whole(tmp_path: Path, gone: str) -> None:
    (a_checkout(tmp_path) / ".venv" / gone).unlink()
    assert not setup.environment_is_whole(tmp_path)


@pytest.mark.parametrize("changed", [str(setup.LOCK), "pyproject.toml"])
def test_a_changed_source_makes_the_environment_out_of_date(tmp_path: Path, changed: str) -> None:
    with (a_checkout(tmp_path) / changed).open("a") as stream:
        stream.write("# changed\n")
    assert not setup.environment_is_whole(tmp_path)


def test_a_package_of_another_version_is_noticed(tmp_path: Path) -> None:
    packages = a_checkout(tmp_path) / ".venv" / "lib" / "python3.11" / "site-packages"
    (packages / "third-6.dist-info").rename(packages / "third-7.dist-info")
    assert not setup.environment_is_whole(tmp_path)


def test_what_a_killed_pip_was_installing_is_forgotten_so_that_it_is_installed_again(tmp_path: Path) -> None:
    venv = a_checkout(tmp_path) / ".venv"
    packages = venv / "lib" / "python3.11" / "site-packages"
    (packages / "third-6.dist-info" / "RECORD").unlink()
    setup.forget_half_installed(venv)
    assert not (packages / "third-6.dist-info").exists()
    assert (packages / "some_package-1.2.3.dist-info").exists()


def test_an_environment_of_this_folder_and_python_is_repaired_and_one_that_was_moved_is_not(tmp_path: Path) -> None:
    venv = a_checkout(tmp_path / "here") / ".venv"
    assert setup.can_be_mended(venv)
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert not setup.can_be_mended(tmp_path / "there" / ".venv")


def test_an_environment_of_another_python_or_without_pip_is_made_again(tmp_path: Path) -> None:
    venv = a_checkout(tmp_path) / ".venv"
    text = (venv / "pyvenv.cfg").read_text()
    (venv / "pyvenv.cfg").write_text(text.replace(f"version = {setup.python_version()}.7", "version = 3.99.1"))
    assert not setup.can_be_mended(venv)
    (venv / "pyvenv.cfg").write_text(text)
    assert setup.can_be_mended(venv)
    shutil.rmtree(venv / "lib" / "python3.11" / "site-packages" / "pip-24.dist-info")
    assert not setup.can_be_mended(venv)


def test_cgroups_decide_which_runtime_is_needed(tmp_path: Path) -> None:
    def names() -> set[str]:
        return {package.name for package in setup.needed_packages(tmp_path)}

    assert "runc" in names()
    assert "crun" not in names()
    (tmp_path / "cgroup.controllers").touch()
    assert "crun" in names()
    assert "runc" not in names()


def test_on_a_machine_without_apt_the_packages_to_install_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mobius" / "control" / "setup.py"
    file.parent.mkdir(parents=True)
    shutil.copy(setup.__file__, file)
    environment = {"PATH": str(tmp_path / "no programs")}
    done = subprocess.run([sys.executable, file], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "no apt-get" in done.stderr
    assert "podman" in done.stderr
    assert "mmdebstrap" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_user_without_root_or_sudo_gets_the_exact_command(monkeypatch: pytest.MonkeyPatch) -> None:
    result = shutil.which("apt-get")
    assert result is not None, "this test describes Debian"
    with tempfile.TemporaryDirectory() as programs:
        os.chmod(programs, 0o755)
        os.symlink(result, os.path.join(programs, "apt-get"))
        monkeypatch.setenv("PATH", programs)
        was_root = os.geteuid() == 0
        try:
            if was_root:
                os.seteuid(65534)
            with pytest.raises(setup.SetupError, match="needs root or sudo: podman") as caught:
                setup.install_packages()
        finally:
            if was_root:
                os.seteuid(0)
    assert "`apt-get install --no-install-recommends podman" in str(caught.value)


def test_with_a_python_that_is_too_old_the_needed_version_is_named(tmp_path: Path) -> None:
    text = Path(setup.__file__).read_text().replace("OLDEST_PYTHON = (3, 11)", "OLDEST_PYTHON = (9, 1)")
    file = tmp_path / "mobius" / "control" / "setup.py"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"setup: Python 9.1 or newer is needed, and this is {setup.python_version()}.")


def test_an_argument_is_refused_and_nothing_is_set_up() -> None:
    done = subprocess.run([sys.executable, setup.__file__, "--help"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "takes no arguments" in done.stderr


def test_a_checkout_without_symbolic_links_gets_one_sentence(tmp_path: Path) -> None:
    checkout = a_checkout(tmp_path)
    shared = checkout / setup.SHARED_FILE
    shared.parent.mkdir(parents=True)
    shared.write_text("../../mobius/errors.py")
    with pytest.raises(setup.SetupError, match=r"no symbolic links.*core\.symlinks true"):
        setup.set_up(checkout)
    assert not (checkout / ".cache").exists()


def test_the_project_itself_has_its_symbolic_links() -> None:
    assert (setup.CHECKOUT / setup.SHARED_FILE).is_symlink()
    setup.require_symbolic_links(setup.CHECKOUT)
