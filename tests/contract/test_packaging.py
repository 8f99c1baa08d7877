# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the collection's tarball and the wheel hold, and that every file names the same version."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from setuptools import find_namespace_packages

import mobius

CHECKOUT = Path(__file__).resolve().parents[2]
GALAXY = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text(encoding="utf-8"))
BIN = Path(sys.executable).parent
# what `ansible-galaxy collection build` adds, and what it leaves out by itself
ADDED = {"MANIFEST.json", "FILES.json"}
# the targets of the links in plugins/module_utils
SHARED_NAMES = ("durable", "errors", "manifest", "metric_table", "signer", "tar_members", "tree_paths")
SHARED = {f"mobius/{name}.py" for name in SHARED_NAMES}
# data that the wheel and the collection both carry
DATA = {"mobius/observability/rules.yml"}
# one example of everything that git ignores, and what editors and hands leave behind
JUNK = (
    ".ansible/collections/ansible_collections/x",
    *(".venv/bin/python", ".ansible/collections/x", ".lab/id_ed25519", ".cache/bundle/x.whl", ".git/config"),
    *("dist/mobius-dhash.tar.gz", "demo/library/cat.jpg", "build/lib/mobius/errors.py", "test-results/beside-it.xml"),
    *("mobius_dhash.egg-info/PKG-INFO", "plugins/modules/__pycache__/mark.cpython-311.pyc", "mobius/errors.pyc"),
    *(".pytest_cache/README.md", ".mypy_cache/3.11/x.json", ".ruff_cache/x", ".hypothesis/examples/x"),
    *(
        "production.plan.json",
        "production.plan.json.alice.sig",
        "playbooks/.release.yml.swp",
        "roles/host/tasks/main.yml~",
    ),
    *(
        "plugins/modules/mark.py.orig",
        "plugins/modules/mark.py.rej",
        ".idea/x.xml",
        ".vscode/x.json",
        ".env",
        "docs/.DS_Store",
    ),
    *("venv/bin/python", "node_modules/x/index.js", "mobius-dhash-0.1.0.tar.gz", "nohup.log", "release.retry"),
    *("collections/ansible_collections/a/b/galaxy.yml", "mobius/_collection/x", "mobius/cli/__pycache__/x.pyc"),
)


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """`setup.py`, which knows what belongs to the collection."""
    spec = importlib.util.spec_from_file_location("mobius_setup", CHECKOUT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The files that git knows or would add, without those that were just removed."""
    command = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in listed if name and (CHECKOUT / name).is_file()}


@pytest.mark.slow
def test_the_tarball_of_a_dirty_tree_holds_what_git_has_of_the_collection(
    build: ModuleType, tracked: set[str], tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, tree / name, follow_symlinks=False)
    for name in JUNK:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("junk")
    command = [str(BIN / "ansible-galaxy"), "collection", "build", str(tree), "--output-path", str(tmp_path)]
    subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ})
    with tarfile.open(tmp_path / f"mobius-dhash-{GALAXY['version']}.tar.gz") as archive:
        members = {member.name for member in archive.getmembers() if not member.isdir()}
        broken = [member.name for member in archive.getmembers() if member.issym() and not is_member(archive, member)]
    of_the_collection = {name for name in tracked if name.startswith(build.COLLECTION_SOURCES)}
    assert members == (of_the_collection - {"galaxy.yml"}) | ADDED | SHARED | DATA
    assert broken == []


def is_member(archive: tarfile.TarFile, link: tarfile.TarInfo) -> bool:
    target = os.path.normpath(os.path.join(os.path.dirname(link.name), link.linkname))
    return target in archive.getnames()


@pytest.mark.slow
def test_the_wheel_carries_the_same_files(build: ModuleType, tracked: set[str]) -> None:
    files = build.collection_files(CHECKOUT)
    assert set(files) == {name for name in tracked if name.startswith(build.COLLECTION_SOURCES)}
    assert {"playbooks/release.yml", "plugins/module_utils/errors.py", "inventories/local/hosts.py"} <= set(files)


def test_the_wheel_carries_the_rules_of_the_alerts() -> None:
    found = discover()
    carried = {
        path.relative_to(CHECKOUT).as_posix()
        for package, patterns in found.items()
        for pattern in patterns
        for path in (CHECKOUT / package.replace(".", "/")).glob(pattern)
    }
    assert carried >= DATA


def discover() -> dict[str, list[str]]:
    """The data of each package that the build takes."""
    about = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = find_namespace_packages(str(CHECKOUT), include=about["packages"]["find"]["include"])
    return {package: patterns for package, patterns in about["package-data"].items() if package in packages}


@pytest.mark.slow
def test_a_checkout_that_git_refuses_is_built_all_the_same(
    build: ModuleType, tracked: set[str], tmp_path: Path
) -> None:
    for name in tracked:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, tmp_path / name)
    (tmp_path / ".git").write_text("gitdir: /nowhere")
    assert build.collection_files(tmp_path) == build.collection_files(CHECKOUT)


@pytest.mark.slow
def test_without_git_the_wheel_carries_the_same_files(build: ModuleType, tracked: set[str], tmp_path: Path) -> None:
    for name in tracked:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, tmp_path / name)
    assert build.collection_files(tmp_path) == build.collection_files(CHECKOUT)


def test_the_source_distribution_names_every_source_of_the_collection(build: ModuleType) -> None:
    manifest = (CHECKOUT / "MANIFEST.in").read_text(encoding="utf-8")
    named = re.findall(r"^(?:include|graft) (.+)$", manifest, re.MULTILINE)
    assert sorted(name for line in named for name in line.split()) == sorted(build.COLLECTION_SOURCES)


def test_what_git_ignores_has_an_example_among_the_junk() -> None:
    for line in (CHECKOUT / ".gitignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip("/").replace(".", r"\.").replace("*", "[^/]*")
        if line and not line.startswith(("#", "!")):
            assert any(re.search(rf"(^|/){pattern}(/|$)", name) for name in JUNK), line


def test_every_link_leads_to_a_file_of_the_checkout() -> None:
    """One to a folder of somebody's machine breaks each clone: a virtual environment cannot be made in its place."""
    command = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--stage"]
    entries = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    links = [entry.partition("\t")[2] for entry in entries if entry.startswith("120000 ")]
    targets = {link: os.readlink(CHECKOUT / link) for link in links}
    assert targets
    assert {
        link: target for link, target in targets.items() if not (CHECKOUT / link).resolve().is_relative_to(CHECKOUT)
    } == {}


def test_every_file_names_the_same_version() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = (CHECKOUT / "meta/ee-requirements.txt").read_text(encoding="utf-8")
    assert GALAXY["version"] == mobius.__version__
    assert project["version"] == mobius.__version__
    assert f"mobius-dhash[control]=={mobius.__version__}\n" in requirements
    shown = subprocess.run([str(BIN / "mobius"), "--version"], capture_output=True, text=True, check=True).stdout
    assert shown == f"mobius, version {mobius.__version__}\n"


def test_nothing_reads_the_version_that_pip_recorded() -> None:
    for path in (CHECKOUT / "mobius").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "importlib.metadata" not in text, path
        assert "from importlib import metadata" not in text, path


def test_an_execution_environment_installs_the_wheel() -> None:
    about = yaml.safe_load((CHECKOUT / "meta/execution-environment.yml").read_text(encoding="utf-8"))
    for name in about["dependencies"].values():
        assert (CHECKOUT / name).is_file()
