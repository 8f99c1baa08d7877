# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a module that changes a host (`backup`, and others by links), when its run was opened for that host."""

from __future__ import annotations

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.changing_action import ChangingAction


class ActionModule(ChangingAction):
    """The module of its own name."""
