# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""State files of a host damaged at random: each command ends with an exit code and a sentence, and clients stay served."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import lease

A, B, C = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0"))
COMMANDS = [
    *(("status",), ("status", "--json"), ("verify",), ("guard",), ("boot",), ("watch",), ("pin", A), ("unpin", A)),
    *(("rollback",), ("rollback", "--from", B), ("rollback", "--from", C), ("rollback", "--to", A)),
    *(("repair", "--yes"), ("repair", "--check")),
]
VALUES = [
    *(
        None,
        True,
        -1,
        0,
        2**70,
        10**400,
        1e308,
        float("nan"),
        "",
        "x" * 5000,
        "../../etc",
        "\ud800",
        "\0",
        "/dev/null/x",
    ),
    *([], {}, [[]], [None], {"a": 1}, "9999-99-99", A, "2999-01-01T00:00:00Z"),
]
SLEEPS_LIMIT = 300


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value something can be replaced."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield (*place, name)
        yield from places(item, (*place, name))


def with_another_value(chance: random.Random, text: str) -> str:
    """JSON of which one field is gone or is something else."""
    value = json.loads(text)
    *parents, name = chance.choice(list(places(value)))
    holder = value
    for parent in parents:
        holder = holder[parent]
    if isinstance(holder, dict) and chance.random() < 0.25:
        del holder[name]
    else:
        holder[name] = chance.choice(VALUES)
    return json.dumps(value)


def damage(chance: random.Random, path: Path) -> str:
    """Damage one file; what was done."""
    content = path.read_bytes()
    kind = chance.choice([*["a field"] * 8, "cut", "bytes", "nested", "gone", "folder", "pipe", "link", "loop"])
    if kind == "a field":
        lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
        number = chance.randrange(len(lines))
        lines[number] = with_another_value(chance, lines[number])
        path.write_text("\n".join(lines) + "\n")
    elif kind == "cut":
        path.write_bytes(content[: chance.randrange(len(content))])
    elif kind == "bytes":
        changed = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.write_bytes(bytes(changed))
    elif kind == "nested":
        path.write_text("[" * 100_000)
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind in ("link", "loop"):
            path.symlink_to("/etc/passwd" if kind == "link" else path)
    return f"{path.name}: {kind}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "seeds",
    [range(30), pytest.param(range(30, 1000), marks=pytest.mark.soak)],
    ids=lambda seeds: f"{seeds.start}-{seeds.stop}",
)
def test_whatever_is_damaged_each_command_ends_with_a_sentence_and_clients_stay_served(
    make_machine: Callable[[], Any], seeds: range, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in seeds:
        chance = random.Random(seed)
        machine = make_machine()
        machine.watch(600)
        machine.promote(A)
        machine.promote(B)
        if stage := chance.choice(("", "canary", "provisional")):
            machine.promote(C, stage)
        if chance.random() < 0.5:
            lease.acquire(machine.executor(), "r9", "ada", "now", 100)
        folders = (machine.host.root, machine.host.run_dir, machine.host.state_dir)
        files = [machine.config_path, *sorted(path for folder in folders for path in folder.glob("*.json*"))]
        damages = [damage(chance, path) for path in chance.sample(files, chance.choice((1, 1, 2, len(files))))]
        sleeps = 0

        def sleep(seconds: float, machine: Any = machine) -> None:
            nonlocal sleeps
            sleeps += 1
            machine.now += seconds
            if sleeps > SLEEPS_LIMIT:  # a watch without end, as of a window that was damaged so, is interrupted
                raise KeyboardInterrupt

        machine.sleep = sleep
        capsys.readouterr()
        for command in chance.sample(COMMANDS, 5):
            about = f"seed {seed}: {stage} {damages} {command}"
            code = machine.command(*command)
            assert code in range(6), about
            assert code in (0, 2) or capsys.readouterr().err.strip(), about
            assert machine.serving, about
        if not any(done.startswith(machine.config_path.name) for done in damages):
            machine.systemd.restart(machine.host.front_unit)
            assert machine.serving, f"seed {seed}: {stage} {damages}, after HAProxy was started again"
