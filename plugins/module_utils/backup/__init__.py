# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups of a service on its host: create, verify, restore, drill, copy elsewhere, rotate.

Modules import it, and the role `backup` installs it as the command `mobius-backup`, so that a playbook and a host's own
timers run the same lines. It runs under the host's own Python: standard library only.
"""
