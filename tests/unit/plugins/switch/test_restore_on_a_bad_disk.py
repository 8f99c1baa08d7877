# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A restore whose disk fails after the exchange, with an instance that runs: what was live before is never lost."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup.swap import FolderSwap
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host

from tests.unit.plugins.switch.conftest import SERVICE, A, Machine

pytestmark = pytest.mark.root("only root mounts")

RunModule = Callable[..., dict[str, Any]]
DATABASE = "index.sqlite"


@contextlib.contextmanager
def disk(path: Path, options: str) -> Iterator[None]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0755,{options}", "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def contents(top: Path) -> dict[str, bytes]:
    """All but the journal, which is this host's on both sides."""
    files = (
        path for path in sorted(top.rglob("*")) if path.is_file() and path.name not in ("journal.jsonl", ".reserve")
    )
    return {str(path.relative_to(top)): path.read_bytes() for path in files}


def serve_damaged(machine: Machine, run_module: RunModule) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """A release serves, there is a backup, and the live database is damaged since; what is good, and what is live."""
    state = machine.host.state_dir
    with contextlib.closing(sqlite3.connect(state / DATABASE)) as database, database:
        database.execute("create table images (path text)")
    machine.promote(A)
    assert run_module("backup", databases=[DATABASE])["changed"]
    good = contents(state)
    (state / DATABASE).write_bytes(b"damaged" * 1000)
    (state / "later").write_bytes(b"written since")
    return good, contents(state)


def restore(run_module: RunModule) -> dict[str, Any]:
    return run_module("restore", id="latest", databases=[DATABASE], accept_damage=True)


def leftovers(host: Host) -> list[Path]:
    return list(host.state_dir.parent.glob(f"{durable.TEMPORARY_PREFIX}*"))


@pytest.mark.slow
def test_check_mode_names_what_the_run_would_be_refused_for(machine: Machine, run_module: RunModule) -> None:
    serve_damaged(machine, run_module)
    arguments = {"id": "latest", "writes": {"database": DATABASE, "query": "select count(*) from images"}}
    predicted = run_module("restore", check=True, **arguments)
    refused = run_module("restore", **arguments)
    assert predicted["changed"]
    assert predicted["finding"] == refused["mobius_failure"]["reason"]
    assert f"The run itself would be refused now: {predicted['finding']}" in str(predicted["warnings"])
    assert run_module("restore", check=True, accept_damage=True, **arguments)["finding"] == ""


@pytest.mark.slow
def test_a_record_that_cannot_be_written_after_the_exchange_makes_the_old_state_live_again(
    machine: Machine, run_module: RunModule
) -> None:
    with disk(machine.host.root, "nr_inodes=60"):
        machine.stage(A)
        good, damaged = serve_damaged(machine, run_module)
        machine.host.current_path.unlink()  # what the start of the release writes
        fillers = []
        with pytest.raises(OSError, match="No space"):
            while True:
                fillers.append(machine.host.root / f"filler{len(fillers)}")
                fillers[-1].touch()
        failed = restore(run_module)
        assert failed["mobius_failure"]["outcome"] == "disk_full", failed
        assert "the state from before is live again" in failed["mobius_failure"]["reason"]
        assert contents(machine.host.state_dir) == damaged
        assert (machine.running, leftovers(machine.host)) == ([A], [])
        for filler in fillers[:-1]:
            filler.unlink()
        done = restore(run_module)
        assert contents(machine.host.state_dir) == good
        assert contents(Path(done["kept_aside"][0])) == damaged
        assert machine.serving == [A]


@pytest.mark.slow
def test_an_old_state_that_cannot_be_renamed_stays_until_the_next_restore_renames_it(
    machine: Machine, run_module: RunModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = machine.root / "data"
    keep_aside = FolderSwap.keep_aside

    def keep_aside_on_read_only_disk(swap: FolderSwap) -> None:
        subprocess.run(["mount", "-o", "remount,ro", data], check=True)
        keep_aside(swap)

    with disk(data, "size=20m"):
        for name in ("state_dir", "config_dir"):
            machine.config[name] = str(data / name)
            (data / name).mkdir()
        durable.write_json(machine.config_path, machine.config)
        machine.host = Host.load(SERVICE, machine.config_dir)
        good, damaged = serve_damaged(machine, run_module)
        monkeypatch.setattr(FolderSwap, "keep_aside", keep_aside_on_read_only_disk)
        failed = restore(run_module)
        subprocess.run(["mount", "-o", "remount,rw", data], check=True)
        assert contents(machine.host.state_dir) == good
        assert machine.serving == [A]
        [left] = [folder for folder in leftovers(machine.host) if (folder / "state").exists()]
        assert contents(left / "state") == damaged
        failure = failed["mobius_failure"]
        assert failure["outcome"] == "environment_failed"
        assert "is read-only" in failure["reason"] and f"is whole in {left}/state" in failure["reason"]
        assert "what was restored is live" in failure["reason"]
        assert "next restore keeps it aside" in failure["do_next"]
        monkeypatch.setattr(FolderSwap, "keep_aside", keep_aside)
        assert not restore(run_module)["changed"]
        [aside] = machine.host.state_dir.parent.glob("state_dir.damaged-*")
        assert contents(aside) == damaged
        assert (contents(machine.host.state_dir), leftovers(machine.host)) == (good, [])
