# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Imported first by every plugin that needs the Python package mobius: without it, the task fails with one sentence."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from ansible.errors import AnsibleError
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError

_CHECKOUT = Path(__file__).resolve().parents[2]


def _is_installed() -> bool:
    """Whether the package is there, new enough to have what the plugins import, and what it imports itself."""
    try:
        return all(
            importlib.util.find_spec(name) is not None for name in ("mobius.control.service_file.parse", "click")
        )
    except ModuleNotFoundError:
        return False


# a clone needs no installation, and its plugins no other version of the package
if (_CHECKOUT / "mobius/control").is_dir() and str(_CHECKOUT) not in sys.path:
    sys.path.insert(0, str(_CHECKOUT))
if not _is_installed():
    _failure = MobiusError(
        "missing_dependency",
        f"The collection mobius.dhash needs the package mobius-dhash, which is not installed for {sys.executable}, "
        "or is older than the collection.",
        do_next=f"Run `{sys.executable} -m pip install --upgrade 'mobius-dhash[control]'` on the control node.",
    )
    raise AnsibleError(f"{_failure.outcome}: {_failure.reason} Do next: {_failure.do_next}")
