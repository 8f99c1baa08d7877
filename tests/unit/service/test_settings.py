# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings: what is given is checked, what is unknown is refused, what is missing has a default that is safe."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobius.errors import ExitCode, MobiusError
from mobius.service.settings import Settings

RELEASE = "1.2.0-0123456789ab"


def test_nothing_given_is_development() -> None:
    settings = Settings.from_environment({"HOME": "/root"})
    assert (settings.environment, settings.start, settings.listen) == ("development", "serving", "systemd")
    assert settings.admin_socket is None
    assert settings.threads >= 2


def test_an_instance_as_its_unit_starts_it() -> None:
    settings = Settings.from_environment(
        {
            "MOBIUS_ENVIRONMENT": "production",
            "MOBIUS_RELEASE_ID": RELEASE,
            "MOBIUS_RUN_DIR": "/run/mobius-dhash",
            "MOBIUS_LOG_FILE": "/var/log/mobius-dhash/service.log",
            "MOBIUS_DRAIN_DEADLINE": "12.5",
            "MOBIUS_INDEX": "/var/lib/mobius-dhash/index/library.sqlite",
        }
    )
    assert settings.admin_socket == Path("/run/mobius-dhash") / RELEASE / "admin.sock"
    assert (settings.version, settings.start, settings.drain_deadline) == ("1.2.0", "standby", 12.5)


def test_what_is_given_wins() -> None:
    settings = Settings.from_environment(
        {
            "MOBIUS_RELEASE_ID": RELEASE,
            "MOBIUS_VERSION": "9",
            "MOBIUS_RUN_DIR": "/run/x",
            "MOBIUS_ADMIN_SOCKET": "/tmp/a.sock",
            "MOBIUS_START": "standby",
            "MOBIUS_LISTEN": "[::1]:8080",
            "MOBIUS_THREADS": "7",
        }
    )
    assert settings.admin_socket == Path("/tmp/a.sock")
    assert (settings.version, settings.start, settings.threads) == ("9", "standby", 7)
    assert settings.listen == ("::1", 8080)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RELEASE_ID", "1.2.0"),
        ("RELEASE_ID", "1.2.0-0123456789ab\n"),
        ("RELEASE_ID", "../../etc-0123456789ab"),
        ("START", ""),
        ("LISTEN", "8080"),
        ("LISTEN", "localhost:99999"),
        ("RUN_DIR", "run"),
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
        Settings.from_environment({f"MOBIUS_{name}": value})
    assert caught.value.code is ExitCode.INPUT
    assert caught.value.reason.startswith(f"MOBIUS_{name} must be ")
    assert "\n" not in caught.value.reason


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(MobiusError, match="MOBIUS_STRAT is no setting"):
        Settings.from_environment({"MOBIUS_STRAT": "serving"})


@pytest.mark.parametrize("missing", ["RELEASE_ID", "RUN_DIR", "LOG_FILE"])
def test_production_needs_to_know_who_and_where_it_is(missing: str) -> None:
    given = {
        "MOBIUS_ENVIRONMENT": "production",
        "MOBIUS_RELEASE_ID": RELEASE,
        "MOBIUS_RUN_DIR": "/run/x",
        "MOBIUS_LOG_FILE": "/var/log/x",
    }
    del given[f"MOBIUS_{missing}"]
    with pytest.raises(MobiusError, match="must be set in production"):
        Settings.from_environment(given)
