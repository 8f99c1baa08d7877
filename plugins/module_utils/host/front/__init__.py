# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The front of a service: one HAProxy before its instances.

- `settings`: what the role host has set for it
- `slots`: which release holds which of the fixed addresses that HAProxy knows
- `configuration`: HAProxy's configuration, rendered and checked
- `runtime`: what a running HAProxy is instructed to do, and reports
- `traffic`: counts requests and their latency per release, from HAProxy's log
- `figures`: what both have counted of a release since a gate or a watch began
"""
