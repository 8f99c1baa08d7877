# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The transitions of a service: from an observation to the plan that brings the host to another state.

Each plan begins with what an interrupted command left undone (`recover`), and a switch always goes in the same order:
the target serves, the activation record is written, the others stand by. A kill between any two actions therefore
leaves an instance that serves, and the next command finishes or undoes."""
