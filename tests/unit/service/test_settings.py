# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings: every value is checked, unknown names are refused, defaults are safe."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobius.errors import ExitCode, MobiusError
from mobius.service.settings import ServiceSettings

RELEASE = "1.2.0-0123456789ab"


def test_the_defaults_are_those_of_development() -> None:
    settings = ServiceSettings.from_environment({"HOME": "/root"})
    assert (settings.environment, settings.address) == ("development", ("127.0.0.1", 8080))
    assert (settings.state_file, settings.client_address) == (None, "connection")
    assert settings.threads >= 2


def test_an_instance_as_its_unit_starts_it() -> None:
    settings = ServiceSettings.from_environment(
        {
            "MOBIUS_ENVIRONMENT": "production",
            "MOBIUS_RELEASE_ID": RELEASE,
            "MOBIUS_ADDRESS": "127.0.0.1:18080",
            "HOST": "127.0.0.1",
            "PORT": "18080",
            "MOBIUS_STATE_FILE": f"/run/mobius-dhash/states/{RELEASE}",
            "MOBIUS_CLIENT_ADDRESS": "forwarded",
            "MOBIUS_LOG_FILE": "/var/log/mobius-dhash/service.log",
            "MOBIUS_DRAIN_DEADLINE": "12.5",
            "MOBIUS_INDEX": "/var/lib/mobius-dhash/index/library.sqlite",
        }
    )
    assert settings.address == ("127.0.0.1", 18080)
    assert settings.state_file == Path("/run/mobius-dhash/states") / RELEASE
    assert settings.client_address == "forwarded"
    assert (settings.version, settings.drain_deadline) == ("1.2.0", 12.5)


def test_explicit_settings_override_derived_ones() -> None:
    settings = ServiceSettings.from_environment(
        {
            "MOBIUS_RELEASE_ID": RELEASE,
            "MOBIUS_VERSION": "9",
            "MOBIUS_ADDRESS": "[::1]:8081",
            "MOBIUS_THREADS": "7",
        }
    )
    assert (settings.version, settings.threads) == ("9", 7)
    assert settings.address == ("::1", 8081)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RELEASE_ID", "1.2.0"),
        ("RELEASE_ID", "1.2.0-0123456789ab\n"),
        ("RELEASE_ID", "../../etc-0123456789ab"),
        ("ADDRESS", "8080"),
        ("ADDRESS", "localhost:99999"),
        ("ADDRESS", "none"),
        ("STATE_FILE", "run"),
        ("DRAIN_DEADLINE", "nan"),
        ("DRAIN_DEADLINE", "-1"),
        ("MAX_IN_FLIGHT", "0"),
        ("MAX_BODY_BYTES", "1e6"),
        ("THREADS", "٣"),
        ("LOG_LEVEL", "LOUD"),
        ("SERVICE", "a b"),
        ("VERSION", "1\n2"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(MobiusError) as caught:
        ServiceSettings.from_environment({f"MOBIUS_{name}": value})
    assert caught.value.code is ExitCode.INPUT
    assert caught.value.reason.startswith(f"MOBIUS_{name} must be ")
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("name", ["ADRESS", "START", "LISTEN", "RUN_DIR", "ADMIN_SOCKET"])
def test_an_unknown_variable_is_refused(name: str) -> None:
    with pytest.raises(MobiusError, match=f"MOBIUS_{name} is not a setting"):
        ServiceSettings.from_environment({f"MOBIUS_{name}": "serving"})


@pytest.mark.parametrize("missing", ["RELEASE_ID", "ADDRESS", "LOG_FILE"])
def test_production_requires_release_address_and_log_file(missing: str) -> None:
    environment = {
        "MOBIUS_ENVIRONMENT": "production",
        "MOBIUS_RELEASE_ID": RELEASE,
        "MOBIUS_ADDRESS": "127.0.0.1:18080",
        "MOBIUS_LOG_FILE": "/var/log/x",
    }
    del environment[f"MOBIUS_{missing}"]
    with pytest.raises(MobiusError, match="must be set in production"):
        ServiceSettings.from_environment(environment)


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({"MOBIUS_ADDRESS": "127.0.0.1:18080"}, ("127.0.0.1", 18080)),
        ({"HOST": "::1", "PORT": "18080"}, ("::1", 18080)),
        ({"PORT": "18080"}, ("127.0.0.1", 18080)),
        ({"MOBIUS_ADDRESS": "127.0.0.1:1", "HOST": "h", "PORT": "2"}, ("127.0.0.1", 1)),
        ({"HOST": "laptop"}, ("127.0.0.1", 8080)),
    ],
)
def test_the_address_is_the_one_that_the_front_looks_at(environment: dict[str, str], address: tuple[str, int]) -> None:
    assert ServiceSettings.from_environment(environment).address == address


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HOST": "127.0.0.1", "PORT": "http"}, "HOST:PORT must be HOST:PORT, not '127.0.0.1:http'"),
        ({"MOBIUS_ADDRESS": "8080"}, "MOBIUS_ADDRESS must be HOST:PORT"),
        ({"PORT": "1", "MOBIUS_STATE_FILE": "x"}, "MOBIUS_STATE_FILE must be an absolute path"),
        ({"MOBIUS_CLIENT_ADDRESS": "any"}, "MOBIUS_CLIENT_ADDRESS must be connection or forwarded"),
    ],
)
def test_a_bad_address_or_state_file_is_refused(environment: dict[str, str], words: str) -> None:
    with pytest.raises(MobiusError) as caught:
        ServiceSettings.from_environment(environment)
    assert caught.value.reason.startswith(words)
