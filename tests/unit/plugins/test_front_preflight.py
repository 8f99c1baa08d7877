"""What keeps a host from running a front, each with one sentence. HAProxy and apt are small scripts, the sockets are real."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.front_preflight import FrontPreflight
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.settings import FrontSettings
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import Systemd, Unit


class NoUnits(Systemd):
    def units(self, *patterns: str) -> dict[str, Unit]:
        return {}


@pytest.fixture
def preflight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FrontPreflight]:
    """A host with these outputs of HAProxy and apt; None: there is no such command."""

    def make(haproxy: str | None = "HAProxy version 2.6.12-1+deb12u4", apt: str | None = None, **settings: Any) -> Any:
        commands = tmp_path / "bin"
        commands.mkdir()
        for name, output in (("haproxy", haproxy), ("apt-cache", apt)):
            if output is not None:
                (commands / name).write_text(f"#!/bin/sh\necho '{output}'\n")
                (commands / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(commands))
        values = {"service": "shop", "run_dir": "/run/shop", "health_path": "/healthz", "port": free_port()}
        values |= {"first_port": 18600, "internal_port": 18604, **settings}
        (tmp_path / "mobius-host").mkdir()
        return FrontPreflight(FrontSettings.parse(values), tmp_path / "mobius-host", systemd=NoUnits())

    return make


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::"])
def taken_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port on which another process listens."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as listener:
        yield listener.getsockname()[1]


def refusal(preflight: FrontPreflight) -> MobiusError:
    with pytest.raises(MobiusError) as caught:
        preflight.require()
    assert "Nothing was changed." in caught.value.reason
    return caught.value


@pytest.mark.parametrize("version", ["2.3.9", "1.8.30-1", "of its own"])
def test_a_haproxy_that_is_too_old_is_refused(preflight: Callable[..., FrontPreflight], version: str) -> None:
    failure = refusal(preflight(f"HAProxy version {version} 2020/01/01"))
    assert failure.outcome == "missing_dependency"
    assert "too old for the front of shop: 2.4 or newer is needed" in failure.reason


def test_a_missing_haproxy_is_one_that_apt_can_install(preflight: Callable[..., FrontPreflight]) -> None:
    assert preflight(None, "haproxy:\n  Candidate: 2.6.12-1+deb12u4").require() == (None, ())


@pytest.mark.parametrize("apt", [None, "", "haproxy:\n  Candidate: (none)"])
def test_a_missing_haproxy_that_apt_does_not_have_is_refused(
    preflight: Callable[..., FrontPreflight], apt: str | None
) -> None:
    failure = refusal(preflight(None, apt))
    assert (failure.outcome, failure.reason.partition(",")[0]) == ("missing_dependency", "HAProxy is not installed")


def test_one_that_apt_would_install_is_refused_when_it_is_too_old(preflight: Callable[..., FrontPreflight]) -> None:
    assert refusal(preflight(None, "haproxy:\n  Candidate: 1:1.8.19")).outcome == "missing_dependency"


@pytest.mark.parametrize("name", ["port", "internal_port", "redirect_port"])
def test_a_port_on_which_another_process_listens_is_refused(
    preflight: Callable[..., FrontPreflight], taken_port: int, name: str
) -> None:
    failure = refusal(preflight(**{name: taken_port, "certificate": "/etc/shop/tls.pem"}))
    assert failure.outcome == "environment_failed"
    variable = "host_port" if name == "port" else f"host_front_{name}"
    assert failure.reason.startswith(f"The port {taken_port} ({variable}) is taken by ")


def test_an_address_of_its_own_is_not_taken_by_a_listener_on_another(
    preflight: Callable[..., FrontPreflight],
) -> None:
    with socket.create_server(("127.0.0.2", 0)) as listener:
        assert preflight(internal_port=listener.getsockname()[1]).require()[0] == "2.6.12-1+deb12u4"


def test_a_port_of_another_service_is_refused_although_it_does_not_run(
    preflight: Callable[..., FrontPreflight], tmp_path: Path
) -> None:
    made = preflight()
    front = {"port": 8080, "first_port": 18603, "internal_port": 18700, "redirect_port": 0}
    (tmp_path / "mobius-host/gallery.json").write_text(json.dumps({"front": front}))
    (tmp_path / "mobius-host/old.json").write_text("{}")
    failure = refusal(made)
    assert failure.reason.startswith("The port 18603 of shop (host_front_first_port) is one of the service gallery")


def test_the_port_where_another_service_redirects_is_refused(
    preflight: Callable[..., FrontPreflight], tmp_path: Path
) -> None:
    made = preflight(redirect_port=18703, certificate="/etc/shop/tls.pem")
    front = {"port": 8080, "first_port": 18710, "internal_port": 18700, "redirect_port": 18703}
    (tmp_path / "mobius-host/gallery.json").write_text(json.dumps({"front": front}))
    assert "The port 18703 of shop (host_front_redirect_port)" in refusal(made).reason


def test_a_certificate_that_cannot_be_used_is_refused(preflight: Callable[..., FrontPreflight]) -> None:
    failure = refusal(preflight(certificate="/nowhere/tls.pem"))
    assert failure.outcome == "invalid_input"
    assert failure.reason == "The certificate /nowhere/tls.pem does not exist. Nothing was changed."
