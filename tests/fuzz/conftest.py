# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The hosts of the service's integration tests."""

from tests.integration.service.conftest import host

__all__ = ["host"]
