# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every ending says, made from runs that were recorded on real hosts."""

from __future__ import annotations

import io
import json
import re

import pytest

from mobius import cli
from mobius.cli.render.outcome import ending_dict, headline, outcome_lines
from mobius.cli.render.text import TextStyle, duration, host_list
from mobius.control.run.account import RunAccount, release_labels
from mobius.control.run.outcome import Observer
from mobius.errors import MobiusError
from tests.recorded_runs.replay import NAMES, recorded_outcome, replay
from tests.recorded_runs.snapshots import SNAPSHOTS, WIDTHS, snapshot

HEADLINES = {
    "first_release": "release 1.3.0 done: 1.3.0 serves on all 3 hosts",
    "release_checked": "release 1.4.0 checked: 1.3.0 still serves on all 3 hosts; nothing was changed",
    "release": "release 1.4.0 done: 1.4.0 serves on all 3 hosts",
    "release_again": "release 1.4.0 done: 1.4.0 serves on all 3 hosts",
    "golden_probe": "release 1.5.0 refused: 1.4.0 still serves on all 3 hosts",
    "gate": "release 1.5.1 refused: 1.4.0 still serves on all 3 hosts",
    "instance_failed": "release 1.5.2 refused: 1.4.0 still serves on all 3 hosts",
    "locked": "release refused: 1.4.0 still serves on all 3 hosts",
    "outside_window": "release refused: 1.4.0 still serves on all 3 hosts",
    "interrupted": "release 1.6.0 stopped: 1.6.0 is provisional on lab1; 1.4.0 still serves on lab2, lab3",
    "host_lost": "release 1.6.0 failed: 1.3.0 still serves on lab1, lab3; lab2 is unreachable",
    "host_unreachable": "release failed: 1.3.0 still serves on lab1, lab2; lab3 is unreachable",
    "rollback_with_data": "rollback to 1.3.0 done: 1.3.0 serves on all 3 hosts",
    "rollback": "rollback to 1.3.0 done: 1.3.0 serves on all 3 hosts",
    "nothing_to_roll_back": "rollback refused: nothing serves on any host",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_still_has_its_outcome(name):
    assert replay(name).ending.outcome == recorded_outcome(name)


@pytest.mark.parametrize("name", HEADLINES)
def test_the_first_line_says_what_serves_where(name):
    assert headline(replay(name).account) == HEADLINES[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [60, 66, 80, 100, 120])
def test_lines_are_wrapped_between_words_and_lose_none(name, width):
    lines = outcome_lines(replay(name).account, TextStyle(width))
    assert all(len(line) <= width or " " not in line.strip() for line in lines)
    whole = outcome_lines(replay(name).account, TextStyle(10_000))
    assert " ".join(lines).split() == " ".join(whole).split()


@pytest.mark.parametrize("name", NAMES)
def test_colours_add_no_meaning_that_words_do_not_have(name):
    account = replay(name).account
    coloured = "\n".join(outcome_lines(account, TextStyle(80, colours=True)))
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == "\n".join(outcome_lines(account, TextStyle(80)))


@pytest.mark.parametrize("name", NAMES)
def test_programs_get_the_same_facts(name):
    account = replay(name).account
    fields = json.loads(json.dumps(ending_dict(account)))
    text = " ".join("\n".join(outcome_lines(account, TextStyle(10_000))).split())
    assert fields["headline"] in text and f"exit {fields['exit_code']}" in text and fields["run"] in text
    if fields["exit_code"]:
        assert fields["do_next"] in text and fields["outcome"] in text
        assert fields["team"] in text or (fields["outcome"], fields["team"]) == ("interrupted", "nobody")
        assert fields["why"] and fields["reason"]
    for host, facts in fields["hosts"].items():
        assert set(facts) == {"fate", "serves", "before", "pending"}, host


def test_the_reason_of_a_golden_probe_counts_bits_and_is_shown_once():
    account = replay("golden_probe").account
    (why,) = account.why
    assert "9 of 64 bits of dhash differ" in why.reason and why.hosts == ("lab1", "lab2", "lab3")
    assert "{" not in why.reason
    assert "\n".join(outcome_lines(account)).count("of 64 bits") == 1


def test_a_gate_that_failed_on_one_host_names_that_host_and_its_reason_only():
    account = replay("gate").account
    (why,) = account.why
    assert why.hosts == ("lab1",)
    fates = {item.host: item.fate.value for item in account.ending.hosts}
    assert fates == {"lab1": "reverted", "lab2": "kept", "lab3": "kept"}


def test_an_interrupted_run_says_which_hosts_revert_by_themselves():
    hosts = ending_dict(replay("interrupted").account)["hosts"]
    assert hosts["lab1"]["fate"] == "provisional" and hosts["lab1"]["pending"].startswith("1.6.0-")
    text = " ".join("\n".join(outcome_lines(replay("interrupted").account)).split())
    assert "lab1 provisional: reverts 1.6.0 to 1.4.0 by itself" in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_text_of_a_recorded_run_is_the_one_that_was_reviewed(name, width):
    """`python -m tests.recorded_runs.snapshots` renews them: the difference is what a reviewer reads."""
    assert snapshot(name, width) == (SNAPSHOTS / f"{name}.{width}.txt").read_text(encoding="utf-8")


def test_there_is_no_snapshot_without_its_run():
    assert {path.name.split(".")[0] for path in SNAPSHOTS.glob("*.txt")} == set(NAMES)


# refusals before a run


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        (["relase"], "invalid_input"),
        (["release", "--no-such-option"], "invalid_input"),
        (["release", "--bundle", "/nowhere/shop-1.0.0.tar.gz"], "bundle_invalid"),
        (["promote"], "invalid_input"),
        (["promote", "--release", "yesterday"], "invalid_input"),
        (["history", "list", "--dir", "/nowhere"], "invalid_input"),
        (["status", "-i", "/nowhere"], "unknown_inventory"),
        (["plan", "nothing"], "invalid_input"),
        (["apply", "/nowhere.plan.json"], "plan_invalid"),
    ],
)
@pytest.mark.parametrize("form", [("--format", "json"), ("--format=json",)])
def test_a_refusal_before_a_run_has_the_same_form_and_the_same_fields(capsys, arguments, outcome, form):
    assert cli.run([*arguments, *form]) == 1
    out, err = capsys.readouterr()
    fields = json.loads(out)
    assert set(fields) >= set(ending_dict(replay("golden_probe").account))
    assert (fields["outcome"], fields["exit_code"], fields["team"]) == (outcome, 1, "DevOps")
    assert fields["reason"] and fields["do_next"] and fields["run"] == ""
    assert err.splitlines()[0].startswith(f"✗ {arguments[0]}")
    assert [line.split()[0] for line in err.splitlines() if re.match(r"  \S", line)] == ["why", "next", "took"]
    assert cli.run(arguments) == 1
    assert capsys.readouterr().out == ""


def test_one_host_has_its_name_and_no_count():
    observer = Observer()
    observer.ended("web1", "mobius.dhash.rollback", {"left": "1.4.0-0123456789ab", "confirmed": "1.3.0-0123456789ab"})
    assert headline(RunAccount("rollback", observer.end({}, {}, ["web1"]))) == (
        "rollback to 1.3.0 done: 1.3.0 serves on web1"
    )


def test_two_builds_of_one_version_have_their_whole_names():
    one, other, third = "1.4.0-0123456789ab", "1.4.0-ba9876543210", "1.5.0-rc.1-0123456789ab"
    assert release_labels([one, other, third]) == {one: one, other: other, third: "1.5.0-rc.1"}
    assert release_labels([one]) == {one: "1.4.0"}


def test_of_many_hosts_the_first_ones_are_named_and_the_others_counted():
    hosts = [f"web{number:02}" for number in range(40)]
    assert host_list(hosts) == f"{', '.join(hosts[:8])} and 32 more"
    assert host_list(hosts, 40) == "all 40 hosts"
    assert host_list(hosts[:9]) == ", ".join(hosts[:9])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (41, "41 s"), (161, "2 min 41 s"), (3600, "1 h"), (86_400 + 60, "1 d")],
)
def test_a_duration_has_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(environment, colours):
    assert TextStyle.of(Terminal(), environment).colours is colours
    assert TextStyle.of(io.StringIO(), environment).colours is False


@pytest.mark.parametrize(("columns", "width"), [("20", 60), ("80", 80), ("200", 120)])
def test_the_width_is_the_terminals_within_limits(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert TextStyle.of(Terminal()).width == width
    assert TextStyle.of(io.StringIO()).width >= 10_000, "a log gets each fact in one line"


def test_a_host_does_not_steer_the_terminal():
    observer = Observer()
    failure = MobiusError("disk_full", "No space.\x1b[2J\a Really.").as_dict()
    observer.failed("web1", "Write", {"failed": True, "mobius_failure": failure})
    lines = outcome_lines(RunAccount("deploy", observer.end({"web1": 1}, {}, ["web1"])))
    assert not any(ord(sign) < 32 for line in lines for sign in line)
