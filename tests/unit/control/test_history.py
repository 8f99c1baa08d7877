# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is written stays provable: kills after any byte, forgeries of every kind, and who is named for them."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mobius.control.history import verifier as form
from mobius.control.history.query import read_runs
from mobius.control.history.recorder import decision_data
from mobius.control.history.writer import History, Holder, plain
from mobius.control.run.outcome import HostReport, decide
from mobius.errors import MobiusError

ME = Holder.of(os.getpid())
GONE = Holder(ME.machine, "an earlier boot", 1, 1)


EVIDENCE = {"samples": 240, "p95": {"old": 0.0101, "new": 0.0109}}


def decided(**result: object) -> dict:
    """The data of a decision on a host that passed."""
    noted = {"lab1": {"verdict": "pass", "evidence": EVIDENCE, **result}}
    decision = decide([HostReport(host, True, message) for host, message in noted.items()], check_mode=False)
    return decision_data({"service": "mobius-dhash", "release": "1.0.0-0123456789ab", "else": "no"}, decision, noted)


def write_runs(history: History, count: int = 3) -> list[dict]:
    """Some whole runs; gives the heads after each intent and each end, as a host keeps them."""
    heads = []
    for number in range(1, count + 1):
        run = f"run-{number}"
        heads.append({**history.open(run, ME, {"actor": "ada", "hosts": ["lab1"], "check": False}), "run": run})
        gate = {"verdict": "pass", "evidence": EVIDENCE}
        history.add(run, {"host": "lab1", "module": "mobius.dhash.gate", "fields": gate})
        history.decide(run, decided())
        history.close(run, "success", {"hosts": {"lab1": {"to_release": "1.0.0-0123456789ab"}}})
        heads.append({**history.head(), "run": run})
    return heads


@pytest.fixture(autouse=True)
def synced(monkeypatch) -> list[int]:
    """Counts the fsyncs instead of waiting for the disk thousands of times: a kill does not need them, a power cut does."""
    calls: list[int] = []
    monkeypatch.setattr("os.fsync", calls.append)
    return calls


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


def records(history: History) -> list[dict]:
    return [json.loads(line) for line in history.path.read_bytes().splitlines()]


def rewrite(history: History, changed: list[dict], *, rehash: bool = False, head: bool = False) -> None:
    """Put other records in place, as a forger would: with hashes, links and head made again when asked for."""
    previous = form.FIRST
    lines = []
    for number, record in enumerate(changed):
        if rehash:
            record = {**record, "seq": number, "prev": previous}
            record["hash"] = form.record_hash(record)
            previous = record["hash"]
        lines.append(form.canonical(record) + b"\n")
    history.path.write_bytes(b"".join(lines))
    if head:
        last = json.loads(lines[-1])
        chain = json.loads(lines[0])["data"]["chain"]
        (history.folder / form.HEAD_NAME).write_text(
            json.dumps({"chain": chain, "seq": last["seq"], "hash": last["hash"]})
        )


def first(history: History, **options: object) -> tuple[str, int | None]:
    verdict = form.verify(history.folder, **options)
    assert verdict.status == "damaged", verdict
    return verdict.problems[0].kind, verdict.problems[0].seq


def witnessed(heads: list[dict]) -> dict:
    return {"lab1": {"heads": heads, "journal": []}}


# --- Whole ------------------------------------------------------------------------------------------------------------


def test_a_history_that_no_host_has_seen_is_unwitnessed_and_never_whole(history):
    heads = write_runs(history)
    assert form.verify(history.folder).status == "unwitnessed"
    assert form.verify(history.folder, witnesses={"lab1": None}).status == "unwitnessed"
    assert form.verify(history.folder, witnesses={"lab1": {"heads": [], "journal": []}}).status == "unwitnessed"
    assert form.verify(history.folder, witnesses=witnessed(heads)).status == "whole"


def test_the_newest_records_that_no_host_has_witnessed_are_counted_and_never_whole(history):
    heads = write_runs(history)
    verdict = form.verify(
        history.folder, witnesses={**witnessed(heads[:-1]), "lab2": {"heads": heads[:2], "journal": []}}
    )
    assert (verdict.status, verdict.unwitnessed, verdict.as_dict()["unwitnessed"]) == ("unwitnessed", 3, 3)
    assert "3 records since record 9 (intent of run run-3, " in verdict.lines()[1]


def test_records_are_in_canonical_form_and_chained_to_the_first(history):
    write_runs(history)
    results = records(history)
    assert [record["event"] for record in results] == ["begin", *["intent", "result", "decision", "end"] * 3]
    assert results[0]["prev"] == "0" * 64
    assert all(after["prev"] == before["hash"] for before, after in itertools.pairwise(results))
    assert history.path.read_bytes() == b"".join(form.canonical(record) + b"\n" for record in results)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, 'é\u2028\x7f\x1f"\\/']}, '{"a":[true,null,"é\u2028\x7f\\u001f\\"\\\\/"],"b":1}'),
        (-0, "0"),
        (2**53 - 1, "9007199254740991"),
    ],
)
def test_the_canonical_form_is_rfc_8785s(value, text):
    assert form.canonical(value) == text.encode()


@pytest.mark.parametrize("value", [1.5, 2**53, {"é": 1}, {1: 1}, b"x", "\ud800"])
def test_a_value_that_a_record_cannot_hold_is_refused(value):
    with pytest.raises(form.NotCanonical):
        form.canonical(value)


def test_floats_and_what_is_no_unicode_become_text():
    assert form.canonical(plain({"p95": 12.5, "x": "\udcff", "y": 2**60, "é": (1,)}))
    assert plain(12.5) == "12.5"
    assert len(plain("x" * 5000)) == 300


# --- Writing ----------------------------------------------------------------------------------------------------------


def test_a_run_is_opened_once_by_all_its_workers_and_ended_once(history):
    head = history.open("run-1", ME, {})
    assert history.open("run-1", ME, {}) == head
    assert history.close("run-1", "success", {})
    assert not history.close("run-1", "timeout", {})
    assert [record["event"] for record in records(history)] == ["begin", "intent", "end"]


def test_a_record_and_then_its_head_are_on_the_disk_before_the_run_goes_on(history, synced):
    history.open("run-1", ME, {})
    synced.clear()
    history.add("run-1", {})
    assert len(synced) == 3  # the record, the head's file, the head's folder


def test_a_run_id_that_was_used_before_is_refused(history):
    history.open("run-1", ME, {})
    history.close("run-1", "success", {})
    for holder in (ME, GONE):
        with pytest.raises(MobiusError) as caught:
            history.open("run-1", holder, {})
        assert caught.value.outcome == "invalid_input"


def test_a_run_that_died_is_closed_as_interrupted_by_the_next_and_a_living_one_is_not(history):
    history.open("died", GONE, {})
    history.open("alive", ME, {})
    history.open("next", ME, {})
    ended = {record["run"]: record["data"] for record in records(history) if record["event"] == "end"}
    assert {run: (data["outcome"], data["closed_by"]) for run, data in ended.items()} == {
        "died": ("interrupted", "alive")
    }


def test_a_run_on_another_machine_is_left_open(history):
    history.open("elsewhere", Holder("another", "boot", 1, 1), {})
    history.open("next", ME, {})
    assert [record["event"] for record in records(history)] == ["begin", "intent", "intent"]


def test_an_intent_that_cannot_be_written_fails_with_its_outcome(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MobiusError) as caught:
        History(tmp_path / "file" / "history").open("run-1", ME, {})
    assert caught.value.outcome == "history_failed"


def test_a_full_disk_fails_the_intent_and_leaves_what_can_be_gone_on_with(history, monkeypatch):
    write_runs(history, 1)
    room = [50]
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: room.pop()])

    with monkeypatch.context() as patched:
        patched.setattr("mobius.control.history.writer.os.write", full)
        with pytest.raises(MobiusError) as caught:
            history.open("full", ME, {})
    assert caught.value.outcome == "disk_full"
    history.open("next", ME, {})
    assert form.verify(history.folder).status == "unwitnessed"
    assert [record["event"] for record in form.verify(history.folder).records][5:] == ["torn", "intent"]


def _open_one(folder: str, number: int) -> None:
    History(Path(folder)).open(f"run-{number}", Holder.of(os.getppid()), {})
    History(Path(folder)).close(f"run-{number}", "success", {})


@pytest.mark.slow
def test_runs_at_the_same_time_make_one_chain(history):
    workers = multiprocessing.get_context("spawn").Pool(3)
    with workers:
        workers.starmap(_open_one, [(str(history.folder), number) for number in range(12)])
    verdict = form.verify(history.folder)
    assert (verdict.status, len(verdict.records)) == ("unwitnessed", 25)


# --- Killed anywhere --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_kill_after_any_byte_of_a_record_is_closed_by_the_next_run(history, tmp_path):
    write_runs(history, 1)
    before, head = history.path.read_bytes(), (history.folder / form.HEAD_NAME).read_bytes()
    history.open("killed", GONE, {})
    after = history.path.read_bytes()
    for length in range(len(before), len(after) + 1):
        folder = tmp_path / f"cut-{length}"
        folder.mkdir()
        (folder / form.FILE_NAME).write_bytes(after[:length])
        (folder / form.HEAD_NAME).write_bytes(head)
        again = History(folder)
        again.open("next", ME, {})
        again.close("next", "success", {})
        verdict = form.verify(folder)
        assert verdict.status == "unwitnessed", (length, verdict.lines())
        events = [record["event"] for record in verdict.records][5:]
        if length == len(before):
            assert events == ["intent", "end"]
        elif length < len(after) - 1:
            assert events == ["torn", "intent", "end"], length
            assert after[:length] in (folder / form.FILE_NAME).read_bytes()  # nothing that was there is taken away
        else:
            assert events == ["intent", "end", "intent", "end"], length
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_kill_while_a_torn_line_is_being_closed_is_closed_as_well(history, tmp_path):
    write_runs(history, 1)
    head = (history.folder / form.HEAD_NAME).read_bytes()
    torn = history.path.read_bytes() + b'{"at":"2026'
    history.path.write_bytes(torn)
    history.open("next", ME, {})
    closed = history.path.read_bytes()
    end = closed.index(b"\n", len(torn) + 1) + 1
    for length in range(len(torn), end):
        folder = tmp_path / f"cut-{length}"
        folder.mkdir()
        (folder / form.FILE_NAME).write_bytes(closed[:length])
        (folder / form.HEAD_NAME).write_bytes(head)
        History(folder).open("next", ME, {})
        verdict = form.verify(folder)
        assert verdict.status == "unwitnessed", (length, verdict.lines())
        shutil.rmtree(folder)


def _record_like(history: History, **changes: object) -> bytes:
    """A last line like the one that was written last, with changes; None takes a field out."""
    last = {**json.loads(history.path.read_bytes().splitlines()[-1]), **changes}
    return form.canonical({name: value for name, value in last.items() if value is not None or name == "run"})


@pytest.mark.parametrize("end", [b"\n", b""], ids=["whole line", "without its end"])
@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in ("at", "event", "data", "prev", "hash")),
        {"data": ["no", "object"]},
        {"run": ["x"]},
        {},
    ],
    ids=lambda changes: "-".join(changes) or "only its number",
)
def test_a_record_that_lacks_its_fields_is_damage_and_no_crash(history, changes, end):
    write_runs(history, 1)
    line = _record_like(history, **changes) if changes else b'{"seq":5}'
    history.path.write_bytes(history.path.read_bytes() + line + end)
    before = history.path.read_bytes()
    attempts = [
        lambda: history.open("next", ME, {}),
        lambda: history.add("run-1", {}),
        lambda: history.close("run-1", "success", {}),
        lambda: history.name_successor("another", "why", "next"),
    ]
    for attempt in attempts:
        with pytest.raises(MobiusError) as caught:
            attempt()
        assert caught.value.outcome == "history_damaged"
    assert history.path.read_bytes() == before
    assert [run["run"] for run in read_runs(history.folder)] == ["run-1"]


@pytest.mark.parametrize("field", ["at", "event", "data"])
def test_an_open_run_whose_record_lacks_a_field_is_damage_and_no_crash(history, field):
    history.open("run-1", ME, {})
    record = json.loads(history.path.read_bytes().splitlines()[-1])
    del record[field]
    record["word"] = "intent"  # only a line with that word is read
    history.path.write_bytes(history.path.read_bytes() + form.canonical(record) + b"\n")
    with pytest.raises(MobiusError) as caught:
        history.open_holder("run-1")
    assert caught.value.outcome == "history_damaged"
    assert [run["run"] for run in read_runs(history.folder)] == ["run-1"]


# --- Forged -----------------------------------------------------------------------------------------------------------


def _forgeries(value: object) -> list[object]:
    """Every way to change one leaf of a value to another."""
    if isinstance(value, dict):
        return [{**value, key: other} for key, item in value.items() for other in _forgeries(item)] + [
            {key: item for key, item in value.items() if key != gone} for gone in value
        ]
    if isinstance(value, list):
        return [[*value[:n], other, *value[n + 1 :]] for n, item in enumerate(value) for other in _forgeries(item)]
    if isinstance(value, bool) or value is None:
        return ["forged"]
    return [value + 1] if isinstance(value, int) else [f"{value}x"]


@pytest.mark.slow
def test_each_changed_or_removed_field_of_each_record_is_caught_and_its_record_is_named(history):
    write_runs(history, 2)
    whole = records(history)
    tried = 0
    for seq, record in enumerate(whole):
        for forged in _forgeries(record):
            rewrite(history, [*whole[:seq], forged, *whole[seq + 1 :]])
            kind, named = first(history)
            tried += 1
            assert named == seq, (seq, forged, kind)
    assert tried > 100


@pytest.mark.slow
def test_each_changed_field_is_caught_when_its_hash_was_made_again(history):
    write_runs(history, 2)
    whole = records(history)
    for seq, record in enumerate(whole):
        for forged in _forgeries({key: value for key, value in record.items() if key not in ("hash", "seq")}):
            again = {**forged, "seq": seq}
            again["hash"] = form.record_hash(again)
            rewrite(history, [*whole[:seq], again, *whole[seq + 1 :]])
            assert first(history) == ("edited", seq), forged


def test_each_removed_record_is_caught_and_named(history):
    write_runs(history)
    whole = records(history)
    for seq in range(len(whole)):
        rewrite(history, [*whole[:seq], *whole[seq + 1 :]])
        kind = "cut_off" if seq == len(whole) - 1 else "deleted"
        assert first(history) == (kind, seq)


def test_each_pair_in_another_order_and_each_record_twice_is_caught_and_named(history):
    write_runs(history)
    whole = records(history)
    for seq in range(len(whole) - 1):
        rewrite(history, [*whole[:seq], whole[seq + 1], whole[seq], *whole[seq + 2 :]])
        assert first(history) == ("reordered", seq)
    for seq in range(len(whole)):
        rewrite(history, [*whole[: seq + 1], *whole[seq:]])
        assert first(history) == ("duplicated", seq)


@pytest.mark.slow
def test_a_cut_at_each_byte_of_the_last_record_is_caught(history):
    write_runs(history)
    content = history.path.read_bytes()
    last = content.rindex(b"\n", 0, len(content) - 1) + 1
    for length in range(last, len(content)):
        history.path.write_bytes(content[:length])
        assert first(history) == ("cut_off", 12), length
        with pytest.raises(MobiusError) as caught:  # and no run goes on as if nothing were missing
            history.open("next", ME, {})
        assert caught.value.outcome == "history_damaged"
        assert history.path.read_bytes() == content[:length]


def test_a_cut_tail_whose_head_was_made_again_is_caught_by_a_host(history):
    heads = write_runs(history)
    rewrite(history, records(history)[:-4], head=True)
    assert form.verify(history.folder).status == "unwitnessed"
    assert first(history, witnesses=witnessed(heads)) == ("cut_off", 9)


@pytest.mark.parametrize("seq", range(1, 10))
def test_a_whole_chain_that_was_rewritten_is_caught_by_a_host(history, seq):
    heads = write_runs(history)
    changed = records(history)
    changed[seq]["data"]["actor"] = "someone else"
    rewrite(history, changed, rehash=True, head=True)
    assert form.verify(history.folder).status == "unwitnessed"
    kind, named = first(history, witnesses=witnessed(heads))
    assert (kind, named) == ("edited", next(head["seq"] for head in heads if head["seq"] >= seq))


def test_a_rewritten_chain_that_a_later_run_went_on_with_is_still_caught(history):
    heads = write_runs(history)
    changed = records(history)
    changed[2]["data"]["host"] = "elsewhere"
    rewrite(history, changed, rehash=True, head=True)
    heads.append({**history.open("later", ME, {}), "run": "later"})
    assert first(history, witnesses=witnessed(heads)) == ("edited", 4)


def test_a_replaced_chain_is_caught_by_a_host_unless_both_are_known(history, tmp_path):
    heads = write_runs(history)
    other = History(tmp_path / "other")
    write_runs(other, 1)
    assert first(other, witnesses=witnessed(heads)) == ("never_written", 0)
    verdict = form.verify(other.folder, witnesses=witnessed(heads), others=[heads[0]["chain"]])
    assert not verdict.problems


def journal(*runs: str | None, at: str = "2099-01-01T00:00:00Z", actor: str = "ansible") -> list[str]:
    previous, lines = form.FIRST, []
    for run in runs:
        line = {"at": at, "event": "confirmed", "to": "1.0.0-0123456789ab", "run": run, "actor": actor}
        lines.append(json.dumps({**line, "prev_sha256": previous}, sort_keys=True))
        previous = hashlib.sha256(lines[-1].encode()).hexdigest()
    return lines


def test_a_switch_of_a_run_that_was_never_recorded_is_caught(history):
    heads = [{**head, "at": "2026-01-01"} for head in write_runs(history)]
    observed = {"lab1": {"heads": heads, "journal": journal("run-1", "run-2")}}
    assert form.verify(history.folder, witnesses=observed).status == "whole"
    for run in ("unheard-of", None):
        observed["lab1"]["journal"] = journal("run-1", run)
        assert first(history, witnesses=observed) == ("never_written", None)


def test_what_a_person_switched_at_the_console_and_what_was_before_the_history_is_no_run(history):
    heads = [{**head, "at": "2026-01-01"} for head in write_runs(history)]
    for lines in (journal(None, actor="root"), journal("old", at="2025-01-01T00:00:00Z")):
        assert form.verify(history.folder, witnesses={"lab1": {"heads": heads, "journal": lines}}).status == "whole"


def test_a_hosts_journal_that_was_edited_is_caught(history):
    heads = write_runs(history)
    lines = journal("run-1", "run-2")
    observed = {"lab1": {"heads": heads, "journal": [lines[0].replace("confirmed", "reverted"), lines[1]]}}
    assert first(history, witnesses=observed) == ("journal", None)


def test_a_result_without_an_intent_is_a_record_that_was_never_written(history):
    write_runs(history, 1)
    history.add("nobody", {"host": "lab1"})
    assert first(history) == ("never_written", 5)


# --- Signed -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def signers(tmp_path: Path) -> Path:
    for name in ("key", "outsider"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    public = (tmp_path / "key.pub").read_text().split()
    location = tmp_path / "allowed_signers"
    location.write_text(f'control@example.org namespaces="{form.NAMESPACE}" {public[0]} {public[1]}\n')
    return location


@pytest.mark.slow
def test_a_signed_head_names_its_signer_and_a_forged_one_is_caught(history, signers, tmp_path):
    signed = History(history.folder, tmp_path / "key")
    heads = write_runs(signed, 2)
    verdict = form.verify(history.folder, signers=signers)
    assert (verdict.problems, verdict.signed_by) == ([], "control@example.org")
    assert (verdict.status, verdict.unwitnessed) == ("unwitnessed", 0), "no host was read"
    verdict = form.verify(history.folder, signers=signers, witnesses=witnessed(heads[:-1]))
    assert (verdict.status, verdict.unwitnessed) == ("whole", 0)
    saved = (history.folder / form.HEAD_NAME).read_text()
    rewrite(signed, records(signed)[:-3], head=True)
    assert first(history, signers=signers)[0] == "signature"
    (history.folder / form.HEAD_NAME).write_text(
        json.dumps(
            {**json.loads((history.folder / form.HEAD_NAME).read_text()), "signature": json.loads(saved)["signature"]}
        )
    )
    assert first(history, signers=signers)[0] == "signature"
    History(history.folder, tmp_path / "outsider").add("run-1", {})
    assert "signature" in [problem.kind for problem in form.verify(history.folder, signers=signers).problems]


def test_a_key_that_cannot_sign_fails_the_intent(history, tmp_path):
    with pytest.raises(MobiusError) as caught:
        History(history.folder, tmp_path / "no-key").open("run-1", ME, {})
    assert caught.value.outcome == "history_failed"


# --- Decisions --------------------------------------------------------------------------------------------------------


def test_a_decision_names_what_it_rests_on_and_nothing_else(history):
    write_runs(history, 1)
    (decision,) = (record["data"] for record in records(history) if record["event"] == "decision")
    (gate,) = (record["data"] for record in records(history) if record["event"] == "result")
    digest = hashlib.sha256(form.canonical(gate["fields"]["evidence"])).hexdigest()
    assert decision == {
        "service": "mobius-dhash",
        "release": "1.0.0-0123456789ab",
        "decision": "confirm",
        "verdict": "pass",
        "mark_bad": False,
        "outcome": None,
        "hosts": {"lab1": {"verdict": "pass", "evidence_sha256": digest}},
        "evidence_sha256": hashlib.sha256(form.canonical({"lab1": digest})).hexdigest(),
    }


@pytest.mark.parametrize("evidence", [{"samples": 241}, {"p95": 0.5}])
def test_a_decision_on_other_evidence_than_the_gates_is_caught_though_everything_was_made_again(history, evidence):
    write_runs(history, 2)
    whole = records(history)
    location = next(number for number, record in enumerate(whole) if record["event"] == "result")
    data = {**whole[location]["data"], "fields": {"verdict": "pass", "evidence": evidence}}
    # what the gate has measured is written better, and all that follows from it
    forged = [{**record, "data": plain(data)} if number == location else record for number, record in enumerate(whole)]
    rewrite(history, forged, rehash=True, head=True)
    assert first(history) == ("edited", location + 1)


def test_a_digest_of_the_fleet_that_is_not_its_hosts_is_caught(history):
    write_runs(history, 1)
    whole = records(history)
    location = next(number for number, record in enumerate(whole) if record["event"] == "decision")
    whole[location]["data"]["evidence_sha256"] = "0" * 64
    rewrite(history, whole, rehash=True, head=True)
    assert first(history) == ("edited", location)


def test_a_decision_on_hosts_without_a_gate_or_whose_gate_was_not_recorded_is_whole(history):
    history.open("a", ME, {})
    history.decide("a", decided(evidence=None))
    history.decide("a", decided())
    assert form.verify(history.folder).problems == []


def test_a_run_that_is_not_open_decides_nothing(history):
    write_runs(history, 1)
    for run in ("run-1", "never opened"):
        with pytest.raises(MobiusError) as refused:
            history.decide(run, decided())
        assert refused.value.outcome == "history_failed"
    assert len([record for record in records(history) if record["event"] == "decision"]) == 1


def test_a_decision_is_on_the_disk_before_it_is_taken(history, synced):
    history.open("a", ME, {})
    synced.clear()
    seq = history.decide("a", decided())
    assert synced, "the record was not synced"
    assert (records(history)[-1]["seq"], form.read_head(history.folder)["seq"]) == (seq, seq)


# --- For an auditor ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_verifier_is_one_folder_that_needs_only_the_standard_library(history, tmp_path):
    heads = write_runs(history)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copytree(Path(form.__file__).parent, alone / "verifier")
    (alone / "witnesses.json").write_text(json.dumps(witnessed(heads)))
    # no site-packages and no PYTHONPATH: nothing of MOBIUS can be imported but the folder
    command = [sys.executable, "-E", "-S", "-m", "verifier", str(history.folder), "--witnesses"]
    command.append(str(alone / "witnesses.json"))
    done = subprocess.run(command, cwd=alone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "whole"), done
    changed = records(history)
    changed[4]["data"]["actor"] = "eve"
    rewrite(history, changed)
    done = subprocess.run([*command, "--format", "json"], cwd=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["first"]["seq"] == 4


def test_keyed_digests_recognise_a_value_and_do_not_reveal_it(history, tmp_path):
    assert history.digest("secret") == history.digest("secret") != history.digest("other")
    assert History(tmp_path / "another").digest("secret") != history.digest("secret")
    assert (history.folder / "digest.key").stat().st_mode & 0o777 == 0o600
