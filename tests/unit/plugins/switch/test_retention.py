# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which releases stay on a host, and which go."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup.retention import surplus_releases
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import Pending, read_lease, staged_releases

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))
E = "1.4.0-0123456789ab"
Module = Callable[..., dict[str, Any]]


@pytest.fixture
def served(machine: Any) -> Any:
    """A, B and C were confirmed in this order; D is staged and was never tried."""
    for release in (A, B, C):
        machine.promote(release)
    return machine


@pytest.mark.slow
def test_the_newest_healthy_releases_stay_and_check_mode_predicts_it(served: Any, run_module: Module) -> None:
    assert run_module("retention", keep=3)["removed"] == []
    predicted = run_module("retention", keep=2, check=True)
    assert served.host.release_dir(A).exists()
    done = run_module("retention", keep=2)
    assert predicted["removed"] == done["removed"] == [A]
    assert predicted["diff"] == done["diff"]
    assert staged_releases(served.host) == [B, C, D]
    assert run_module("retention", keep=2)["changed"] is False


@pytest.mark.slow
def test_what_a_rollback_would_go_to_stays_even_when_only_one_is_kept(served: Any, run_module: Module) -> None:
    assert run_module("retention", keep=1)["removed"] == [A]
    assert run_module("rollback", run="r9")["confirmed"] == B


@pytest.mark.slow
def test_a_reverted_release_is_removed_when_it_no_longer_runs(served: Any, run_module: Module) -> None:
    run_module("rollback", run="r9")
    assert C not in run_module("retention", keep=5)["removed"], "it is still warm"
    run_module("instance", release=C, state="stopped")
    assert run_module("retention", keep=5)["removed"] == [C]


@pytest.mark.slow
def test_pinned_pending_and_needed_releases_stay(served: Any) -> None:
    observed = served.observed()
    assert surplus_releases(observed, 1) == [A]
    assert surplus_releases(observed, 1, required=[A]) == []
    pinned = dataclasses.replace(observed, activation=dataclasses.replace(observed.activation, pinned=(A,)))
    assert surplus_releases(pinned, 1) == []
    pending = Pending(D, A, "canary", 0.0, "another boot", None, 0, "then")
    assert surplus_releases(dataclasses.replace(observed, pending=pending), 1) == []


@pytest.mark.slow
def test_a_check_run_counts_what_it_has_predicted_to_be_confirmed(served: Any, run_module: Module) -> None:
    predicted = run_module("retention", keep=3, confirmed=D, check=True)
    assert predicted["removed"] == [A]
    assert run_module("retention", keep=3)["removed"] == [], "the real run reads the activation record only"
    served.promote(D)
    assert run_module("retention", keep=3)["removed"] == predicted["removed"]


@pytest.mark.slow
def test_a_check_run_knows_that_the_promotion_stops_what_stands_by(served: Any, run_module: Module) -> None:
    served.promote(D)
    run_module("rollback", run="r9")
    served.stage(E)
    assert served.systemd.instances.keys() >= {D}, "the reverted release is still warm"
    predicted = run_module("retention", keep=5, confirmed=E, check=True)
    served.promote(E)
    done = run_module("retention", keep=5, confirmed=E)
    assert predicted["removed"] == done["removed"] == [D]
    assert predicted["diff"] == done["diff"]


@pytest.mark.slow
def test_a_check_run_counts_a_release_that_is_yet_to_be_staged(
    served: Any, run_module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable.write_json(served.host.state_dir / "note", {})
    shutil.rmtree(served.host.release_dir(D))
    predicted = run_module("retention", keep=3, confirmed=D, assume_staged=True, check=True)
    run_module("backup")
    served.stage(D)
    served.promote(D)
    done = run_module("retention", keep=3, confirmed=D)
    assert predicted["removed"] == done["removed"] == [A]
    assert predicted["diff"] == done["diff"]


@pytest.mark.slow
def test_the_newest_backups_release_stays(served: Any, run_module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    served.stage(E)
    durable.write_json(served.host.state_dir / "note", {})
    assert run_module("backup")["changed"] is True  # under C
    served.promote(D)
    served.promote(E)
    assert run_module("retention", keep=1)["removed"] == [A, B]


@pytest.mark.slow
def test_none_at_all_is_refused(served: Any, run_module: Module) -> None:
    assert run_module("retention", keep=0)["mobius_failure"]["outcome"] == "invalid_input"


@pytest.mark.slow
def test_the_lock_is_released_in_the_end_by_the_run_that_holds_it(served: Any, run_module: Module) -> None:
    run_module("lease", run="r1")
    assert run_module("retention", keep=2, run="r1")["unlocked"] is False
    assert run_module("retention", keep=2, run="r1", unlock=True, check=True)["unlocked"] is True
    run_module("retention", keep=2, run="r2", unlock=True)
    assert read_lease(served.host) is not None
    assert run_module("retention", keep=2, run="r1", unlock=True)["unlocked"] is True
    assert read_lease(served.host) is None


@pytest.mark.slow
def test_a_removal_that_fails_keeps_the_lock(served: Any, run_module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("ansible_collections.mobius.dhash.plugins.module_utils.staged_tree.unstage", refuse)
    run_module("lease", run="r1")
    assert run_module("retention", keep=2, run="r1", unlock=True)["failed"]
    assert read_lease(served.host) is not None


@pytest.mark.slow
def test_only_what_is_removed_is_waited_for(served: Any, run_module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(Executor, "wait_until_stopped", lambda _self, release: waited.append(release))
    run_module("retention", keep=3)
    assert waited == []
    run_module("retention", keep=2)
    assert waited == [A]
