"""A folder of any language, packed with the command and staged with the code and the Python that hosts have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
MOBIUS = Path(sys.executable).with_name("mobius")
HOST_PYTHON = "/usr/bin/python3"
STAGE = """
import json, resource, sys
sys.path.insert(0, {collections!r})
from ansible_collections.mobius.dhash.plugins.module_utils import staged_tree
release = staged_tree.stage({bundle!r}, {releases!r})
problems = staged_tree.verify_tree({releases!r} + "/" + release)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({{"release": release, "problems": problems, "peak_mb": peak}}))
"""


def pack(folder: Path, out: Path, *options: str) -> dict[str, Any]:
    command = [MOBIUS, "bundle", "pack", folder, "--service", "shop", "--version", "1.4.0", "--output", out]
    done = subprocess.run([*command, *options, "--format", "json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    message: dict[str, Any] = json.loads(done.stdout)
    return message


def stage(bundle: str, releases: Path) -> dict[str, Any]:
    """What a host's own Python makes of it, with nothing but the standard library."""
    releases.mkdir(exist_ok=True)
    collections = str(CHECKOUT / ".ansible/collections")
    program = STAGE.format(collections=collections, bundle=bundle, releases=str(releases))
    done = subprocess.run([HOST_PYTHON, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["problems"] == []
    return answer


def test_a_folder_with_links_and_executables_runs_from_the_staged_tree(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    (shop / "bin").mkdir(parents=True)
    (shop / "node_modules/.bin").mkdir(parents=True)
    (shop / "node_modules/tool").mkdir()
    (shop / "node_modules/tool/cli.sh").write_text('#!/bin/sh\necho "tool of $(cat "$(dirname "$0")/../../page")"\n')
    (shop / "node_modules/tool/cli.sh").chmod(0o755)
    (shop / "node_modules/.bin/tool").symlink_to("../tool/cli.sh")
    (shop / "modules").symlink_to("node_modules")
    (shop / "page").write_text("shop\n")
    (shop / "bin/serve").write_text('#!/bin/sh\ncd "$(dirname "$0")/.." && exec modules/tool/cli.sh\n')
    (shop / "bin/serve").chmod(0o755)
    (shop / ".git").mkdir()
    (shop / ".git/HEAD").write_text("ref: refs/heads/main\n")

    packed = pack(shop, tmp_path / "dist")
    assert (packed["python"], packed["links"], packed["excluded"]) == (None, 2, {".git": 1})
    assert subprocess.run([MOBIUS, "bundle", "verify", packed["bundle"]], capture_output=True).returncode == 0
    staged = stage(packed["bundle"], tmp_path / "releases")
    assert staged["release"] == packed["release"]
    tree = tmp_path / "releases" / staged["release"] / "tree"
    assert os.readlink(tree / "node_modules/.bin/tool") == "../tool/cli.sh"
    assert not (tree / ".git").exists()
    run = subprocess.run([tree / "bin/serve"], capture_output=True, text=True, check=True)
    assert run.stdout == "tool of shop\n"


@pytest.mark.soak
def test_half_a_gigabyte_is_packed_and_staged_in_constant_memory(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    for number in range(5):
        with (tmp_path / f"big/{number}").open("wb") as stream:
            for _ in range(100):
                stream.write(os.urandom(1_000_000))
    limit = 'ulimit -v 500000; exec "$@"'  # kB: what Python maps without a bundle is less than 200,000
    command = [MOBIUS, "bundle", "pack", tmp_path / "big", "--service", "big", "--version", "1", "--format", "json"]
    done = subprocess.run(
        ["sh", "-c", limit, "sh", *command, "--output", tmp_path / "dist"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    packed = json.loads(done.stdout)
    assert packed["bytes"] > 500_000_000
    assert stage(packed["bundle"], tmp_path / "releases")["peak_mb"] < 60
