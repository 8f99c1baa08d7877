"""What is left when a service is taken from its host: the last of this host's tests, since nothing serves after it."""

from __future__ import annotations

from typing import Any


def test_decommissioning_leaves_nothing_but_the_backups(machine: Any) -> None:
    machine.serve_from("1.0.0")
    backup = machine.module("backup", scope="full")["id"]
    done = machine.playbook("decommission", "-e", "mobius_decommission=stand-in")
    assert done.returncode == 0, done.stdout
    for units in ("list-units --all", "list-unit-files"):
        assert machine.shell(f"systemctl {units} --no-legend 'stand-in*' 'haproxy*'", check=False).stdout == ""
    files = machine.shell(
        "find /etc /opt /usr/local /var/lib /var/log /var/cache /run -xdev -name '*stand-in*' -o -xdev -name '*haproxy*'"
        " | grep -v 'lab-packages\\|/var/lib/apt\\|/var/log/journal' || true"
    )
    assert files.stdout == ""
    assert machine.shell("ss -ltnH | grep -c ':8080\\|:1808' || true").stdout == "0\n"
    machine.shell(f"ls /var/backups/stand-in/stand-in-{backup}.tar")
