# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Specification of the options that modules share; `doc_fragments/mobius_host.py` documents them."""

from __future__ import annotations

from typing import Any, Final

from . import opened_runs
from .host.config import CONFIG_DIR

SERVICE: Final[dict[str, Any]] = {
    "service": {"type": "str", "required": True},
    "config_dir": {"type": "path", "default": CONFIG_DIR},
}
RUN: Final[dict[str, Any]] = {"run": {"type": "str"}}
OPENED: Final[dict[str, Any]] = {
    "opened_run": {"type": "str"},
    "runs_dir": {"type": "path", "default": opened_runs.DIR},
}
LEASE: Final[dict[str, Any]] = {"lease": {"type": "bool", "default": False}}
