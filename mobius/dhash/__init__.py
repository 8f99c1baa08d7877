# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fingerprints of pictures, and the library index that finds duplicates by them. Knows no HTTP and no Ansible."""

from mobius.dhash._cpus import usable_cpus
from mobius.dhash._decisions import Decision, DecisionKind
from mobius.dhash._decoder import Decoder
from mobius.dhash._decoding import MAX_PIXELS
from mobius.dhash._decoding_pool import Decoding, DecodingPool, PoolLimits, QueueFullError
from mobius.dhash._duplicates import Group, Member, ReviewPair
from mobius.dhash._exchange import ExportFormat, ImportReport
from mobius.dhash._fingerprint import ALGORITHMS, Dhash, Fingerprint, Mode, Transform
from mobius.dhash._formats import CONTENT_TYPES, FORMATS
from mobius.dhash._hashing import hash_bytes, hash_file, hash_image
from mobius.dhash._library import Library
from mobius.dhash._picture import Confidence, Picture
from mobius.dhash._picture_search import VERIFIED_PER_SEARCH, SearchMatch
from mobius.dhash._scan import ScanReport, Unreadable
from mobius.dhash._search import HammingIndex, Neighbours, Pairs
from mobius.dhash._thumbnail import thumbnail_of
from mobius.dhash._verification import MemoryBudget
from mobius.dhash._verification_image import VerificationImage, load_for_verification
from mobius.dhash._verifier import VERIFIED_FILE_MAX_BYTES
from mobius.dhash.errors import (
    BrokenPictureError,
    DecoderCrashedError,
    DecodingLimitError,
    MislabelledError,
    NotAPictureError,
    PictureError,
    TooManyPixelsError,
    UnopenedPictureError,
)

__all__ = [
    "ALGORITHMS",
    "CONTENT_TYPES",
    "FORMATS",
    "MAX_PIXELS",
    "VERIFIED_FILE_MAX_BYTES",
    "VERIFIED_PER_SEARCH",
    "BrokenPictureError",
    "Confidence",
    "Decision",
    "DecisionKind",
    "Decoder",
    "DecoderCrashedError",
    "Decoding",
    "DecodingLimitError",
    "DecodingPool",
    "Dhash",
    "ExportFormat",
    "Fingerprint",
    "Group",
    "HammingIndex",
    "ImportReport",
    "Library",
    "Member",
    "MemoryBudget",
    "MislabelledError",
    "Mode",
    "Neighbours",
    "NotAPictureError",
    "Pairs",
    "Picture",
    "PictureError",
    "PoolLimits",
    "QueueFullError",
    "ReviewPair",
    "ScanReport",
    "SearchMatch",
    "TooManyPixelsError",
    "Transform",
    "UnopenedPictureError",
    "Unreadable",
    "VerificationImage",
    "hash_bytes",
    "hash_file",
    "hash_image",
    "load_for_verification",
    "thumbnail_of",
    "usable_cpus",
]
