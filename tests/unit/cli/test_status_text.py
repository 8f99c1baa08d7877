# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `mobius status` shows and ends with, from what real hosts have answered."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

import pytest

from mobius.cli.render.outcome import headline
from mobius.cli.render.status import release_lines
from mobius.cli.render.text import TextStyle
from mobius.control.run.account import RunAccount
from mobius.control.run.fleet_state import fleet_ending
from tests.recorded_runs.replay import replay

NOW = datetime(2026, 1, 31, 23, 5, 6, tzinfo=UTC)


def shown(facts: dict) -> str:
    return "\n".join(release_lines("lab1", facts, TextStyle(10_000), NOW))


@pytest.fixture
def facts() -> dict[str, dict]:
    """The answers of three hosts that serve 1.4.0, for a test to change."""
    return copy.deepcopy(replay("status").results)


def ended(facts: dict[str, dict]) -> RunAccount:
    return RunAccount("status", fleet_ending(replay("status").ending, facts))


def test_a_host_shows_what_serves_since_when_where_a_rollback_goes_and_the_watch(facts):
    text = shown(facts["lab1"])
    assert text.splitlines()[0].startswith("lab1  serves 1.4.0-") and " since 2026-01-31 23:0" in text
    assert "previous  1.3.0-" in text and "`mobius rollback` goes there" in text
    assert "is watched for another 3 min" in text
    assert "health    it answers its health path" in text


def test_a_host_that_is_not_provisioned_is_called_so_and_is_no_success():
    summary = replay("status_not_provisioned")
    assert shown(summary.results["lab1"]) == "lab1  not provisioned"
    end = fleet_ending(summary.ending, summary.results)
    assert (end.outcome, int(end.code), len(end.failures)) == ("not_provisioned", 3, 3)


def test_hosts_that_are_as_they_should_be_are_a_success(facts):
    account = ended(facts)
    assert (account.ending.outcome, headline(account)) == ("success", "1.4.0 serves on all 3 hosts")


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"provisioned": False}, "not_provisioned"),
        ({"confirmed": None}, "nothing_serves"),
        ({"serving": []}, "nothing_serves"),
        ({"serving": ["1.3.0-656e2ffb80c2"]}, "host_inconsistent"),
        ({"problems": [{"problem": "current is missing.", "heal": "Run `mobius-host repair`."}]}, "host_inconsistent"),
        ({"pending": {"release": "1.5.0-0123456789ab", "stage": "canary", "remaining": 32.0}}, "locked"),
        ({"at_work": True}, "locked"),
        ({"confirmed": "1.3.0-656e2ffb80c2", "serving": ["1.3.0-656e2ffb80c2"]}, "diverged"),
    ],
)
def test_one_host_that_is_not_as_it_should_be_decides_and_is_named(facts, change, outcome):
    facts["lab2"].update(change)
    account = ended(facts)
    assert account.ending.outcome == outcome and account.ending.code != 0
    assert [failure.host for failure in account.ending.failures] == ["lab2"]
    assert "the hosts are not as they should be" in headline(account)


def test_hosts_may_differ_in_their_configuration(facts):
    own = {
        host: {
            **fact,
            "confirmed": f"{fact['confirmed']}+{number:08x}",
            "serving": [f"{fact['confirmed']}+{number:08x}"],
        }
        for number, (host, fact) in enumerate(facts.items())
    }
    assert ended(own).ending.outcome == "success"


def test_what_is_under_way_or_wrong_has_a_line(facts):
    host = facts["lab1"]
    host["pending"] = {"release": "1.5.0-0123456789ab", "stage": "canary", "remaining": 32.0}
    host["problems"] = [{"problem": "current is missing.", "heal": "Run `mobius-host repair`."}]
    host["maintenance"] = {"since": "2026-01-31T23:00:00Z", "actor": "kim", "reason": "moving", "run": None}
    text = shown(host)
    assert "pending   1.5.0-0123456789ab is provisional (stage canary); reverted in 32 s" in text
    assert "problem   current is missing. Run `mobius-host repair`." in text
    assert "closed    clients get 503 since 2026-01-31T23:00:00Z, by kim: moving" in text


def test_a_host_without_an_earlier_release_has_nothing_to_roll_back_to(facts):
    facts["lab1"]["previous"] = None
    assert "previous  none: there is nothing to roll back to" in shown(facts["lab1"])
