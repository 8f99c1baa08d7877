# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a module that changes no host (`release_info`, and others by links) where it is installed."""

from __future__ import annotations

from ansible.plugins.action.normal import ActionModule as NormalAction
from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.installed_modules import InstalledModules


class ActionModule(InstalledModules, NormalAction):  # type: ignore[misc]
    """The module of its own name."""
