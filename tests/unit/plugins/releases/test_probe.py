"""Probes, against instances that answer rightly, wrongly and not at all."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probes import (
    Mismatch,
    describe_difference,
    matches,
)

RELEASE = "1.2.0-0123456789ab"
HASH = {"name": "three bytes", "method": "POST", "path": "/v1/hash", "body_base64": base64.b64encode(b"abc").decode()}
GOOD = {**HASH, "json": {"dhash": f"{3:032x}", "more": {"a": [1]}}}


def test_right_answers_are_counted_and_nothing_changes(host: Any) -> None:
    host.start(RELEASE)
    result = host.run("probe", release=RELEASE, probes=[GOOD, {"name": "none", "path": "/nothing", "status": 404}])
    assert (result["probes"], result["changed"], result.get("failed")) == (2, False, None)


def test_the_first_wrong_response_is_named_with_the_expected_and_the_actual_one(host: Any) -> None:
    host.start(RELEASE, "hashing_wrongly")
    probes = [{"name": "health", "path": "/health"}, GOOD, {"name": "never sent", "path": "/nothing"}]
    result = host.run("probe", release=RELEASE, probes=probes)
    assert result["failed"] and result["mobius_failure"]["outcome"] == "golden_mismatch"
    assert result["mobius_failure"]["code"] == 2
    assert result["probes"] == 1
    assert result["mismatch"] == {
        "name": "three bytes",
        "wanted": {"dhash": f"{3:032x}", "more": {"a": [1]}},
        "got": {"dhash": "f" * 32, "more": None},
    }
    assert "'three bytes'" in result["msg"] and "f" * 32 in result["msg"]


def test_another_status_is_a_wrong_answer(host: Any) -> None:
    host.start(RELEASE, "refusing_to_hash")
    assert "status is 503, expected 200" in host.fails("probe", "golden_mismatch", release=RELEASE, probes=[HASH])


def test_an_answer_that_is_no_json_is_a_wrong_answer(host: Any) -> None:
    host.start(RELEASE, "no_json")
    assert '"OK"' in host.fails("probe", "golden_mismatch", release=RELEASE, probes=[GOOD])


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["hanging", "dripping"])
def test_no_answer_in_time_is_not_ready(host: Any, behaviour: str) -> None:
    host.start(RELEASE, behaviour)
    result = host.fails("probe", "instance_not_ready", release=RELEASE, probes=[GOOD], timeout=0.5)
    assert "within 0.5 s" in result


def test_an_answer_that_breaks_off_is_a_failed_instance(host: Any) -> None:
    host.start(RELEASE, "breaking_off_hashes")
    host.fails("probe", "instance_failed", release=RELEASE, probes=[GOOD])


def test_an_instance_that_does_not_run_is_a_failure_but_unknown_in_check_mode(host: Any) -> None:
    host.fails("probe", "instance_failed", release=RELEASE, probes=[GOOD])
    result = host.run("probe", check=True, release=RELEASE, probes=[GOOD])
    assert (result["predicted"], result["changed"], result["probes"]) == ("unknown", False, 0)


def test_check_mode_asks_an_instance_that_runs(host: Any) -> None:
    host.start(RELEASE, "hashing_wrongly")
    host.fails("probe", "golden_mismatch", check=True, release=RELEASE, probes=[GOOD])


@pytest.mark.parametrize(
    ("wanted", "got", "is_match"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"b": 2}, False),
        ({"a": None}, {}, False),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, True),
        ({"a": {"b": 1}}, {"a": 1}, False),
        ([1, 2], [1, 2], True),
        ([1], [1, 2], False),
        ([{"a": 1}], [{"a": 1, "b": 2}], True),
        (1, 1.0, True),
        (1, True, False),
        (False, 0, False),
        ("1", 1, False),
        (None, None, True),
    ],
)
def test_what_counts_as_the_expected_response(wanted: Any, got: Any, is_match: bool) -> None:
    assert matches(wanted, got) is is_match


@pytest.mark.parametrize(
    ("expected", "actual", "sentence"),
    [
        (
            {"dhash": "00183c7e7e3c1800"},
            {"dhash": "80183c7e7ebc2bc1"},
            "9 of 64 bits of dhash differ, expected 00183c7e7e3c1800, actual 80183c7e7ebc2bc1",
        ),
        ({"order": 2}, {"order": 1}, "order is 1, expected 2"),
        ({"order": 2}, {"order": None}, "order is missing, expected 2"),
        ({"size": {"width": 2, "height": 3}}, {"size": {"width": 9, "height": 3}}, "size.width is 9, expected 2"),
        ({"a": "0" * 16}, {"a": "0" * 17}, f'a is "{"0" * 17}", expected "{"0" * 16}"'),
        ({"a": "no digest at all"}, {"a": "none"}, 'a is "none", expected "no digest at all"'),
        ({"status": 200}, {"status": 503, "body": ""}, "status is 503, expected 200"),
        ({"status": 200}, {"status": 503, "body": "busy"}, "status is 503, expected 200, the body begins with busy"),
        ({"a": 1}, "<html>", 'the response is "<html>", expected {"a": 1}'),
        ({"ok": True}, {"ok": 1}, "ok is 1, expected true"),
    ],
)
def test_a_mismatch_is_described_by_the_values_that_differ(expected: Any, actual: Any, sentence: str) -> None:
    assert describe_difference(expected, actual) == sentence
    assert Mismatch("p", expected, actual).sentence() == f"The probe 'p' failed: {sentence}."
