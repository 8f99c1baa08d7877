"""The bundle of this checkout's commit with its real dependencies: reproducible, complete, and quick to stage."""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import staged_tree
from PIL import Image

from mobius import manifest
from mobius.control.bundle import builder as bundles
from mobius.control.bundle import dependencies
from mobius.dhash import hash_bytes

CHECKOUT = Path(__file__).resolve().parents[3]
PYTHON = ".".join(platform.python_version_tuple()[:2])


@pytest.fixture(scope="module")
def staged(bundle: manifest.Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    releases = tmp_path_factory.mktemp("releases")
    started = time.monotonic()
    folder = releases / staged_tree.stage(bundle.path, releases)
    assert time.monotonic() - started < 20  # a second or two on an idle machine
    return folder


def in_tree(staged: Path, program: str) -> str:
    """Run a program with the tree and the standard library, and nothing else."""
    code = f"import sys; sys.path.append({str(staged / 'tree')!r})\n{program}"
    done = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_build_from_another_folder_is_the_same_file(bundle: manifest.Bundle, tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", str(CHECKOUT), str(tmp_path / "clone")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "clone"), "checkout", "-q", bundle.manifest.commit], check=True)
    again = bundles.build(
        tmp_path / "clone", tmp_path / "dist", version="1.0.0", python=PYTHON, cache=tmp_path / "another cache"
    )
    assert again.manifest == bundle.manifest
    assert again.path.read_bytes() == bundle.path.read_bytes()


def test_the_command_builds_and_verifies_the_same(bundle: manifest.Bundle, tmp_path: Path) -> None:
    mobius = [str(Path(sys.executable).with_name("mobius"))]
    subprocess.run(["git", "clone", "-q", str(CHECKOUT), str(tmp_path / "clone")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "clone"), "checkout", "-q", bundle.manifest.commit], check=True)
    common = [
        "--version",
        "1.0.0",
        "--python",
        PYTHON,
        "--source",
        str(tmp_path / "clone"),
        "--out",
        str(tmp_path / "d"),
    ]
    built = subprocess.run([*mobius, "bundle", "build", *common, "--format", "json"], check=True, capture_output=True)
    path = json.loads(built.stdout)["bundle"]
    assert json.loads(built.stdout)["bundle_sha256"] == bundle.sha256
    assert subprocess.run([*mobius, "bundle", "verify", path], capture_output=True).returncode == 0
    with Path(path).open("r+b") as stream:
        stream.seek(5_000_000)
        byte = stream.read(1)
        stream.seek(5_000_000)
        stream.write(bytes([byte[0] ^ 1]))
    refused = subprocess.run([*mobius, "bundle", "verify", path], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "its .sha256 says" in refused.stderr and "Traceback" not in refused.stderr


def test_the_tree_alone_runs_the_service_and_hashes_a_picture(staged: Path) -> None:
    program = """
import io, json
import httptools, loguru, numpy, prometheus_client, starlette, uvicorn
from PIL import Image
import mobius.service.__main__
from mobius.dhash import hash_bytes
picture = io.BytesIO()
Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 50).save(picture, "PNG")
print(hash_bytes(picture.getvalue()).as_dict()["dhash"])
homes = {name: module.__file__ for name, module in sys.modules.items() if name in ("numpy", "PIL", "mobius", "uvicorn")}
print(json.dumps(homes))
"""
    fingerprint, homes = in_tree(staged, program).splitlines()
    picture = io.BytesIO()
    Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 50).save(picture, "PNG")
    assert fingerprint == hash_bytes(picture.getvalue()).as_dict()["dhash"]
    homes = json.loads(homes)
    assert set(homes) == {"numpy", "PIL", "mobius", "uvicorn"}
    assert all(place.startswith(str(staged)) for place in homes.values())
    assert staged_tree.verify_tree(staged) == []


def test_what_runs_on_the_control_node_only_is_not_in_the_tree(staged: Path) -> None:
    assert not (staged / "tree/mobius/control").exists()
    assert not list(staged.glob("tree/ansible*"))
    assert not list(staged.glob("tree/bin"))


def test_the_tree_names_no_path_of_the_machine_that_built_it(staged: Path) -> None:
    for path in staged.rglob("*"):
        if path.suffix in (".py", ".txt", ".json") or path.name in ("METADATA", "WHEEL"):
            assert str(CHECKOUT).encode() not in path.read_bytes(), path
    assert not [
        path for path in staged.rglob("*") if path.name in ("RECORD", "INSTALLER", "direct_url.json", "REQUESTED")
    ]


def test_the_tree_has_the_versions_that_the_lock_names(staged: Path) -> None:
    lock = (CHECKOUT / bundles.LOCK).read_text()
    locked = {
        line.split("==")[0]: line.split("==")[1].split()[0]
        for line in dependencies.locked_for(lock, PYTHON, "linux_x86_64").splitlines()
    }
    found = importlib.metadata.distributions(path=[str(staged / "tree")])
    assert {each.name.lower().replace("_", "-"): each.version for each in found} == locked
