"""One host with a release to roll back to: the checklist before and after a release, and a damaged index."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.end_to_end.by_hand import INVENTORY, ROOT, Bundle, Host, answered, build, command, lab, mobius
from tools.steady_client import serving_release

# three bundles, three releases and four checklists take some minutes
pytestmark = [pytest.mark.lab, pytest.mark.soak]


@pytest.fixture(scope="module")
def next_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The release that the checklist is for."""
    return build(tmp_path_factory.mktemp("next"), "3.0.0")


@pytest.fixture(scope="module")
def host(bundles: Sequence[Bundle]) -> Iterator[Host]:
    """A host that serves the second release and keeps the first."""
    lab("down")
    lab("up", "--hosts", "1")
    (item,) = json.loads((ROOT / ".lab/lab.json").read_text(encoding="utf-8"))["hosts"]
    made = Host(item["name"], item["ssh_port"], item["http_port"], item["container"])
    for arguments in (("provision",), *(("release", "--bundle", bundle.path) for bundle in bundles)):
        done = mobius(*arguments)
        assert done.code == 0, done.stderr
    assert serving_release(made.address) == bundles[1].release
    yield made
    lab("down")


def test_a_checklist_that_is_killed_goes_on_and_a_release_that_needs_it_waits(host: Host, next_bundle: Bundle) -> None:
    required = INVENTORY / "group_vars/all.yml"
    assert not required.exists()
    required.write_text("mobius_checklist_required: true\n")
    try:
        refused = mobius("release", "--bundle", next_bundle.path)
        assert (refused.code, refused.outcome, refused.changes) == (1, "checklist_open", {})
        arguments = command("checklist", "--bundle", next_bundle.path)
        with subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if "mobius smoke" in line:
                    break
            os.killpg(process.pid, signal.SIGKILL)
        answers = [f"--answer={name}=yes" for name in ("plan-read", "matches", "on-call", "users", "go")]
        done = mobius("checklist", "--bundle", next_bundle.path, *answers)
        assert done.code == 0, done.stderr
        assert done.summary["open"] == []
        assert "mobius bundle verify" not in done.stderr, "what was found before the kill is found"
        assert "mobius smoke" in done.stderr
        released = mobius("release", "--bundle", next_bundle.path)
        assert released.code == 0, released.stderr
    finally:
        required.unlink()
    assert serving_release(host.address) == next_bundle.release


def test_the_checklist_after_a_release_sees_that_it_serves(
    host: Host, next_bundle: Bundle, bundles: Sequence[Bundle]
) -> None:
    assert serving_release(host.address) == next_bundle.release
    answers = [f"--answer={name}=yes" for name in ("answers", "alerts", "close")]
    after = mobius("checklist", "--bundle", next_bundle.path, "--stage", "after", *answers)
    assert (after.code, after.summary["open"]) == (0, []), after.stderr
    later = mobius("checklist", "--bundle", next_bundle.path, "--stage", "48h", "--answer", "done=yes:no incident")
    assert (later.code, later.summary["open"]) == (0, []), later.stderr
    other = mobius("checklist", "--bundle", bundles[0].path, "--stage", "after")
    assert other.code == 1
    assert f"serves {next_bundle.release}" in other.summary["answers"]["status-after"]["note"]


def test_a_damaged_index_makes_no_latest_backup_and_is_restored_with_a_yes(host: Host) -> None:
    index = "/var/lib/mobius-dhash/index/index.sqlite3"
    end = time.monotonic() + 300
    while host.status()["watch"] is not None:
        assert time.monotonic() < end, "a watched release whose index is damaged is rolled back after 10 s"
        time.sleep(1)
    assert mobius("backup", "create").code == 0
    release = serving_release(host.address)
    host.run(f"dd if=/dev/zero of={index} bs=100 count=1 conv=notrunc && rm -f {index}-wal {index}-shm")
    damaged = host.run(f"sha256sum < {index}").stdout
    for arguments in (("--check",), ()):
        created = mobius("backup", "create", *arguments)
        assert (created.code, created.outcome) == (3, "source_damaged")
        assert "state/index/index.sqlite3: file is not a database" in created.summary["reason"]
    refused = mobius("backup", "restore", "latest")
    assert (refused.code, refused.outcome) == (1, "invalid_input")
    assert "the live data is damaged" in refused.summary["reason"] and "--yes" in refused.summary["do_next"]
    for arguments in (("backup", "restore", "latest"), ("rollback", "--backup", "latest")):
        code, said = answered("n", *arguments)
        assert (code, "the later writes cannot be counted: the live data is damaged" in said) == (2, True), said
    assert host.run(f"sha256sum < {index}").stdout == damaged
    check = mobius("backup", "restore", "latest", "--check")
    real = mobius("backup", "restore", "latest", "--yes")
    assert (check.code, real.code) == (0, 0), real.stderr
    assert check.changes == real.changes
    restored = real.summary["restored"][host.name]
    assert (restored["lost"], restored["saved"]) == (None, "")
    assert host.run(f"sha256sum < {restored['kept_aside'][0]}/index/index.sqlite3").stdout == damaged
    assert serving_release(host.address) == release
    assert mobius("backup", "create").code == 0
