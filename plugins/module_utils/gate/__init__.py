# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gate and its probes: requests to the instance of a release, and a verdict on the responses.

All requests go to the address of one instance, where no other instance can answer, and no response never counts as
a good one. `run` runs a whole gate; `verdict` decides.
"""
