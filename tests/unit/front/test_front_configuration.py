"""The text of HAProxy's configuration. What HAProxy does with it is tested in tests/integration/front."""

from __future__ import annotations

import resource
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.haproxy_check import check_configuration
from ansible_collections.mobius.dhash.plugins.module_utils.host.front import configuration
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.configuration import (
    DRAIN,
    MAINT,
    READY,
    ServerState,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.settings import FrontSettings
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.slots import Slots

A, B = "1.0.0-0123456789ab", "1.1.0-0123456789ab"


@pytest.fixture
def slots(description: dict[str, Any]) -> Slots:
    settings = FrontSettings.parse(description)
    slots = Slots(settings.slots_path, settings.slot_ports)
    slots.assign(A)
    slots.assign(B)
    return slots


def section(text: str, head: str) -> list[str]:
    """The lines of one section of a configuration."""
    sections = [part.split("\n    ") for part in text.strip().split("\n\n")]
    return next(lines for name, *lines in sections if name == head)


def servers(description: dict[str, Any], slots: Slots, *arguments: Any, **keywords: Any) -> dict[str, str]:
    text = configuration.render(FrontSettings.parse(description), slots.read(), *arguments, **keywords)
    lines = (line.split(maxsplit=3) for line in section(text, "backend service") if line.startswith("server "))
    return {name: rest for _, name, _, rest in lines}


def test_each_slot_starts_in_its_state(description: dict[str, Any], slots: Slots) -> None:
    states = {1: ServerState(READY, 90), 2: ServerState(DRAIN, 10), 3: ServerState(MAINT)}
    assert servers(description, slots, states) == {
        "slot1": "weight 90",
        "slot2": "weight 0",
        "slot3": "weight 100 disabled",
        "slot4": "weight 100 disabled",
        "hold": "weight 1 disabled",
    }


def test_tcp_has_the_same_servers_and_nothing_of_http(description: dict[str, Any], slots: Slots) -> None:
    description = {
        **description,
        "kind": "tcp",
        "send_proxy": True,
        "accept_proxy": True,
        "affinity": "source",
        "allowed": ["10.0.0.0/8"],
    }
    assert servers(description, slots, {1: ServerState(READY, 90)})["slot1"] == "send-proxy-v2 weight 90"
    text = configuration.render(FrontSettings.parse(description), slots.read(), {})
    assert section(text, "defaults")[0] == "mode tcp"
    assert "tcp-request connection reject unless { src 10.0.0.0/8 }" in section(text, "frontend public")
    assert "frontend probes" not in text
    assert not any(line.startswith(("http", "option http")) for line in section(text, "backend service"))
    assert check_configuration(FrontSettings.parse(description), text) == ()


def test_a_pause_makes_hold_ready(description: dict[str, Any], slots: Slots) -> None:
    assert servers(description, slots, {1: ServerState(DRAIN)}, is_paused=True)["hold"] == "weight 1"


def test_a_state_of_no_slot_is_refused(description: dict[str, Any], slots: Slots) -> None:
    with pytest.raises(ValueError, match="no slot"):
        configuration.render(FrontSettings.parse(description), slots.read(), {5: ServerState(READY)})


@pytest.mark.parametrize("state", [("ready\n", 1), ("READY", 1), ("ready", 0), ("ready", 257)])
def test_an_unknown_state_is_refused(state: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match="is no state"):
        ServerState(*state)


def test_settings_reach_their_sections(description: dict[str, Any], slots: Slots) -> None:
    settings = FrontSettings.parse(
        {
            **description,
            "certificate": "/etc/shop/tls.pem",
            "send_proxy": True,
            "reuse_connections": True,
            "pause": 2.5,
            "timeouts": {"server": 0.5},
            "health_path": "/health%20z",
            "extra": {"global": ["nbthread 1"], "frontend": ["option httpclose"], "backend": ["balance leastconn"]},
        }
    )
    text = configuration.render(settings, slots.read(), {})
    assert "nbthread 1" in section(text, "global")
    assert "bind fd@3 ssl crt /etc/shop/tls.pem alpn h2,http/1.1" in section(text, "frontend public")
    assert "option httpclose" in section(text, "frontend public")
    assert "balance leastconn" in section(text, "backend service")
    assert "retries 3" in section(text, "backend service")
    assert "timeout server 500ms" in section(text, "defaults")
    assert "http-reuse safe" in section(text, "defaults")
    assert "http-request set-path /health%%20z if { var(txn.page) -m str health }" in section(text, "frontend internal")
    assert text.count("send-proxy-v2") == 2 * len(slots.read())


def test_http2_can_be_left_out(description: dict[str, Any], slots: Slots) -> None:
    settings = FrontSettings.parse({**description, "certificate": "/tls.pem", "http2": False})
    assert "alpn http/1.1" in configuration.render(settings, slots.read(), {})


def test_both_files_are_written_for_the_group_of_haproxy(
    description: dict[str, Any], slots: Slots, tmp_path: Path
) -> None:
    settings = FrontSettings.parse(description)
    owner = (tmp_path.stat().st_uid, tmp_path.stat().st_gid)
    configuration.write(settings, slots.read(), {1: ServerState(READY)}, owner=owner)
    assert settings.configuration_path.read_text() == configuration.render(
        settings, slots.read(), {1: ServerState(READY)}
    )
    assert settings.releases_path.read_text() == f"slot1 {A}\nslot2 {B}\nslot3 none\nslot4 none\n"
    assert stat.S_IMODE(settings.configuration_path.stat().st_mode) == 0o640


def test_a_configuration_that_cannot_be_written_leaves_the_last_one(description: dict[str, Any], slots: Slots) -> None:
    settings = FrontSettings.parse(description)
    configuration.write(settings, slots.read(), {1: ServerState(READY)})
    before = settings.configuration_path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # like a full disk, after half a kilobyte
    try:
        with pytest.raises(OSError, match="File too large"):
            configuration.write(settings, slots.read(), {2: ServerState(READY)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert settings.configuration_path.read_bytes() == before
    names = ["front-maintenance.html", "front-maintenance.map", "front-releases.map", "front.cfg", "slots.json"]
    assert sorted(path.name for path in settings.run_dir.iterdir()) == names


def test_without_haproxy_the_reason_is_one_sentence(description: dict[str, Any], slots: Slots) -> None:
    settings = FrontSettings.parse(description)
    text = configuration.render(settings, slots.read(), {})
    with pytest.raises(MobiusError) as raised:
        check_configuration(settings, text, haproxy="/nowhere/haproxy")
    assert raised.value.outcome == "missing_dependency"
    assert raised.value.reason == "HAProxy is not installed: there is no command /nowhere/haproxy."


def program(tmp_path: Path, script: str) -> str:
    """A program in the place of HAProxy."""
    path = tmp_path / "haproxy"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "outcome", "reason"),
    [
        ("kill -9 $$", "environment_failed", "killed by signal 9"),
        ("exec sleep 30", "timeout", "after 0.5 s"),
        ("exit 1", "invalid_input", "it ended with 1 and no message"),
        ("echo '[ALERT]    (1) : config : bad\033[31m thing.'; exit 1", "invalid_input", ": bad?[31m thing."),
    ],
)
def test_a_check_that_fails_has_a_reason(
    description: dict[str, Any], slots: Slots, tmp_path: Path, script: str, outcome: str, reason: str
) -> None:
    settings = FrontSettings.parse(description)
    text = configuration.render(settings, slots.read(), {})
    with pytest.raises(MobiusError) as raised:
        check_configuration(settings, text, haproxy=program(tmp_path, script), timeout=0.5)
    assert raised.value.outcome == outcome
    assert reason in raised.value.reason


def test_a_program_that_cannot_be_run_is_the_environment(
    description: dict[str, Any], slots: Slots, tmp_path: Path
) -> None:
    settings = FrontSettings.parse(description)
    with pytest.raises(MobiusError) as raised:
        check_configuration(settings, configuration.render(settings, slots.read(), {}), haproxy=str(tmp_path))
    assert raised.value.outcome == "environment_failed"
