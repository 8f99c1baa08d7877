"""The slots of a front: who holds which, kept in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.slots import Slot, Slots

A, B, C, D, E = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0"))
PORTS = (9101, 9102, 9103, 9104)


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "slots.json", PORTS)


def holders(slots: Slots) -> list[str | None]:
    return [slot.release for slot in slots.read()]


def test_without_a_file_every_slot_is_free(slots: Slots) -> None:
    assert slots.read() == tuple(Slot(number, port) for number, port in enumerate(PORTS, start=1))
    assert slots.find(A) is None


def test_a_release_holds_one_slot_until_it_is_freed(slots: Slots) -> None:
    assert slots.assign(A) == Slot(1, 9101, A)
    assert slots.assign(B) == Slot(2, 9102, B)
    assert slots.assign(A) == Slot(1, 9101, A)
    assert slots.find(B) == Slot(2, 9102, B)
    assert slots.free(A)
    assert not slots.free(A)
    assert slots.assign(C) == Slot(1, 9101, C)
    assert holders(slots) == [C, B, None, None]
    assert slots.find(C).address == "127.0.0.1:9101"  # type: ignore[union-attr]


def test_another_process_reads_what_was_written(slots: Slots) -> None:
    slots.assign(A)
    assert holders(Slots(slots.path, PORTS)) == [A, None, None, None]


def test_a_revision_can_hold_a_slot(slots: Slots) -> None:
    assert slots.assign(f"{A}+0123abcd").release == f"{A}+0123abcd"


def test_to_choose_a_slot_writes_nothing(slots: Slots) -> None:
    assert slots.choose(A) == Slot(1, 9101, A)
    assert not slots.path.exists()


def test_without_a_free_slot_the_holders_are_named(slots: Slots) -> None:
    for release in (A, B, C, D):
        slots.assign(release)
    with pytest.raises(MobiusError) as raised:
        slots.assign(E)
    assert raised.value.outcome == "environment_failed"
    assert A in raised.value.reason
    assert holders(slots) == [A, B, C, D]
    assert slots.assign(D).number == 4


@pytest.mark.parametrize("release", ["", "1.0", "1.0-0123456789AB", f"{A} x", f"{A}\n", f"{A}+1", "1" * 65 + A])
def test_what_is_no_release_gets_no_slot(slots: Slots, release: str) -> None:
    with pytest.raises(MobiusError) as raised:
        slots.assign(release)
    assert raised.value.outcome == "invalid_input"
    assert not slots.path.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"schema": 1},
        {"schema": 2, "slots": {}},
        {"schema": 1, "slots": []},
        {"schema": 1, "slots": {"5": A}},
        {"schema": 1, "slots": {"01": A}},
        {"schema": 1, "slots": {"1": A, "2": A}},
        {"schema": 1, "slots": {"1": f"{A}\nglobal"}},
        {"schema": 1, "slots": {"1": None}},
        [],
    ],
)
def test_a_damaged_file_is_reported_and_not_overwritten(slots: Slots, content: Any) -> None:
    slots.path.write_text(json.dumps(content), encoding="utf-8")
    for act in (slots.read, lambda: slots.assign(B), lambda: slots.free(A)):
        with pytest.raises(MobiusError) as raised:
            act()
        assert raised.value.outcome == "state_damaged"
    assert json.loads(slots.path.read_text(encoding="utf-8")) == content


def test_a_damaged_file_is_restored_from_what_runs(slots: Slots) -> None:
    slots.path.write_text("{", encoding="utf-8")
    slots.restore({3: B})
    assert holders(slots) == [None, None, B, None]
