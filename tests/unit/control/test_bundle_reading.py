# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run reads its bundle once, for all of its hosts, and again when it is no longer the file that was read."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from mobius import manifest
from mobius.control.bundle.builder import pack
from mobius.control.bundle.reading import read_once
from mobius.control.run.workspace import RunWorkspace
from mobius.errors import MobiusError

READ = manifest.read_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "program.py").write_bytes(os.urandom(4096))
    packed = pack(
        [tree],
        tmp_path / "dist",
        service="mobius-dhash",
        version="1.0.0",
        commit="0" * 40,
        built_at="2026-01-01T00:00:00Z",
        python="3.11",
        platform="linux_x86_64",
    )
    return Path(packed.path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir()
    return made


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A line for each time that the bundle was unpacked, by whichever process."""
    log = tmp_path / "reads"
    log.touch()

    def reading(path: Path, **options: str | None) -> manifest.Bundle:
        with log.open("a") as stream:
            stream.write("read\n")
        time.sleep(0.2)  # as a large one takes: whoever does not wait for this reads it, too
        return READ(path, **options)

    monkeypatch.setattr(manifest, "read_bundle", reading)
    return log


def count(reads: Path) -> int:
    return len(reads.read_text().splitlines())


def refusal(*arguments: object) -> str:
    with pytest.raises(MobiusError) as caught:
        read_once(*arguments)
    assert caught.value.outcome == "bundle_invalid"
    return caught.value.reason


@pytest.mark.slow
def test_processes_that_read_at_once_read_it_once_and_get_the_same(bundle: Path, folder: Path, reads: Path) -> None:
    expected = READ(bundle)
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        heard = list(pool.map(read_once, [str(bundle)] * 8, [None] * 8, [RunWorkspace(folder)] * 8))
    assert heard == [expected] * 8
    assert count(reads) == 1


def test_what_is_expected_is_compared_with_what_was_read_before(bundle: Path, folder: Path, reads: Path) -> None:
    result = read_once(str(bundle), "", RunWorkspace(folder))
    assert read_once(str(bundle), result.sha256.upper(), RunWorkspace(folder)) == result
    assert "was expected" in refusal(str(bundle), "0" * 64, RunWorkspace(folder))
    assert count(reads) == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", ["content", "sidecar", "signature"])
def test_a_bundle_that_is_no_longer_the_same_is_read_again(bundle: Path, folder: Path, reads: Path, what: str) -> None:
    before = read_once(str(bundle), None, RunWorkspace(folder))
    observed = bundle.stat()
    if what == "content":
        content = bytearray(bundle.read_bytes())
        content[len(content) // 2] ^= 1
        bundle.write_bytes(content)
        os.utime(bundle, ns=(observed.st_atime_ns, observed.st_mtime_ns))
        assert "its .sha256 says" in refusal(str(bundle), None, RunWorkspace(folder))
    elif what == "sidecar":
        manifest.sidecar(bundle).write_text(f"{'0' * 64}  {bundle.name}\n")
        assert "its .sha256 says" in refusal(str(bundle), None, RunWorkspace(folder))
    else:
        manifest.signature_path(bundle).write_text("signed")
        assert (before.signature, read_once(str(bundle), None, RunWorkspace(folder)).signature) == (None, "signed")
    assert count(reads) == 2


def test_a_damaged_bundle_is_read_once_too(bundle: Path, folder: Path, reads: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-9])
    manifest.sidecar(bundle).unlink()
    assert refusal(str(bundle), None, RunWorkspace(folder)) == refusal(str(bundle), None, RunWorkspace(folder))
    assert count(reads) == 1


@pytest.mark.slow
def test_without_a_workspace_each_process_reads_for_itself(bundle: Path, folder: Path, reads: Path) -> None:
    folder.rmdir()
    assert (
        read_once(str(bundle), None, RunWorkspace(folder))
        == read_once(str(bundle), None, RunWorkspace(folder))
        == READ(bundle)
    )
    assert count(reads) == 2


@pytest.mark.slow
def test_half_written_facts_are_ignored(bundle: Path, folder: Path, reads: Path) -> None:
    result = read_once(str(bundle), None, RunWorkspace(folder))
    (note,) = folder.glob("*.json")
    note.write_bytes(note.read_bytes()[:-9])
    assert read_once(str(bundle), None, RunWorkspace(folder)) == result
    assert count(reads) == 2


def test_a_bundle_that_is_not_there_is_one_sentence(folder: Path) -> None:
    assert (
        refusal("/nowhere/x.tar.gz", None, RunWorkspace(folder))
        == "The bundle /nowhere/x.tar.gz cannot be read: No such file or directory."
    )
