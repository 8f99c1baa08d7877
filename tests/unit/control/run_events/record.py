# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Records the events of a real run for the tests of its progress, one JSON object a line.

    python tests/unit/control/run_events/record.py FILE release --bundle dist/mobius-dhash-2.0.0.tar.gz

runs `mobius release …` and keeps what ansible-runner told of it: of a result, only what is named here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobius.cli import main
from mobius.control.run.events import EventListener
from mobius.control.run.project import find_project

CHECKOUT = str(find_project().folder)
OF_EVENT = ("event", "created", "event_data")
OF_DATA = ("play", "task", "task_path", "task_action", "host", "ignore_errors")
RECORDED = re.compile(r"playbook_on_(play|task)_start|runner_on_(start|ok|skipped|failed|unreachable)|gate_sample")
OF_RESULT = ("changed", "failed", "unreachable", "batches", "verdict", "reason", "decision", "_ansible_verbose_always")


def kept(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event without what no progress needs, and without a path of this machine."""
    if event["event"] == "gate_sample":
        return dict(event)
    data = event.get("event_data") or {}
    short = {name: data[name] for name in OF_DATA if data.get(name) is not None}
    if event["event"] != "playbook_on_play_start":
        short.pop("play", None)
    if isinstance(result := data.get("res"), Mapping):
        short["res"] = {name: result[name] for name in OF_RESULT if name in result}
        if signals := ((result.get("evidence") or {}).get("values") or {}).get("signals"):
            values = {"signals": signals}
            short["res"]["evidence"] = {"samples": result["evidence"]["samples"], "values": values}
    whole = json.dumps({**{name: event[name] for name in OF_EVENT if name in event}, "event_data": short})
    return dict(json.loads(whole.replace(CHECKOUT, "/checkout")))


if __name__ == "__main__":
    path = Path(sys.argv.pop(1))
    take = EventListener.take

    def recorded(listener: EventListener, event: Mapping[str, Any]) -> None:
        if RECORDED.fullmatch(str(event.get("event"))):
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(kept(event), sort_keys=True) + "\n")
        take(listener, event)

    EventListener.take = recorded  # type: ignore[method-assign]
    main()
