# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exact search for near hashes by Hamming distance."""

from mobius.dhash._search.index import HammingIndex, Neighbours, Pairs

__all__ = ["HammingIndex", "Neighbours", "Pairs"]
