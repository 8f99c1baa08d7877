"""The actions release, probe and gate as a playbook uses them, on this machine: transfer, check mode, bodies from files."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import staged_tree
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.settings import SLOT_COUNT
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import launcher, tool_digest
from ansible_collections.mobius.dhash.plugins.module_utils.host.instance import slot_table

from mobius import manifest
from mobius.control.bundle import builder as bundles
from mobius.control.bundle.builder import pack
from mobius.control.bundle.packing import pack_folder

CHECKOUT = Path(__file__).resolve().parents[3]
RELEASE = "1.0.0-0123456789ab"
# of the systemd that a host has: the instance's unit runs, and its process stays the same
SYSTEMCTL = """#!/bin/sh
printf 'Id=mobius-dhash@%s.service\\nActiveState=active\\nMainPID=4711\\n'
"""


class Place:
    """A provisioned host in a folder with a short name (Unix sockets), reached by a local connection."""

    def __init__(self, root: Path) -> None:
        self.root = root
        folders = {name: str(root / name) for name in ("run_dir", "state_dir", "backup_dir", "log_dir", "config_dir")}
        for path in (root / "opt/releases", root / "files", root / "bin", *map(Path, folders.values())):
            path.mkdir(parents=True)
        (root / "bin/systemctl").write_text(SYSTEMCTL % RELEASE)
        (root / "bin/systemctl").chmod(0o755)
        first_port = free_slot_ports()
        config = {
            "schema": 1,
            "service": "mobius-dhash",
            "user": "root",
            "root": str(root / "opt"),
            "health_path": "/health",
            "start_timeout": 5,
            "drain_deadline": 5,
            "command": str(root / "command"),
            "kind": "http",
            "front": {"port": 8080, "first_port": first_port, "internal_port": first_port + SLOT_COUNT},
            **folders,
        }
        (root / "config_dir/mobius-dhash.json").write_text(json.dumps(config))
        (root / "command").write_text(launcher("/nowhere", tool_digest()))

    def run(
        self, *tasks: dict[str, Any], options: tuple[str, ...] = (), pipelining: bool = True
    ) -> list[dict[str, Any]]:
        """Run the tasks with the real ansible-playbook, each whatever became of those before; their results."""
        result = self.root / "result.json"
        result.unlink(missing_ok=True)
        common = {"service": "mobius-dhash", "config_dir": str(self.root / "config_dir")}
        play: list[dict[str, Any]] = [{"mobius.dhash.run": {}}]
        for number, task in enumerate(tasks):
            ((module, arguments),) = task.items()
            given = {"mobius.dhash." + module: {**common, **arguments}, "register": f"outcome_{number}"}
            play.append({"block": [given], "rescue": [{"ansible.builtin.meta": "noop"}]})
        outcomes = "{{ [" + ", ".join(f"outcome_{number}" for number in range(len(tasks))) + "] | to_json }}"
        save = {"content": outcomes, "dest": str(result)}
        play.append({"ansible.builtin.copy": save, "check_mode": False, "diff": False})
        folders = {name: str(self.root / name) for name in ("mobius_history_dir", "mobius_witness_dir")}
        head = {"hosts": "all", "gather_facts": False, "vars": folders}
        (self.root / "playbook.yml").write_text(json.dumps([{**head, "tasks": play}]))
        inventory = self.root / "hosts.yml"
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory.write_text(json.dumps({"all": {"hosts": {"here": {**host, "ansible_pipelining": pipelining}}}}))
        command = [sys.executable, "-m", "ansible", "playbook", "-i", str(inventory), str(self.root / "playbook.yml")]
        environment = {**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_NOCOLOR": "1"}
        environment["PATH"] = f"{self.root / 'bin'}:{environment['PATH']}"
        done = subprocess.run([*command, *options], cwd=CHECKOUT, capture_output=True, text=True, env=environment)
        assert result.exists(), done.stdout + done.stderr
        values: list[dict[str, Any]] = json.loads(result.read_text())
        return values

    @property
    def staged(self) -> list[str]:
        return sorted(path.name for path in (self.root / "opt/releases").iterdir())


def free_slot_ports() -> int:
    """The first of as many ports as a front has slots, and one more, that nobody listens on."""
    while True:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for port in range(first + 1, first + SLOT_COUNT + 1):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return int(first)


class Hashing(BaseHTTPRequestHandler):
    """A healthy instance that hashes a body by its length."""

    def do_GET(self) -> None:
        self.answer({"status": "pass"})

    def do_POST(self) -> None:
        self.answer({"dhash": f"{len(self.rfile.read(int(self.headers['Content-Length']))):032x}"})

    def answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def bundle(tmp_path: Path) -> manifest.Bundle:
    """A small one: how much is sent does not matter here."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/content.bin").write_bytes(os.urandom(100_000))
    return pack(
        [tmp_path / "tree"],
        tmp_path / "dist",
        service="mobius-dhash",
        version="1.0.0",
        commit="c" * 40,
        built_at="2026-01-02T03:04:05Z",
        python=".".join(platform.python_version_tuple()[:2]),
        platform=f"{sys.platform}_{os.uname().machine}",
    )


@pytest.fixture
def place() -> Iterator[Place]:
    root = Path(tempfile.mkdtemp(prefix="mobius-"))
    yield Place(root)
    shutil.rmtree(root)


@pytest.mark.parametrize("pipelining", [True, False])
def test_a_bundle_is_predicted_then_staged_then_left_alone(
    place: Place, bundle: manifest.Bundle, pipelining: bool
) -> None:
    stage = {"release": {"bundle": str(bundle.path), "python": sys.executable}}
    remove = {"release": {"state": "absent", "release": bundle.release_id}}
    (predicted,) = place.run(stage, options=("--check", "--diff"), pipelining=pipelining)
    assert (predicted["changed"], place.staged) == (True, [])
    done, again = place.run(stage, stage, options=("--diff",), pipelining=pipelining)
    assert (done["changed"], done["release"], place.staged) == (True, bundle.release_id, [bundle.release_id])
    assert done["diff"] == predicted["diff"]
    assert (again["changed"], again["release"]) == (False, bundle.release_id)
    assert staged_tree.verify_tree(place.root / "opt/releases" / bundle.release_id) == []
    said = place.run(stage, remove, options=("--check",), pipelining=pipelining)
    assert [each["changed"] for each in said] == [False, True]
    assert place.staged == [bundle.release_id]
    said = place.run(remove, remove, pipelining=pipelining)
    assert [each["changed"] for each in said] == [True, False]
    assert place.staged == []


def test_a_packed_folder_is_released_to_a_host_without_that_python(place: Place, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "serve").write_text("#!/bin/sh\n")
    (shop / "serve").chmod(0o755)
    (shop / "current").symlink_to("serve")
    packed = pack_folder(shop, tmp_path / "packed", service="mobius-dhash", version="2.0.0").bundle
    expect = ("-e", json.dumps({"packed": manifest.expectation(packed)}))
    stage = {"release": {"bundle": str(packed.path), "python": "/nonexistent"}}
    preflight = {"preflight": {"expect": "{{ packed }}", "python": "/nonexistent"}}
    said = place.run(preflight, stage, options=("--check", *expect))
    assert [each["changed"] for each in said] == [False, True], said
    said = place.run(preflight, stage, stage, options=expect)
    assert [each["changed"] for each in said] == [False, True, False], said
    folder = place.root / "opt/releases" / packed.release_id
    assert (os.readlink(folder / "tree/current"), os.access(folder / "tree/serve", os.X_OK)) == ("serve", True)
    assert staged_tree.verify_tree(folder) == []


@pytest.mark.parametrize("options", [("--check",), ()])
def test_what_cannot_be_staged_is_refused_in_check_mode_too(
    place: Place, bundle: manifest.Bundle, tmp_path: Path, options: tuple[str, ...]
) -> None:
    damaged = tmp_path / bundle.path.name
    content = bytearray(bundle.path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    refusals = [
        ("bundle_invalid", {"bundle": str(damaged)}),
        ("bundle_invalid", {"bundle": str(tmp_path / "none.tar.gz")}),
        ("bundle_invalid", {"bundle": str(bundle.path), "sha256": "0" * 64}),
        ("invalid_input", {}),
        ("bundle_platform", {"bundle": str(bundle.path), "python": "/nonexistent"}),
        ("not_provisioned", {"bundle": str(bundle.path), "config_dir": "/nonexistent"}),
    ]
    tasks = [{"release": {"python": sys.executable, **arguments}} for _, arguments in refusals]
    said = place.run(*tasks, options=options)
    assert [each.get("mobius_failure", {}).get("outcome") for each in said] == [outcome for outcome, _ in refusals]
    assert all(each["failed"] and "\n" not in each["msg"] for each in said)
    assert place.staged == []


def test_a_host_with_signers_of_its_own_gets_the_signature_with_the_bundle_through_a_link_too(
    place: Place, bundle: manifest.Bundle, tmp_path: Path
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    description = place.root / "config_dir/mobius-dhash.json"
    line = f'builder@example.org namespaces="mobius-bundle" {(tmp_path / "key.pub").read_text().strip()}'
    description.write_text(json.dumps({**json.loads(description.read_text()), "bundle_signers": [line]}))
    newest = str(bundle.path.with_name("mobius-dhash.tar.gz"))  # a link to it
    stage = {"release": {"bundle": newest, "python": sys.executable}}
    for options in (("--check",), ()):
        (said,) = place.run(stage, options=options)
        assert (said["failed"], said["mobius_failure"]["outcome"], place.staged) == (True, "bundle_unsigned", [])
    bundles.sign(Path(newest), tmp_path / "key")
    assert manifest.signature_path(bundle.path).exists()
    (predicted,) = place.run(stage, options=("--check",))
    done, again = place.run(stage, stage)
    assert [each["changed"] for each in (predicted, done, again)] == [True, True, False]
    assert {each["signer"] for each in (predicted, done, again)} == {"builder@example.org"}
    assert place.staged == [bundle.release_id]


def test_bodies_of_probes_come_from_files_beside_the_playbook_or_in_a_folder(place: Place) -> None:
    host = Host.load("mobius-dhash", place.root / "config_dir")
    slot = slot_table(host).assign(RELEASE)
    (place.root / "files/five").write_bytes(b"\x00\xff\xfe12")
    with ThreadingHTTPServer(("127.0.0.1", slot.port), Hashing) as server:
        threading.Thread(target=server.serve_forever).start()
        body = {"name": "five bytes", "method": "POST", "path": "/v1/hash", "body_file": "five"}
        right, wrong = {**body, "json": {"dhash": f"{5:032x}"}}, {**body, "json": {"dhash": "0"}}
        gate = {"healthy_seconds": 0.5, "deadline": 5, "interval": 0.1}
        said = place.run(
            {"probe": {"release": RELEASE, "probes": [right]}},
            {"probe": {"release": RELEASE, "probes": [right], "body_dir": str(place.root / "files")}},
            {"gate": {"release": RELEASE, "probes": [right], **gate}},
            {"gate": {"release": RELEASE, "probes": [wrong], **gate}},
            {"probe": {"release": RELEASE, "probes": [{**right, "body_file": "six"}]}},
            {"probe": {"release": RELEASE, "probes": [{**right, "body_base64": "AA=="}]}},
        )
        server.shutdown()
    assert [each["probes"] for each in said[:2]] == [1, 1]
    assert [each["verdict"] for each in said[2:4]] == ["pass", "fail"]
    assert [each["mobius_failure"]["outcome"] for each in said[4:]] == ["invalid_input"] * 2
