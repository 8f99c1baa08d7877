"""What the lab does with each host is decided from plain data: what was asked for, what is there, which ports are free."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.lab import plan as lab_plan
from ansible_collections.mobius.dhash.plugins.module_utils.lab import ports as lab_ports
from ansible_collections.mobius.dhash.plugins.module_utils.lab.folder import LabFolder
from ansible_collections.mobius.dhash.plugins.module_utils.lab.plan import ExpectedLab, HostAction, LabContainer
from ansible_collections.mobius.dhash.plugins.module_utils.lab.ports import PortAllocator

LAB = "0000000a"
KEYS = {"client": "ssh-ed25519 AAAA", "host": "ssh-ed25519 BBBB"}
FIRST = lab_ports.FIRST_PORT + 10 * lab_ports.PORTS_PER_BLOCK


def expected_lab(
    *hosts: str, image: str = "localhost/mobius-lab:bookworm-1", inner: tuple[int, ...] = (22, 8080)
) -> ExpectedLab:
    return ExpectedLab(LAB, hosts or ("lab1",), image, "bookworm", inner)


def existing(
    name: str = "lab1", *, status: str = "running", ports: dict[int, int] | None = None
) -> dict[str, LabContainer]:
    """A container exactly as `expected_lab()` asks for it."""
    expected = expected_lab()
    ports = ports or {22: 21000, 8080: 21001}
    container = expected.container(name)
    return {
        container: LabContainer(container, status, lab_plan.spec_digest(expected, ports, KEYS), expected.image, ports)
    }


def plan(
    expected: ExpectedLab,
    containers: dict[str, LabContainer],
    *,
    recorded: dict[str, dict[int, int]] | None = None,
    busy: Collection[int] = (),
    foreign: Collection[int] = (),
    keys: dict[str, str] | None = None,
) -> list[HostAction]:
    ports = PortAllocator(LAB, foreign, lambda port: port not in busy)
    return lab_plan.plan(expected, containers, recorded or {}, dict.fromkeys(expected.hosts, keys or KEYS), ports)


def test_a_host_that_runs_as_asked_is_left_alone_on_its_own_ports() -> None:
    (action,) = plan(expected_lab(), existing(), busy={21000, 21001})
    assert (action.verb, action.ports) == ("keep", {22: 21000, 8080: 21001})


def test_a_missing_host_is_created_on_ports_of_the_labs_block() -> None:
    (action,) = plan(expected_lab(), {})
    assert (action.verb, action.ports) == ("create", {22: FIRST, 8080: FIRST + 1})


def test_a_host_whose_container_is_gone_gets_its_recorded_ports_back() -> None:
    (action,) = plan(expected_lab(), {}, recorded={"lab1": {22: 23456, 8080: 23457}})
    assert (action.verb, action.ports) == ("create", {22: 23456, 8080: 23457})


def test_a_recorded_port_in_use_is_replaced_and_the_other_one_kept() -> None:
    (action,) = plan(expected_lab(), {}, recorded={"lab1": {22: 23456, 8080: 23457}}, busy={23456})
    assert action.ports == {22: FIRST, 8080: 23457}


@pytest.mark.parametrize(("status", "verb"), [("exited", "start"), ("stopped", "start"), ("paused", "resume")])
def test_a_stopped_host_is_started_and_not_recreated(status: str, verb: str) -> None:
    (action,) = plan(expected_lab(), existing(status=status))
    assert (action.verb, action.ports) == (verb, {22: 21000, 8080: 21001})


def test_a_stopped_host_whose_port_is_in_use_is_recreated_on_another_port() -> None:
    (action,) = plan(expected_lab(), existing(status="exited"), busy={21001})
    assert (action.verb, action.ports) == ("recreate", {22: 21000, 8080: FIRST})


@pytest.mark.parametrize("status", ["created", "configured", "initialized", "removing", "unknown"])
def test_a_host_whose_creation_was_interrupted_is_recreated(status: str) -> None:
    (action,) = plan(expected_lab(), existing(status=status))
    assert action.verb == "recreate"
    assert status in action.why


def test_another_image_recreates_the_host_on_the_same_ports() -> None:
    (action,) = plan(expected_lab(image="localhost/mobius-lab:trixie-2"), existing(), busy={21000, 21001})
    assert (action.verb, action.ports) == ("recreate", {22: 21000, 8080: 21001})


@pytest.mark.parametrize("keys", [{**KEYS, "host": ""}, {**KEYS, "client": "ssh-ed25519 CCCC"}])
def test_a_host_that_was_made_with_other_keys_is_recreated(keys: dict[str, str]) -> None:
    (action,) = plan(expected_lab(), existing(), keys=keys)
    assert action.verb == "recreate"


def test_a_host_that_was_made_with_other_powers_is_recreated(monkeypatch: pytest.MonkeyPatch) -> None:
    containers = existing()
    monkeypatch.setattr(lab_plan, "CONFINEMENT", ("--privileged",))
    (action,) = plan(expected_lab(), containers)
    assert (action.verb, action.ports) == ("recreate", {22: 21000, 8080: 21001})
    assert "powers" in action.why


def test_one_more_published_port_recreates_the_host_and_keeps_the_old_ports() -> None:
    (action,) = plan(expected_lab(inner=(22, 8080, 9100)), existing())
    assert (action.verb, action.ports) == ("recreate", {22: 21000, 8080: 21001, 9100: FIRST})


def test_hosts_that_are_no_longer_requested_are_removed_first() -> None:
    actions = plan(expected_lab("lab1"), {**existing("lab1"), **existing("lab2", ports={22: 21002, 8080: 21003})})
    assert [(action.name, action.verb) for action in actions] == [("lab2", "remove"), ("lab1", "keep")]


def test_a_new_host_gets_no_port_that_another_host_of_the_lab_keeps() -> None:
    actions = plan(expected_lab("lab1", "lab2"), existing("lab2", ports={22: FIRST, 8080: FIRST + 1}))
    assert actions[0].ports == {22: FIRST + 2, 8080: FIRST + 3}


def test_a_new_host_gets_no_port_of_another_labs_host_which_may_be_stopped_now() -> None:
    (action,) = plan(expected_lab(), {}, foreign={FIRST, FIRST + 2})
    assert action.ports == {22: FIRST + 1, 8080: FIRST + 3}


def test_the_search_for_a_port_begins_again_at_the_lowest_one() -> None:
    last = lab_ports.FIRST_PORT + lab_ports.PORTS_PER_BLOCK * lab_ports.PORT_BLOCKS - 1
    ports = PortAllocator(f"{lab_ports.PORT_BLOCKS - 1:08x}", (), lambda port: port in (last, lab_ports.FIRST_PORT))
    assert (ports.pick(), ports.pick()) == (last, lab_ports.FIRST_PORT)


def test_no_free_port_at_all_is_an_environment_failure() -> None:
    with pytest.raises(lab_plan.MobiusError, match="No port") as caught:
        PortAllocator(LAB, (), lambda _port: False).pick()
    assert caught.value.outcome == "environment_failed"


def test_a_port_that_a_program_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not lab_ports.port_is_free(port)
    assert lab_ports.port_is_free(port)


def test_two_folders_have_two_labs_and_a_link_to_a_folder_has_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "link").symlink_to("one")
    one, two, link = (lab_plan.lab_id(tmp_path / name) for name in ("one", "two", "link"))
    assert one != two
    assert link == one
    assert len(bytes.fromhex(one)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hosts": []}, "one host at least"),
        ({"hosts": ["lab1", "lab1"]}, "a name twice"),
        ({"hosts": ["Lab;rm"]}, "not a host name"),
        ({"extra_ports": [22]}, "differ"),
        ({"service_port": 70000}, "1 to 65535"),
        ({"image": None}, "image is missing"),
    ],
)
def test_an_impossible_request_is_refused_and_the_message_names_the_value(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    params = {"state": "present", "hosts": ["lab1"], "image": "i", "debian": "bookworm", "service_port": 8080}
    with pytest.raises(lab_plan.MobiusError, match=message) as caught:
        lab_plan.validate_request({**params, "extra_ports": [], **change}, tmp_path)
    assert caught.value.outcome == "invalid_input"


# The folder .lab


def made_folder(root: Path) -> tuple[LabFolder, ExpectedLab, list[HostAction]]:
    folder = LabFolder(root)
    folder.make_folder()
    for key in (folder.client_key, folder.host_key("lab1")):
        folder.make_key(key)
    expected = expected_lab()
    actions = plan(expected, {}, keys=folder.keys("lab1"))
    folder.write(folder.files(expected, actions))
    return folder, expected, actions


def test_keys_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    folder, _, _ = made_folder(tmp_path)
    before = folder.client_key.read_bytes()
    folder.make_key(folder.client_key)
    assert folder.client_key.read_bytes() == before
    assert folder.client_key.stat().st_mode & 0o777 == 0o600
    assert folder.folder.stat().st_mode & 0o777 == 0o700


def test_a_key_pair_without_its_private_part_is_made_again(tmp_path: Path) -> None:
    folder, _, _ = made_folder(tmp_path)
    public = folder.public(folder.client_key)
    folder.client_key.unlink()
    assert folder.keys("lab1")["client"] == ""
    folder.make_key(folder.client_key)
    assert folder.public(folder.client_key) not in ("", public)


def test_the_known_hosts_name_the_key_that_the_host_is_given(tmp_path: Path) -> None:
    folder, _, (action,) = made_folder(tmp_path)
    assert (
        folder.known_hosts.read_text() == f"[127.0.0.1]:{action.ports[22]} {folder.public(folder.host_key('lab1'))}\n"
    )


def test_the_ports_of_a_lab_are_found_again_in_its_record(tmp_path: Path) -> None:
    folder, _, (action,) = made_folder(tmp_path)
    assert folder.recorded_ports(LAB) == {"lab1": action.ports}
    assert not folder.differs(folder.files(expected_lab(), [action]))


def test_the_record_of_a_copied_checkout_does_not_count(tmp_path: Path) -> None:
    folder, _, _ = made_folder(tmp_path)
    assert folder.recorded_ports("0000000b") == {}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": 1}', b"null"])
def test_a_damaged_record_is_written_again(tmp_path: Path, damage: bytes) -> None:
    folder, expected, actions = made_folder(tmp_path)
    folder.file.write_bytes(damage)
    assert folder.recorded_ports(LAB) == {}
    files = folder.files(expected, actions)
    assert folder.differs(files)
    folder.write(files)
    assert json.loads(folder.file.read_bytes())["hosts"][0]["ssh_port"] == actions[0].ports[22]


def test_leftovers_of_a_killed_run_and_keys_of_removed_hosts_are_removed(tmp_path: Path) -> None:
    folder, expected, _ = made_folder(tmp_path)
    folder.make_key(folder.host_key("lab9"))
    (folder.folder / ".new-abc").mkdir()
    (folder.folder / ".new-abc" / "key").write_text("half")
    (folder.folder / ".mobius-tmp-xyz").write_text("half")
    folder.remove_leftovers(expected)
    assert sorted(os.listdir(folder.folder)) == [
        "id_ed25519",
        "id_ed25519.pub",
        "known_hosts",
        "lab.json",
        "lab1_host_ed25519",
        "lab1_host_ed25519.pub",
    ]
