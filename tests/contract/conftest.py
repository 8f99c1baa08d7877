# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible's commands keep their files in a folder of the tests."""

from tests.ansible_home import ansible_home

__all__ = ["ansible_home"]
