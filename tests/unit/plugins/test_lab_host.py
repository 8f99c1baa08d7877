"""What the lab does with each host is decided from plain data: what was asked for, what is there, which ports are free."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.modules import lab_host
from ansible_collections.mobius.dhash.plugins.modules.lab_host import Action, Container, Ports, State, Wanted

LAB = "0000000a"
KEYS = {"client": "ssh-ed25519 AAAA", "host": "ssh-ed25519 BBBB"}
FIRST = lab_host.FIRST_PORT + 10 * lab_host.PORT_BLOCK


def wanted(*hosts: str, image: str = "localhost/mobius-lab:bookworm-1", inner: tuple[int, ...] = (22, 8080)) -> Wanted:
    return Wanted(LAB, hosts or ("lab1",), image, "bookworm", inner)


def there(name: str = "lab1", *, status: str = "running", ports: dict[int, int] | None = None) -> dict[str, Container]:
    """A container exactly as `wanted()` asks for it."""
    asked = wanted()
    ports = ports or {22: 21000, 8080: 21001}
    container = asked.container(name)
    return {container: Container(container, status, lab_host.spec_digest(asked, ports, KEYS), asked.image, ports)}


def plan(
    asked: Wanted,
    containers: dict[str, Container],
    *,
    recorded: dict[str, dict[int, int]] | None = None,
    busy: Collection[int] = (),
    foreign: Collection[int] = (),
    keys: dict[str, str] | None = None,
) -> list[Action]:
    ports = Ports(LAB, foreign, lambda port: port not in busy)
    return lab_host.plan(asked, containers, recorded or {}, dict.fromkeys(asked.hosts, keys or KEYS), ports)


def test_a_host_that_runs_as_asked_is_left_alone_on_its_own_ports() -> None:
    (action,) = plan(wanted(), there(), busy={21000, 21001})
    assert (action.verb, action.ports) == ("keep", {22: 21000, 8080: 21001})


def test_a_missing_host_is_made_on_ports_of_the_labs_own_block() -> None:
    (action,) = plan(wanted(), {})
    assert (action.verb, action.ports) == ("create", {22: FIRST, 8080: FIRST + 1})


def test_a_host_whose_container_is_gone_gets_its_recorded_ports_back() -> None:
    (action,) = plan(wanted(), {}, recorded={"lab1": {22: 23456, 8080: 23457}})
    assert (action.verb, action.ports) == ("create", {22: 23456, 8080: 23457})


def test_a_recorded_port_that_somebody_took_is_replaced_and_the_other_one_kept() -> None:
    (action,) = plan(wanted(), {}, recorded={"lab1": {22: 23456, 8080: 23457}}, busy={23456})
    assert action.ports == {22: FIRST, 8080: 23457}


@pytest.mark.parametrize(("status", "verb"), [("exited", "start"), ("stopped", "start"), ("paused", "resume")])
def test_a_host_that_was_stopped_is_started_and_not_made_anew(status: str, verb: str) -> None:
    (action,) = plan(wanted(), there(status=status))
    assert (action.verb, action.ports) == (verb, {22: 21000, 8080: 21001})


def test_a_stopped_host_whose_port_was_taken_is_made_anew_on_another() -> None:
    (action,) = plan(wanted(), there(status="exited"), busy={21001})
    assert (action.verb, action.ports) == ("recreate", {22: 21000, 8080: FIRST})


@pytest.mark.parametrize("status", ["created", "configured", "initialized", "removing", "unknown"])
def test_a_host_left_half_made_is_made_anew(status: str) -> None:
    (action,) = plan(wanted(), there(status=status))
    assert action.verb == "recreate"
    assert status in action.why


def test_another_image_makes_the_host_anew_on_its_own_ports() -> None:
    (action,) = plan(wanted(image="localhost/mobius-lab:trixie-2"), there(), busy={21000, 21001})
    assert (action.verb, action.ports) == ("recreate", {22: 21000, 8080: 21001})


@pytest.mark.parametrize("keys", [{**KEYS, "host": ""}, {**KEYS, "client": "ssh-ed25519 CCCC"}])
def test_a_host_that_was_made_with_other_keys_is_made_anew(keys: dict[str, str]) -> None:
    (action,) = plan(wanted(), there(), keys=keys)
    assert action.verb == "recreate"


def test_one_more_published_port_makes_the_host_anew_and_keeps_the_old_ports() -> None:
    (action,) = plan(wanted(inner=(22, 8080, 9100)), there())
    assert (action.verb, action.ports) == ("recreate", {22: 21000, 8080: 21001, 9100: FIRST})


def test_hosts_that_are_not_asked_for_any_more_are_removed_first() -> None:
    actions = plan(wanted("lab1"), {**there("lab1"), **there("lab2", ports={22: 21002, 8080: 21003})})
    assert [(action.name, action.verb) for action in actions] == [("lab2", "remove"), ("lab1", "keep")]


def test_a_new_host_gets_no_port_that_another_host_of_the_lab_keeps() -> None:
    actions = plan(wanted("lab1", "lab2"), there("lab2", ports={22: FIRST, 8080: FIRST + 1}))
    assert actions[0].ports == {22: FIRST + 2, 8080: FIRST + 3}


def test_a_new_host_gets_no_port_of_another_labs_host_which_may_be_stopped_now() -> None:
    (action,) = plan(wanted(), {}, foreign={FIRST, FIRST + 2})
    assert action.ports == {22: FIRST + 1, 8080: FIRST + 3}


def test_the_search_for_a_port_begins_again_at_the_lowest_one() -> None:
    last = lab_host.FIRST_PORT + lab_host.PORT_BLOCK * lab_host.PORT_BLOCKS - 1
    ports = Ports(f"{lab_host.PORT_BLOCKS - 1:08x}", (), lambda port: port in (last, lab_host.FIRST_PORT))
    assert (ports.pick(), ports.pick()) == (last, lab_host.FIRST_PORT)


def test_no_free_port_at_all_is_an_environment_failure() -> None:
    with pytest.raises(lab_host.MobiusError, match="No port") as caught:
        Ports(LAB, (), lambda _port: False).pick()
    assert caught.value.outcome == "environment_failed"


def test_a_port_that_a_program_listens_on_is_seen_as_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not lab_host.port_is_free(port)
    assert lab_host.port_is_free(port)


def test_two_checkouts_have_two_labs_and_a_link_to_one_has_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "link").symlink_to("one")
    one, two, link = (lab_host.lab_id(tmp_path / name) for name in ("one", "two", "link"))
    assert one != two
    assert link == one
    assert len(bytes.fromhex(one)) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hosts": []}, "one host at least"),
        ({"hosts": ["lab1", "lab1"]}, "twice"),
        ({"hosts": ["Lab;rm"]}, "no host name"),
        ({"extra_ports": [22]}, "differ"),
        ({"service_port": 70000}, "1 to 65535"),
        ({"image": None}, "image is missing"),
    ],
)
def test_a_lab_that_cannot_be_is_refused_by_name(tmp_path: Path, change: dict[str, object], said: str) -> None:
    params = {"state": "present", "hosts": ["lab1"], "image": "i", "debian": "bookworm", "service_port": 8080}
    with pytest.raises(lab_host.MobiusError, match=said) as caught:
        lab_host.checked({**params, "extra_ports": [], **change}, tmp_path)
    assert caught.value.outcome == "invalid_input"


# The folder .lab


def made_state(root: Path) -> tuple[State, Wanted, list[Action]]:
    state = State(root)
    state.make_folder()
    for key in (state.client_key, state.host_key("lab1")):
        state.make_key(key)
    asked = wanted()
    actions = plan(asked, {}, keys=state.keys("lab1"))
    state.write(state.files(asked, actions))
    return state, asked, actions


def test_keys_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    state, _, _ = made_state(tmp_path)
    before = state.client_key.read_bytes()
    state.make_key(state.client_key)
    assert state.client_key.read_bytes() == before
    assert state.client_key.stat().st_mode & 0o777 == 0o600
    assert state.folder.stat().st_mode & 0o777 == 0o700


def test_a_key_pair_that_a_kill_left_without_its_private_part_is_made_anew(tmp_path: Path) -> None:
    state, _, _ = made_state(tmp_path)
    public = state.public(state.client_key)
    state.client_key.unlink()
    assert state.keys("lab1")["client"] == ""
    state.make_key(state.client_key)
    assert state.public(state.client_key) not in ("", public)


def test_the_known_hosts_name_the_key_that_the_host_is_given(tmp_path: Path) -> None:
    state, _, (action,) = made_state(tmp_path)
    assert state.known_hosts.read_text() == f"[127.0.0.1]:{action.ports[22]} {state.public(state.host_key('lab1'))}\n"


def test_the_ports_of_a_lab_are_found_again_in_its_record(tmp_path: Path) -> None:
    state, _, (action,) = made_state(tmp_path)
    assert state.recorded_ports(LAB) == {"lab1": action.ports}
    assert not state.differs(state.files(wanted(), [action]))


def test_the_record_of_a_copied_checkout_does_not_count(tmp_path: Path) -> None:
    state, _, _ = made_state(tmp_path)
    assert state.recorded_ports("0000000b") == {}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": 1}', b"null"])
def test_a_damaged_record_is_written_anew(tmp_path: Path, damage: bytes) -> None:
    state, asked, actions = made_state(tmp_path)
    state.file.write_bytes(damage)
    assert state.recorded_ports(LAB) == {}
    files = state.files(asked, actions)
    assert state.differs(files)
    state.write(files)
    assert json.loads(state.file.read_bytes())["hosts"][0]["ssh_port"] == actions[0].ports[22]


def test_what_a_killed_run_left_in_the_folder_goes_and_so_do_keys_of_removed_hosts(tmp_path: Path) -> None:
    state, asked, _ = made_state(tmp_path)
    state.make_key(state.host_key("lab9"))
    (state.folder / ".new-abc").mkdir()
    (state.folder / ".new-abc" / "key").write_text("half")
    (state.folder / ".mobius-tmp-xyz").write_text("half")
    state.tidy(asked)
    assert sorted(os.listdir(state.folder)) == [
        "id_ed25519",
        "id_ed25519.pub",
        "known_hosts",
        "lab.json",
        "lab1_host_ed25519",
        "lab1_host_ed25519.pub",
    ]
