# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The host tool `mobius-host`: the one piece of code that switches, reverts, confirms and watches a service.

Modules import it, and the role `host` installs it as a command, so that a playbook, systemd's units and a person at the
console run the same code, without the controller and in whatever state the releases are. It runs under the host's
own Python, before and after any release: standard library only.

Every command works in the same way: the executor observes the host, a `plan_*` function of `transitions` computes a
plan from that alone, and only then the actions are performed, in their order.
"""
