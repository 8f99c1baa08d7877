# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who can hide what from `mobius history verify`: the table in docs/history.md, line by line.

Three hosts in folders are released to by the real modules, whose results are recorded by the real history. The forger
edits its files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host import executor

from mobius.cli.history import _KEPT
from mobius.control.history import verifier
from mobius.control.history.recorder import result_data
from mobius.control.history.verifier import HistoryVerdict
from mobius.control.history.verifier.hosts import line_sha256
from mobius.control.history.writer import History, Holder

A, B, C = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0"))
HOSTS = ("lab1", "lab2", "lab3")

pytestmark = pytest.mark.slow
ME = Holder.of(os.getpid())


class Fleet:
    """Three hosts and the history of their runs."""

    def __init__(self, make_machine: Any, call_module: Callable[..., dict[str, Any]], folder: Path) -> None:
        self.machines = {host: make_machine(beside=True) for host in HOSTS}
        self.use, self.call = make_machine.use, call_module
        self.folder = folder
        self.history = History(folder / "history")
        self.inventory = "inventories/production"
        for host in HOSTS:
            tool = {"command": str(self.machines[host].host.command), "lib_dir": str(self.machines[host].root / "lib")}
            self.module(host, "host_tool", **tool)

    def module(self, host: str, name: str, **arguments: Any) -> dict[str, Any]:
        self.use(self.machines[host])
        return self.call(self.machines[host], name, **arguments)

    def witness_dir(self, host: str) -> Path:
        return self.folder / "witness" / host

    def journal(self, host: str) -> Path:
        path: Path = self.machines[host].host.journal_path
        return path

    def activation(self, host: str) -> Path:
        path: Path = self.machines[host].host.activation_path
        return path

    def heads(self, host: str) -> Path:
        return self.witness_dir(host) / "heads.jsonl"

    def record(self, run: str, host: str, name: str, result: Mapping[str, Any], status: str = "changed") -> None:
        data = result_data(host, f"mobius.dhash.{name}", f"Run {name}", status, result)
        assert data is not None
        self.history.add(run, data)

    def keep(self, run: str, hosts: Iterable[str]) -> dict[str, dict[str, Any]]:
        head = {**self.history.head(), "run": run}
        return {host: self.module(host, "witness", head=head, dir=str(self.witness_dir(host))) for host in hosts}

    def open(self, run: str, hosts: Iterable[str] = HOSTS, playbook: str = "release.yml") -> None:
        intent = {"playbook": f"playbooks/{playbook}", "inventory": self.inventory}
        self.history.open(run, ME, {**intent, "hosts": list(hosts), "check": False})
        for host, kept in self.keep(run, hosts).items():
            self.record(run, host, "run", kept, "ok")

    def close(self, run: str, hosts: Iterable[str] = HOSTS, *, leaves_head: bool = True) -> None:
        self.history.close(run, "success", {"hosts": {host: {"outcome": "success"} for host in hosts}})
        if leaves_head:
            self.keep(run, hosts)

    def switch(self, host: str, release: str, run: str | None) -> dict[str, Any]:
        """The modules that a promotion runs on a host; gives the result of the last one."""
        self.module(host, "instance", release=release, state="standby")
        for state in ("canary", "provisional", "confirmed"):
            result = self.module(host, "promotion", release=release, state=state, **({"run": run} if run else {}))
        return result

    def release(self, run: str, release: str, hosts: Iterable[str] = HOSTS, *, leaves_head: bool = True) -> None:
        self.open(run, hosts)
        for host in hosts:
            self.record(run, host, "promotion", self.switch(host, release, run))
        self.close(run, hosts, leaves_head=leaves_head)

    def roll_back(self, run: str, hosts: Iterable[str] = HOSTS) -> None:
        """A rollback's hosts keep the head right after it."""
        intent = {"playbook": "playbooks/rollback.yml", "inventory": self.inventory}
        self.history.open(run, ME, {**intent, "hosts": list(hosts), "check": False})
        head = {**self.history.head(), "run": run}
        for host in hosts:
            result = self.module(host, "rollback", run=run, head=head, witness_dir=str(self.witness_dir(host)))
            self.record(run, host, "rollback", result)
        self.close(run, hosts)

    def check_rollback(self, run: str, host: str, to: str) -> None:
        """A check run, whose results say what would come."""
        intent = {"playbook": "playbooks/rollback.yml", "inventory": self.inventory, "hosts": [host], "check": True}
        self.history.open(run, ME, intent)
        predicted = self.module(host, "rollback", to=to, run=run, check=True)
        assert (predicted["changed"], predicted["confirmed"]) == (True, to)
        self.record(run, host, "rollback", predicted)
        self.close(run)

    def verify(self, hosts: Iterable[str] = HOSTS, **options: Any) -> HistoryVerdict:
        asked_at = (verifier.read_head(self.history.folder) or {}).get("seq")
        answers = {}
        for host in hosts:
            answer = self.module(host, "witness_info", dir=str(self.witness_dir(host)))
            answers[host] = {"asked_at": asked_at, **{name: answer[name] for name in _KEPT}}
        return verifier.verify(self.history.folder, witnesses=json.loads(json.dumps(answers)), **options)

    def first(self, **options: Any) -> tuple[str, str]:
        verdict = self.verify(**options)
        assert verdict.status == "damaged", verdict.lines()
        return verdict.problems[0].kind, verdict.problems[0].text

    def kept(self, host: str) -> list[Path]:
        """Every file that says what the host did."""
        copy = self.machines[host].host.activation_copy_path
        return [self.journal(host), self.activation(host), copy, self.heads(host)]

    def wipe(self, host: str, *, keeps_heads: bool = False) -> None:
        """Remove all that the host keeps of its switches, and the heads."""
        self.machines[host].host.current_path.unlink(missing_ok=True)
        for path in self.kept(host):
            if path != self.heads(host) or not keeps_heads:
                path.unlink(missing_ok=True)

    def copy_of(self, host: str) -> Path:
        """A copy of everything that the host keeps, as its forger may make one."""
        copy = self.folder / f"copy-{host}"
        for path in self.kept(host):
            (copy / path.name).parent.mkdir(exist_ok=True)
            if path.exists():
                shutil.copy(path, copy / path.name)
        return copy

    def put_back(self, host: str, copy: Path) -> None:
        for path in self.kept(host):
            shutil.copy(copy / path.name, path) if (copy / path.name).exists() else path.unlink(missing_ok=True)


@pytest.fixture
def empty_fleet(make_machine: Any, call_module: Callable[..., dict[str, Any]], tmp_path: Path) -> Fleet:
    return Fleet(make_machine, call_module, tmp_path)


@pytest.fixture
def fleet(empty_fleet: Fleet) -> Fleet:
    """Two releases and a rollback, whole."""
    empty_fleet.release("run-1", A)
    empty_fleet.release("run-2", B)
    empty_fleet.roll_back("run-3")
    return empty_fleet


def cut_last_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def rewrite(history: History, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Everything that the control node keeps, made again to fit: hashes, links, head; not signed."""
    lines, previous = [], verifier.FIRST
    for number, record in enumerate(change([json.loads(line) for line in history.path.read_bytes().splitlines()])):
        record = {**record, "seq": number, "prev": previous}
        previous = record["hash"] = verifier.record_hash(record)
        lines.append(verifier.canonical(record) + b"\n")
    history.path.write_bytes(b"".join(lines))
    head = {**(verifier.read_head(history.folder) or {}), "seq": len(lines) - 1, "hash": previous}
    head.pop("signature", None)
    (history.folder / verifier.HEAD_NAME).write_text(json.dumps(head))


def without(run: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda records: [record for record in records if record["run"] != run]


# --- Nobody -----------------------------------------------------------------------------------------------------------


def test_what_nobody_forged_is_whole(fleet: Fleet) -> None:
    verdict = fleet.verify()
    assert (verdict.status, verdict.notes, verdict.unwitnessed) == ("whole", [], 0), verdict.lines()
    # what a person does at the console is in the host's journal, and needs no run
    fleet.use(fleet.machines["lab2"])
    assert fleet.machines["lab2"].command("rollback", "--to", B) == 0
    assert fleet.verify().status == "whole"


def test_what_a_check_run_has_predicted_is_no_contradiction(fleet: Fleet) -> None:
    fleet.check_rollback("run-4", "lab2", B)
    verdict = fleet.verify()
    assert verdict.status == "whole", verdict.lines()
    fleet.release("run-5", C)
    assert fleet.verify().status == "whole"


def test_a_service_that_was_removed_and_released_again_is_whole(fleet: Fleet) -> None:
    fleet.open("run-4", ["lab1"], "decommission.yml")
    fleet.wipe("lab1", keeps_heads=True)
    fleet.close("run-4", ["lab1"])
    assert fleet.verify().status == "whole"
    fleet.release("run-5", C, ["lab1"])
    assert fleet.verify().status == "whole"


def test_hosts_of_the_same_names_in_another_inventory_with_this_history_are_no_contradiction(
    empty_fleet: Fleet, make_machine: Any, call_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "staging").mkdir()
    staging = Fleet(make_machine, call_module, tmp_path / "staging")
    staging.history, staging.inventory = empty_fleet.history, "inventories/staging"
    empty_fleet.release("run-1", A)
    staging.release("run-2", A)
    staging.release("run-3", B)
    empty_fleet.release("run-4", C)
    staging.release("run-5", C)
    assert staging.verify().status == "whole"
    assert [problem.text for problem in empty_fleet.verify().problems] == []
    empty_fleet.heads("lab1").write_bytes(b"")
    assert empty_fleet.first()[0] == "witness"


def test_a_run_that_completes_what_was_killed_is_no_contradiction(fleet: Fleet, monkeypatch: Any) -> None:
    """A person's rollback dies after it has written the activation record; a recorded one then finishes it."""
    host = fleet.use(fleet.machines["lab1"])
    with monkeypatch.context() as patched:
        patched.setattr(executor, "append_journal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        host.command("rollback", "--to", B)
    assert host.activation.confirmed == B
    fleet.roll_back("run-4", ["lab1"])
    assert host.activation.confirmed == B, "it was finished, and counts as no other step"
    verdict = fleet.verify()
    assert verdict.status == "whole", verdict.lines()


def test_a_record_that_is_written_while_the_hosts_are_read_is_no_contradiction(fleet: Fleet) -> None:
    asked_at = (verifier.read_head(fleet.history.folder) or {})["seq"]
    answers = {}
    for host in HOSTS:
        answer = fleet.module(host, "witness_info", dir=str(fleet.witness_dir(host)))
        answers[host] = {"asked_at": asked_at, **{name: answer[name] for name in _KEPT}}
    fleet.release("run-4", C)
    verdict = verifier.verify(fleet.history.folder, witnesses=answers)
    assert (verdict.status, verdict.problems) == ("unwitnessed", [])
    assert verdict.unwitnessed == len(verdict.records) - 1 - asked_at


def test_what_roles_did_without_a_run_before_the_first_recorded_switch_is_no_damage(empty_fleet: Fleet) -> None:
    empty_fleet.open("run-1", playbook="provision.yml")
    empty_fleet.close("run-1")
    empty_fleet.switch("lab1", A, None)
    verdict = empty_fleet.verify()
    assert verdict.status == "whole", verdict.lines()
    assert "3 lines of lab1's journal are of roles without a run" in verdict.notes[0]
    empty_fleet.release("run-2", B)
    assert empty_fleet.verify().status == "whole"


# --- One host, or all -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [("lab2",), HOSTS], ids=["one host", "all hosts"])
@pytest.mark.parametrize("switch", ["rollback", "promotion"])
def test_a_switch_whose_line_was_cut_from_the_journal_is_caught(
    fleet: Fleet, switch: str, hosts: tuple[str, ...]
) -> None:
    for host in hosts:
        fleet.module(host, "rollback", to=B) if switch == "rollback" else fleet.switch(host, C, None)
        cut_last_line(fleet.journal(host))
    kind, text = fleet.first()
    assert kind == "journal"
    assert f"{hosts[0]}'s journal of switches lacks the newest switch" in text


@pytest.mark.parametrize("hosts", [("lab2",), HOSTS], ids=["one host", "all hosts"])
@pytest.mark.parametrize("content", [b"", None], ids=["emptied", "removed"])
def test_an_emptied_journal_is_caught(fleet: Fleet, hosts: tuple[str, ...], content: bytes | None) -> None:
    for host in hosts:
        fleet.journal(host).unlink() if content is None else fleet.journal(host).write_bytes(content)
    kind, text = fleet.first()
    assert (kind, hosts[0] in text) == ("journal", True)


@pytest.mark.parametrize("later", ["console", "promotion"])
@pytest.mark.parametrize("left", [0, 1])
def test_a_journal_that_was_cut_stays_caught_when_later_switches_are_in_it(fleet: Fleet, left: int, later: str) -> None:
    """The next command appends the newest line again, which is kept in the activation record, and its own."""
    fleet.module("lab1", "rollback", to=B)
    lines = fleet.journal("lab1").read_bytes().splitlines(keepends=True)
    fleet.journal("lab1").write_bytes(b"".join(lines[:left]))
    if later == "console":
        fleet.use(fleet.machines["lab1"])
        assert fleet.machines["lab1"].command("rollback", "--to", A) == 0
    else:
        fleet.release("run-4", C, ["lab1"])
    kind, text = fleet.first()
    assert (kind, "lab1's journal of switches was" in text) == ("journal", True)


def test_a_line_cut_from_the_journals_end_comes_again_with_the_next_command(fleet: Fleet) -> None:
    fleet.module("lab1", "rollback", to=B)
    whole = fleet.journal("lab1").read_bytes()
    cut_last_line(fleet.journal("lab1"))
    fleet.use(fleet.machines["lab1"])
    fleet.machines["lab1"].command("rollback", "--to", B)
    assert fleet.journal("lab1").read_bytes() == whole
    assert fleet.first()[0] == "never_written"


def test_an_emptied_journal_is_caught_though_the_activation_record_is_gone_too(fleet: Fleet) -> None:
    for host in HOSTS:
        fleet.journal(host).unlink()
        fleet.activation(host).unlink()
    kind, text = fleet.first()
    assert kind == "activation"
    assert "lab1's activation record has token None" in text


def test_a_host_that_was_set_back_to_before_a_recorded_switch_is_caught(empty_fleet: Fleet) -> None:
    empty_fleet.release("run-1", A)
    copy = empty_fleet.copy_of("lab3")
    empty_fleet.release("run-2", B)
    heads = empty_fleet.heads("lab3").read_bytes()
    empty_fleet.put_back("lab3", copy)
    kind, text = empty_fleet.first()
    assert (kind, "run-2" in text) == ("witness", True), "the copy has no head of it"
    empty_fleet.heads("lab3").write_bytes(heads)
    kind, text = empty_fleet.first()
    assert kind == "activation"
    assert "lab3's activation record has token 1: it was set back" in text


def test_a_journal_and_a_record_that_are_consistent_and_lack_a_recorded_switch_are_caught(fleet: Fleet) -> None:
    """The forger makes the whole journal again, with another switch in place of the recorded one."""
    lines = [json.loads(line) for line in fleet.journal("lab1").read_bytes().splitlines()]
    previous, texts = verifier.FIRST, []
    for line in lines:
        if line["event"] == "rollback":
            line = {**line, "to": C}
        text = json.dumps({**line, "prev_sha256": previous}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        previous = line_sha256(text)
        texts.append(text)
    fleet.journal("lab1").write_text("\n".join(texts) + "\n")
    record = json.loads(fleet.activation("lab1").read_bytes())
    last = {name: value for name, value in json.loads(texts[-1]).items() if name != "prev_sha256"}
    record["last"] = last
    if "journal" in record:
        record["journal"] = {"lines": len(texts), "sha256": previous}
    fleet.activation("lab1").write_text(json.dumps(record))
    kind, text = fleet.first()
    assert kind == "journal"
    assert "lab1's journal lacks the switch of run run-3" in text


@pytest.mark.parametrize("hosts", [("lab2",), HOSTS], ids=["one host", "all hosts"])
@pytest.mark.parametrize("content", [b"", None], ids=["emptied", "removed"])
def test_emptied_heads_are_caught(fleet: Fleet, hosts: tuple[str, ...], content: bytes | None) -> None:
    for host in hosts:
        fleet.heads(host).unlink() if content is None else fleet.heads(host).write_bytes(content)
    kind, text = fleet.first()
    assert kind == "witness"
    assert f"{hosts[0]} has lost the head of run run-1" in text


def test_emptied_heads_are_caught_where_no_result_was_recorded(empty_fleet: Fleet) -> None:
    """The plugin that records results may be off; the host's own journal names the run."""
    empty_fleet.history.open("run-1", ME, {"hosts": list(HOSTS), "check": False})
    empty_fleet.keep("run-1", HOSTS)
    for host in HOSTS:
        empty_fleet.switch(host, A, "run-1")
    empty_fleet.close("run-1")
    assert empty_fleet.verify().status == "whole"
    empty_fleet.heads("lab2").write_bytes(b"")
    kind, text = empty_fleet.first()
    assert kind == "witness"
    assert "lab2 keeps no head of this history, although its journal has run run-1" in text


def test_heads_that_were_cut_or_thinned_out_are_caught(fleet: Fleet) -> None:
    lines = fleet.heads("lab1").read_bytes().splitlines(keepends=True)
    fleet.heads("lab1").write_bytes(b"".join(line for line in lines if json.loads(line)["run"] != "run-2"))
    kind, text = fleet.first()
    assert (kind, "lab1 has lost the head of run run-2" in text) == ("witness", True)


def test_a_host_that_keeps_nothing_at_all_is_named_and_is_no_witness(fleet: Fleet) -> None:
    """Built again, or emptied by somebody: nothing on the host distinguishes the two."""
    for number, host in enumerate(HOSTS):
        fleet.wipe(host)
        verdict = fleet.verify()
        assert f"{host} keeps nothing of this history, although record {number + 2} has run run-1" in verdict.notes[-1]
        assert verdict.witnesses == list(HOSTS[number + 1 :])
    assert verdict.status == "unwitnessed"


def test_a_host_that_was_built_again_is_a_witness_from_then_on(fleet: Fleet) -> None:
    fleet.wipe("lab1")
    fleet.release("run-4", C)
    verdict = fleet.verify()
    assert verdict.status == "whole", verdict.lines()
    assert "lab1 keeps nothing of before run run-4, although record 2 has run run-1 there" in verdict.notes[0]
    fleet.heads("lab1").write_bytes(b"")
    assert fleet.first()[0] == "witness"


def test_a_host_can_hide_a_switch_of_its_own_by_setting_everything_back(fleet: Fleet) -> None:
    """A limit, which the table states: no run is recorded of it, and nothing on the host is left of it."""
    copy = fleet.copy_of("lab1")
    fleet.module("lab1", "rollback", to=B)
    assert fleet.first()[0] == "never_written"
    fleet.put_back("lab1", copy)
    assert fleet.verify().status == "whole"


# --- The control node -------------------------------------------------------------------------------------------------


def test_an_ad_hoc_switch_is_caught_by_the_hosts_journal(fleet: Fleet) -> None:
    fleet.module("lab2", "rollback", to=B)
    kind, text = fleet.first()
    assert (kind, "lab2 has its rollback" in text) == ("never_written", True)


@pytest.mark.parametrize(
    ("by", "run"),
    [("module", "run-2"), ("module", "run-4"), ("module", "run-5"), ("console", "run-2"), ("promotion", "run-2")],
    ids=["a release", "a backup", "a check run", "at the console", "by a promotion"],
)
def test_a_switch_in_the_name_of_a_recorded_run_is_caught(fleet: Fleet, by: str, run: str) -> None:
    fleet.open("run-4", playbook="backup.yml")
    fleet.close("run-4")
    fleet.check_rollback("run-5", "lab2", B)
    fleet.use(fleet.machines["lab2"])
    if by == "module":
        fleet.module("lab2", "rollback", to=B, run=run)
    elif by == "console":
        assert fleet.machines["lab2"].command("rollback", "--to", B, "--run", run) == 0
    else:
        fleet.switch("lab2", C, run)
    kind, text = fleet.first()
    assert (kind, f"in the name of run {run}, which has no result of it" in text) == ("never_written", True), text


def test_a_switch_of_a_run_whose_results_are_not_all_known_is_no_damage(fleet: Fleet) -> None:
    """What is left to a forger, which the table states: runs that died, or failed on that host, or are open."""
    fleet.open("open")
    fleet.module("lab1", "rollback", to=B, run="open")
    assert fleet.verify().problems == []
    fleet.history.close("open", "interrupted", {"hosts": {}})
    for run, end in {"stopped": {"closed_by": "mobius"}, "lossy": {"incomplete": True}, "failed": {}}.items():
        fleet.open(run)
        fleet.record(run, "lab2", "promotion", fleet.switch("lab2", C, run))
        fleet.module("lab1", "rollback", to=B if run == "lossy" else A, run=run)
        if run == "failed":  # the module has switched, and its answer was lost
            fleet.record(run, "lab1", "rollback", {}, "unreachable")
        fleet.history.close(run, "unreachable", {"hosts": {}, **end})
        fleet.keep(run, HOSTS)
    switches = [json.loads(line)["run"] for line in fleet.journal("lab1").read_bytes().splitlines()]
    assert switches[-4:] == ["open", "stopped", "lossy", "failed"]
    verdict = fleet.verify()
    assert (verdict.status, verdict.problems) == ("whole", []), verdict.lines()


def test_switches_that_version_0_1_0_recorded_without_the_service_are_no_damage(empty_fleet: Fleet) -> None:
    for run, release in {"run-1": A, "run-2": B}.items():
        empty_fleet.open(run)
        for host in HOSTS:
            result = empty_fleet.switch(host, release, run)
            empty_fleet.record(run, host, "promotion", {key: result[key] for key in ("release", "confirmed", "token")})
        empty_fleet.close(run)
    assert empty_fleet.verify().status == "whole"


def test_a_new_history_beside_heads_in_a_new_folder_is_caught_with_the_inventory_of_before(
    fleet: Fleet, tmp_path: Path, monkeypatch: Any
) -> None:
    """A limit, which the table states: whoever edits the inventory can lead a run past the heads of its hosts."""
    fleet.history.folder.rename(tmp_path / "moved")
    real = fleet.witness_dir
    monkeypatch.setattr(fleet, "witness_dir", lambda host: tmp_path / "other" / host)
    fleet.release("forged", C)
    assert fleet.verify().problems == []
    monkeypatch.setattr(fleet, "witness_dir", real)
    verdict = fleet.verify()
    assert verdict.problems[0].kind == "never_written"
    assert any("lab1 has seen the chain" in problem.text for problem in verdict.problems), verdict.lines()


@pytest.mark.parametrize("run", ["run-1", "run-2", "run-3"])
def test_a_run_that_was_removed_from_the_chain_is_caught_by_each_single_host(fleet: Fleet, run: str) -> None:
    rewrite(fleet.history, without(run))
    assert fleet.verify(()).problems == [], "consistent in itself"
    for host in HOSTS:
        assert fleet.verify([host]).problems[0].kind in ("never_written", "edited", "cut_off")


def test_a_tail_that_was_rewritten_after_the_last_head_is_unwitnessed_and_never_whole(empty_fleet: Fleet) -> None:
    """A controller was killed: the hosts have the head of its intent only."""
    empty_fleet.release("run-1", A)
    empty_fleet.release("run-2", B, leaves_head=False)
    verdict = empty_fleet.verify()
    assert (verdict.status, verdict.unwitnessed) == ("unwitnessed", 7)
    rewrite(empty_fleet.history, lambda records: records[:-3])
    verdict = empty_fleet.verify()
    assert (verdict.status, verdict.unwitnessed) == ("unwitnessed", 4), "a limit, which the table states"
    rewrite(empty_fleet.history, lambda records: records[:-5])
    assert empty_fleet.verify().status == "damaged"


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_tail_of_a_run_that_ended_cannot_be_cut_or_rewritten(fleet: Fleet, cut: int) -> None:
    """Each run ends by leaving its final head with its hosts."""
    whole = fleet.history.path.read_bytes()
    rewrite(fleet.history, lambda records: records[:-cut])
    assert fleet.first()[0] == "cut_off"
    fleet.history.path.write_bytes(whole)
    rewrite(
        fleet.history,
        lambda records: [*records[:-cut], {**records[-cut], "at": "2026"}, *records[len(records) - cut + 1 :]],
    )
    assert fleet.first()[0] == "edited"


@pytest.fixture
def signed(empty_fleet: Fleet, tmp_path: Path) -> tuple[Fleet, Path]:
    """A fleet whose history is signed, and the auditor's list of signers; the last run left no final head."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text().split()
    signers = tmp_path / "allowed_signers"
    signers.write_text(f'control@example.org namespaces="{verifier.NAMESPACE}" {public[0]} {public[1]}\n')
    empty_fleet.history = History(empty_fleet.history.folder, key)
    empty_fleet.release("run-1", A)
    empty_fleet.release("run-2", B, leaves_head=False)
    return empty_fleet, signers


def test_without_the_key_nothing_of_the_newest_records_can_be_rewritten(signed: tuple[Fleet, Path]) -> None:
    fleet, signers = signed
    verdict = fleet.verify(signers=signers)
    assert (verdict.status, verdict.unwitnessed) == ("whole", 0)
    rewrite(fleet.history, lambda records: records[:-1])
    assert fleet.first(signers=signers)[0] == "signature"


def test_without_the_key_a_kept_older_head_hides_what_came_after_it_up_to_the_last_head_of_a_host(
    signed: tuple[Fleet, Path],
) -> None:
    """A limit, which the table states: of the run that was killed, its results."""
    fleet, signers = signed
    fleet.open("run-3")
    content, head = fleet.history.path.read_bytes(), (fleet.history.folder / verifier.HEAD_NAME).read_bytes()
    fleet.record("run-3", "lab1", "promotion", fleet.switch("lab1", C, "run-3"))
    fleet.history.path.write_bytes(content)
    (fleet.history.folder / verifier.HEAD_NAME).write_bytes(head)
    assert fleet.verify(signers=signers).status == "whole"
    fleet.close("run-3")
    fleet.history.path.write_bytes(content)
    (fleet.history.folder / verifier.HEAD_NAME).write_bytes(head)
    assert fleet.first(signers=signers)[0] == "cut_off"


def test_with_the_key_and_all_hosts_everything_can_be_hidden(signed: tuple[Fleet, Path]) -> None:
    """A limit, which the table states: copy the heads elsewhere, as `--save-witnesses` does."""
    fleet, signers = signed
    shutil.rmtree(fleet.history.folder)
    for host in HOSTS:
        fleet.wipe(host)
    fleet.release("forged", C)
    assert fleet.verify(signers=signers).status == "whole"


# --- Hostile answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"heads": "x", "journal": {"a": 1}, "activation": [], "service": 7, "asked_at": "now"},
        {
            "heads": [None, 1, {"seq": "1"}, {"seq": True}, {"seq": 10**30, "chain": None}],
            "journal": [None, 3, "[" * 9999],
        },
        {
            "heads": [],
            "journal": ["{}"],
            "activation": {"token": "x", "last": 3, "journal": {"lines": -1}, "history": 1},
        },
        {
            "heads": [],
            "journal": [],
            "activation": {"last": {}, "journal": {"lines": 10**9}, "history": [1, {"run": []}]},
        },
    ],
)
def test_whatever_a_host_answers_there_is_a_verdict(fleet: Fleet, answer: dict[str, Any]) -> None:
    """A host may be anybody's: it can cost the history its wholeness, and nothing else."""
    answers = {"lab1": {**answer, "asked_at": 99}, "lab2": None, "lab3": "no object"}
    verdict = verifier.verify(fleet.history.folder, witnesses=answers)
    assert verdict.status in ("damaged", "unwitnessed")
    assert verdict.lines()
