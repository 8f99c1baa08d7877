"""The settings of a front: parsed with their defaults, and nothing that could end a line of HAProxy's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.settings import (
    MAINTENANCE_PAGE,
    FrontSettings,
    FrontTimeouts,
)


def refusal(value: Any) -> str:
    with pytest.raises(MobiusError) as raised:
        FrontSettings.parse(value)
    assert raised.value.outcome == "invalid_input"
    return raised.value.reason


def test_what_is_not_given_has_a_default(description: dict[str, Any]) -> None:
    settings = FrontSettings.parse(description)
    assert settings.address == "0.0.0.0"
    assert settings.metrics_path == "/metrics"
    assert settings.timeouts == FrontTimeouts()
    assert settings.certificate is None
    assert settings.warnings() == ()


def test_each_setting_is_read(description: dict[str, Any]) -> None:
    settings = FrontSettings.parse(
        {
            **description,
            "address": "::",
            "metrics_path": "/m",
            "max_connections": 10,
            "pause": 5,
            "body_limit": 1,
            "header_limit": 2048,
            "rate_limit": 100,
            "allowed": ["10.0.0.0/8", "2001:DB8::1"],
            "redirect_port": 80,
            "certificate": "/etc/shop/tls.pem",
            "http2": False,
            "reuse_connections": True,
            "send_proxy": True,
            "timeouts": {"server": 0.5},
            "extra": {"frontend": ["http-request deny if FALSE"]},
        }
    )
    assert settings.address == "::"
    assert settings.certificate == Path("/etc/shop/tls.pem")
    assert settings.allowed == ("10.0.0.0/8", "2001:db8::1/128")
    assert (settings.header_limit, settings.rate_limit, settings.redirect_port) == (2048, 100, 80)
    assert settings.timeouts == FrontTimeouts(server=0.5)
    assert settings.extra.frontend == ("http-request deny if FALSE",)
    assert not settings.http2
    assert settings.reuse_connections


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("body_limit", 1),
        ("header_limit", 2048),
        ("rate_limit", 1),
        ("redirect_port", 80),
        ("reuse_connections", True),
        ("access_log", "journal"),
    ],
)
def test_what_is_of_http_alone_cannot_be_set_for_tcp(description: dict[str, Any], name: str, value: Any) -> None:
    default = getattr(FrontSettings.parse(description), name)
    assert FrontSettings.parse({**description, "kind": "tcp", name: default}).kind == "tcp"
    assert refusal({**description, "kind": "tcp", name: value}) == (
        f"The front's {name} is of HTTP, and the service speaks TCP."
    )


def test_tcp_has_no_cookies(description: dict[str, Any]) -> None:
    assert FrontSettings.parse({**description, "kind": "tcp", "affinity": "source"}).affinity == "source"
    assert "affinity by a cookie" in refusal({**description, "kind": "tcp", "affinity": "cookie"})


def test_another_kind_is_refused(description: dict[str, Any]) -> None:
    assert refusal({**description, "kind": "udp"}) == "The front's kind is 'udp', not one of http, tcp, worker."


def test_an_empty_page_of_maintenance_is_the_plain_one(description: dict[str, Any]) -> None:
    assert FrontSettings.parse({**description, "maintenance_page": " \n"}).maintenance_page == MAINTENANCE_PAGE


def test_an_empty_certificate_is_none(description: dict[str, Any]) -> None:
    assert FrontSettings.parse({**description, "certificate": ""}).certificate is None


@pytest.mark.parametrize("name", ["service", "run_dir", "port", "first_port", "internal_port", "health_path"])
def test_a_missing_setting_is_named(description: dict[str, Any], name: str) -> None:
    del description[name]
    assert name in refusal(description)


def test_an_unknown_setting_is_named(description: dict[str, Any]) -> None:
    assert refusal({**description, "colour": "red"}) == "There is no setting of the front 'colour'."
    assert "'tunel'" in refusal({**description, "timeouts": {"tunel": 1}})
    assert "'defaults'" in refusal({**description, "extra": {"defaults": []}})


@pytest.mark.parametrize("value", [None, [], "front", 1])
def test_settings_that_are_no_object_are_refused(value: Any) -> None:
    assert refusal(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("service", "Shop"),
        ("service", None),
        ("run_dir", "run/shop"),
        ("run_dir", "/run/shop server evil"),
        ("run_dir", "/run/shop\n"),
        ("run_dir", "/run/" + "s" * 90),
        ("port", 0),
        ("port", True),
        ("port", "8000"),
        ("port", 65536),
        ("first_port", 80),
        ("first_port", 65533),
        ("internal_port", 9104),
        ("internal_port", 8000),
        ("port", 9101),
        ("health_path", "healthz"),
        ("health_path", "/healthz if TRUE"),
        ("health_path", "/healthz\nglobal"),
        ("health_path", "/%[path]"),
        ("health_path", '/"'),
        ("health_path", None),
        ("metrics_path", "/metrics\x00"),
        ("address", "localhost"),
        ("address", 3),
        ("certificate", "tls.pem"),
        ("certificate", "/tls.pem verify none"),
        ("max_connections", 0),
        ("pause", 0),
        ("pause", float("nan")),
        ("pause", float("inf")),
        ("pause", 3601),
        ("pause", True),
        ("body_limit", -1),
        ("body_limit", 1.5),
        ("header_limit", 100),
        ("header_limit", False),
        ("rate_limit", -1),
        ("allowed", "10.0.0.0/8"),
        ("allowed", ["10.0.0.1/8"]),
        ("allowed", ["any"]),
        ("allowed", [7]),
        ("allowed", ["10.0.0.0/8 }\nglobal"]),
        ("allowed", ["10.0.0.1"] * 201),
        ("redirect_port", 80),
        ("redirect_port", 8000),
        ("redirect_port", 9102),
        ("http2", "yes"),
        ("reuse_connections", 1),
        ("send_proxy", None),
        ("accept_proxy", "no"),
        ("affinity", "address"),
        ("affinity", True),
        ("affinity", ["cookie"]),
        ("access_log", "syslog"),
        ("access_log", False),
        ("access_log_bytes", 999_999),
        ("access_log_files", 0),
        ("maintenance_page", None),
        ("maintenance_page", "\0"),
        ("maintenance_page", "\ud800"),
        ("maintenance_page", "ü" * 4001),
        ("timeouts", {"server": 0}),
        ("timeouts", {"server": "10s"}),
        ("timeouts", {"client": -1}),
        ("timeouts", []),
        ("extra", {"global": "maxconn 1"}),
        ("extra", {"global": ["maxconn 1\nmaxconn 2"]}),
        ("extra", {"global": [""]}),
        ("extra", {"global": [1]}),
        ("extra", {"global": ["x" * 1001]}),
        ("extra", {"frontend": ["backend evil"]}),
        ("extra", {"backend": ["  listen\tevil"]}),
        ("extra", {"backend": [".if 0"]}),
        ("extra", {"backend": ["option\u2028redispatch"]}),
    ],
)
def test_an_invalid_setting_is_refused_in_one_sentence(description: dict[str, Any], name: str, value: Any) -> None:
    reason = refusal({**description, name: value})
    assert reason.isprintable()
    assert reason.endswith(".")


@pytest.mark.parametrize("port", [8000, 9102, 9100])
def test_a_redirect_has_a_port_of_its_own(description: dict[str, Any], port: int) -> None:
    assert "redirect_port" in refusal({**description, "certificate": "/tls.pem", "redirect_port": port})


def test_extra_lines_come_with_a_warning(description: dict[str, Any]) -> None:
    settings = FrontSettings.parse({**description, "extra": {"global": ["nbthread 1"], "backend": ["a", "b"]}})
    assert [warning.partition(":")[0] for warning in settings.warnings()] == [
        "HAProxy's section global has 1 extra line of your own",
        "HAProxy's section backend has 2 extra lines of your own",
    ]


def test_a_line_that_begins_like_a_section_is_no_section(description: dict[str, Any]) -> None:
    assert FrontSettings.parse({**description, "extra": {"backend": ["cached on"]}}).extra.backend == ("cached on",)
