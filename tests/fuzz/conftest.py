# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The hosts and fronts of the integration tests."""

from tests.integration.front.conftest import make_front
from tests.integration.service.conftest import host

__all__ = ["host", "make_front"]
