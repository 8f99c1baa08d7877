# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The data of one host carried to another, as MIGRATION_RUNBOOK.md says: killed, resumed, restored, and rolled back."""

from __future__ import annotations

import json
import re
import shlex
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import BIN, CHECKOUT, kill_family

pytestmark = [pytest.mark.lab, pytest.mark.soak]

PAGE = CHECKOUT / "MIGRATION_RUNBOOK.md"
FILES = (
    "cd /var/lib/stand-in; find library index -type f -print0 | sort -z | xargs -0 -r sha256sum; "
    "sha256sum /etc/stand-in/here"
)


def commands() -> list[str]:
    """The commands of the page that need hosts, in their order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    lines = [line.split("#")[0].strip() for line in joined.splitlines()]
    return [line for line in lines if line.startswith(("ansible-playbook ", "mobius backup "))]


@pytest.fixture
def source(fleet: Any, served: str) -> Any:
    """Two hosts with pictures of their own, and a configuration of their own."""
    for number, host in enumerate(fleet.names[:2]):
        fleet.shell(
            host,
            f"mkdir -p /var/lib/stand-in/library /etc/stand-in; echo {host} > /etc/stand-in/here;"
            f"for n in 1 2 3; do head -c {300_000 + number} /dev/urandom > /var/lib/stand-in/library/$n.jpg; done",
        )
    return fleet


def playbook(fleet: Any, line: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """A command of the page, with this lab's inventory, hosts and folder."""
    first, second = fleet.names[:2]
    line = line.replace("inventories/staging", str(fleet.inventory)).replace(
        "inventories/production", str(fleet.inventory)
    )
    line = line.replace("/srv/migration", str(folder)).replace("staging1", first).replace("production1", second)
    words = shlex.split(line)
    extra = json.dumps({**fleet.variables, "backup_writes": {}, "backup_drill_count": {}})
    words = [str(BIN / words[0]), *words[1:], "-e", extra]
    return subprocess.Popen(
        words, cwd=CHECKOUT, env=fleet.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def run(fleet: Any, line: str, folder: Path) -> tuple[int, str]:
    process = playbook(fleet, line, folder)
    out, _ = process.communicate(timeout=300)
    return process.returncode, out


def test_the_data_of_a_host_is_carried_to_another_as_the_runbook_says(source: Any, tmp_path: Path) -> None:
    fleet, (first, second) = source, source.names[:2]
    folder = tmp_path / "migration"
    folder.mkdir()
    there, before = fleet.shell(first, FILES), fleet.shell(second, FILES)
    lines = commands()
    assert [line.split()[0] for line in lines] == ["mobius", *["ansible-playbook"] * 4, *["mobius"] * 3]
    saved, predicted = "", [""]
    for line in lines:
        if "SAVED" in line:
            assert fleet.shell(second, FILES).splitlines()[:-1] == there.splitlines()[:-1], (
                "the data is the other host's"
            )
            assert fleet.shell(second, FILES).splitlines()[-1] == before.splitlines()[-1], (
                "its configuration is its own"
            )
            line = line.replace("SAVED", saved)
        elif "--tags put" in line and "--check" not in line:
            with playbook(fleet, line, folder) as killed:
                deadline = time.monotonic() + 120
                for text in killed.stdout or ():
                    if "Copy the digest" in text or time.monotonic() > deadline:
                        break
                kill_family(killed.pid)
            assert fleet.shell(second, FILES) == before
        code, out = run(fleet, line, folder)
        assert code == 0, f"{line}\n{out}"
        changed = re.findall(r"changed=(\d+)", out)
        if "--check" in line:
            assert fleet.shell(second, FILES) == before
            predicted = changed
        elif "--tags fetch" in line:
            assert changed == predicted != ["0"]
            assert stat.S_IMODE((folder / first).stat().st_mode) == 0o700
        if "mobius backup restore latest" in line and "--check" not in line:
            saved = re.findall(r"\b\d{8}T\d{6}Z-full\b", fleet.shell(second, "ls /var/backups/stand-in"))[-1]
    assert fleet.shell(second, FILES) == before, "rolled back"
    assert fleet.shell(first, FILES) == there
    assert fleet.answer(second) == served_release(fleet, second)


def served_release(fleet: Any, host: str) -> str:
    return str(fleet.statuses()[host]["confirmed"])


def test_what_cannot_be_carried_is_refused_in_one_sentence(source: Any, tmp_path: Path) -> None:
    fleet, (first, second) = source, source.names[:2]
    base = "ansible-playbook -i inventories/staging playbooks/migrate.yml"
    assert run(fleet, f"mobius backup create --limit {first} -i inventories/staging", tmp_path)[0] == 0
    everything = f"{FILES}; find /var/backups/stand-in"
    before = fleet.shell(second, everything)
    for arguments, reason in (
        (f"--limit {first}", "Neither --tags fetch nor --tags put was given"),
        (f"--tags fetch --limit {first}", "mobius_migrate_folder is empty"),
        (f"--tags put --limit {second} -e mobius_migrate_folder={tmp_path}", "mobius_migrate_from names no host"),
        (
            f"--tags put --limit {second} -e mobius_migrate_folder={tmp_path} -e mobius_migrate_from=../etc",
            "names no host",
        ),
        (
            f"--tags put --limit {second} -e mobius_migrate_folder={tmp_path} -e mobius_migrate_from={first}",
            "has no backup latest",
        ),
    ):
        code, out = run(fleet, f"{base} {arguments}", tmp_path)
        assert (code != 0, reason in out) == (True, True), out
    assert run(fleet, f"{base} --tags fetch --limit {first} -e mobius_migrate_folder={tmp_path}", tmp_path)[0] == 0
    (archive,) = (tmp_path / first).glob("*.tar")
    data = bytearray(archive.read_bytes())
    data[1000] ^= 1
    archive.write_bytes(data)
    put = f"{base} --tags put --limit {second} -e mobius_migrate_folder={tmp_path} -e mobius_migrate_from={first}"
    for check in ("", " --check"):
        code, out = run(fleet, put + check, tmp_path)
        assert (code != 0, "does not match its .sha256" in out) == (True, True), out
    assert fleet.shell(second, everything) == before
