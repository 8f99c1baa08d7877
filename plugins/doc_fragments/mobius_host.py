# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the options that modules share; `module_utils/arguments.py` has their specification."""

from __future__ import annotations


class ModuleDocFragment:
    """`mobius.dhash.mobius_host`, with the parts `run` and `lease`."""

    DOCUMENTATION = r"""
options:
  service:
    description: The service, as C(mobius-host) knows it on the host.
    type: str
    required: true
  config_dir:
    description: Folder of the services' descriptions on the host.
    type: path
    default: /etc/mobius-host
"""

    RUN = r"""
options:
  run:
    description: Id of the run.
    type: str
"""

    OPENED = r"""
options:
  opened_run:
    description: Id of the run that was opened for this host, which the action plugin passes on. No task sets it.
    type: str
  runs_dir:
    description: Folder on the host of the runs that were opened for it.
    type: path
    default: /run/mobius-host/runs
"""

    LEASE = r"""
options:
  lease:
    description:
      - Refuse with C(fenced) unless O(run) holds the lock of the host (M(mobius.dhash.lease)), which this renews.
    type: bool
    default: false
"""
