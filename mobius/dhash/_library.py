# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The index of a library: one SQLite file (WAL, schema versioned) beside folders of pictures that are only read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import TextIO

from mobius.dhash._candidates import CandidateIndex
from mobius.dhash._cpus import usable_cpus
from mobius.dhash._database import BUSY_TIMEOUT_SECONDS, Database
from mobius.dhash._decisions import Decision, DecisionKind, decide, decisions
from mobius.dhash._decoder import Decoder, InProcessDecoder
from mobius.dhash._decoding import MAX_PIXELS
from mobius.dhash._duplicates import Duplicates, Group, ReviewPair
from mobius.dhash._exchange import ExportFormat, ImportReport, read, write
from mobius.dhash._fingerprint import Dhash, Fingerprint, Mode
from mobius.dhash._picture import (
    USABLE,
    Picture,
    iterate_pictures,
    printable,
    store,
    unchanged_file,
)
from mobius.dhash._picture_search import PictureSearch, SearchMatch
from mobius.dhash._scan import Progress, Scan, ScanReport
from mobius.dhash._schema import SCHEMA
from mobius.dhash._thumbnail import THUMBNAIL_SIDE_PX
from mobius.dhash._verification import MemoryBudget
from mobius.dhash._verification_image import VerificationImage
from mobius.dhash._verifier import CandidateVerifier
from mobius.dhash.errors import PictureError
from mobius.errors import MobiusError


class Library:
    """The index of a library. Any number of threads and processes may use one.

    Args:
        index: the SQLite file; created when missing, migrated to this release's schema when older.
        release: stored with every row written.
        decoder: what decodes pictures for thumbnails and verification; by default this process.
        busy_seconds: how long a write waits for another process that writes.

    Raises:
        MobiusError: the file is no index, or of a newer schema than this release knows. Every method raises it when the
            disk is full (`disk_full`), another process writes for too long (`timeout`), the index is damaged, or its
            file is not the one that was opened any more (`environment_failed`).
    """

    def __init__(
        self,
        index: Path | str,
        *,
        release: str = "none",
        decoder: Decoder | None = None,
        busy_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> None:
        self.index = Path(index)
        self.release = release
        self._database = Database(self.index, busy_seconds=busy_seconds)
        self._candidates = CandidateIndex(self._database)
        self._decoder = decoder or InProcessDecoder()
        self._verifier = CandidateVerifier(self._database, self._candidates, self._decoder)
        self._duplicates = Duplicates(self._database, self._candidates)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_file(self) -> None:
        """Raises MobiusError when the index file was removed, renamed, exchanged or truncated since it was opened."""
        self._database.check_file()

    # -- contents -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """The number of pictures: files, and posted pictures without a file."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM pictures LEFT JOIN files ON picture=id").fetchone()[0])

    def pictures(self) -> Iterator[Picture]:
        """Every picture at each of its paths, by path; posted pictures without a file come first, by SHA-256."""
        with self._database.reading() as connection:
            pictures = [picture for _, picture in iterate_pictures(connection)]
        yield from sorted(pictures, key=lambda picture: (picture.raw_path or b"", picture.sha256))

    def get(self, sha256: str) -> Picture | None:
        """The picture with these bytes, at the path to keep; None when the index has none."""
        with self._database.reading() as connection:
            pictures = [picture for _, picture in iterate_pictures(connection, "sha256=?", (sha256,))]
        return min(pictures, key=lambda picture: picture.keeper_rank, default=None)

    def figures(self) -> dict[str, int]:
        """Counts for health, metrics and pages. The first call pairs the whole library, later ones what changed."""
        groups, questions = self._duplicates.counts()
        with self._database.reading() as connection:
            counts = connection.execute(
                "SELECT (SELECT count(*) FROM pictures),"  # noqa: S608
                " (SELECT count(picture) FROM files),"
                " (SELECT count(*) FROM pictures WHERE posted),"
                " (SELECT count(reason) FROM files),"
                f" (SELECT count(*) FROM pictures WHERE NOT {USABLE}),"
                " (SELECT count(*) FROM decisions)"
            ).fetchone()
        names = ("pictures", "files", "posted", "unreadable", "to_hash_again", "decisions")
        return {
            "schema": SCHEMA,
            **dict(zip(names, counts, strict=True)),
            "groups": groups,
            "review": questions,
        }

    def thumbnail(self, sha256: str, side: int = THUMBNAIL_SIDE_PX) -> bytes | None:
        """A WebP at most `side` pixels wide and high; None when neither a stored one nor an unchanged file exists."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT data FROM thumbnails JOIN pictures ON id=picture WHERE sha256=?", (sha256,)
            ).fetchone()
            pictures = [picture for _, picture in iterate_pictures(connection, "sha256=?", (sha256,))]
        with contextlib.suppress(PictureError):
            if row is not None:
                return bytes(row[0]) if side >= THUMBNAIL_SIDE_PX else self._decoder.thumbnail_of(row[0], side)
            for picture in sorted(pictures, key=lambda picture: picture.keeper_rank):
                if (path := unchanged_file(picture)) is not None:
                    with contextlib.suppress(OSError):
                        return self._decoder.thumbnail_of(path.read_bytes(), side)
        return None

    # -- changes ------------------------------------------------------------------------------------------------

    def scan(
        self,
        folder: Path | str,
        *,
        mode: Mode = "fast",
        threads: int | None = None,
        max_pixels: int = MAX_PIXELS,
        progress: Progress | None = None,
        files: Collection[bytes] | None = None,
    ) -> ScanReport:
        """Bring the index in line with a folder and everything below it, or with some files below it.

        Files that did not change are not read again, unless their picture is of another algorithm than `mode`'s, or
        has no current descriptor; renamed ones are noticed; what disappeared leaves the index. Work is
        committed every few seconds, so a scan that was stopped or killed goes on where it was.

        Args:
            threads: pictures decoded at a time; the number of CPUs when not given. More than one of them, and a
                thousand files to read, and each is a process (of 50 to 100 MB, the picture itself not counted).
            files: absolute paths in the file system's bytes; only these are read then, and none leaves the index.

        Raises:
            MobiusError: the folder does not exist or cannot be listed.
        """
        self._verifier.retry()
        return Scan(
            self._database, folder,
            files=files, release=self.release, mode=mode, threads=threads, max_pixels=max_pixels, progress=progress,
        ).run()  # fmt: skip

    def add(self, fingerprint: Fingerprint, *, thumbnail: bytes | None = None) -> bool:
        """Add a posted picture, without its file. Adding it again changes nothing.

        Args:
            fingerprint: with its descriptor.
            thumbnail: as `thumbnail_of` makes it.

        Returns:
            Whether it was new.
        """
        if fingerprint.descriptor is None:
            raise ValueError("A picture is added with its descriptor: hash it with descriptor=True.")
        with self._database.writing() as connection:
            digest = (fingerprint.sha256,)
            statement = f"SELECT 1 FROM pictures WHERE sha256=? AND {USABLE}"  # noqa: S608
            new = connection.execute(statement, digest).fetchone() is None
            store(connection, [fingerprint], self.release, replace_algorithm=False)
            connection.execute("UPDATE pictures SET posted=1 WHERE sha256=?", digest)
            if thumbnail is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO thumbnails (picture, data) SELECT id, ? FROM pictures WHERE sha256=?",
                    (thumbnail, *digest),
                )
        return new

    def remove(self, sha256: str) -> bool:
        """Remove a posted picture; returns whether there was one.

        Raises:
            MobiusError: it is a file of a scanned folder, so the next scan would add it again.
        """
        with self._database.writing() as connection:
            row = connection.execute(
                "SELECT id, (SELECT path FROM files WHERE picture=id LIMIT 1) FROM pictures WHERE sha256=?", (sha256,)
            ).fetchone()
            if row is None:
                return False
            if row[1] is not None:
                raise MobiusError(
                    "invalid_input", f"The picture is a file of the library: {printable(row[1])}.",
                    do_next="Remove the file and scan its folder again.",
                )  # fmt: skip
            connection.execute("DELETE FROM pictures WHERE id=?", row[:1])
        return True

    def export(self, stream: TextIO, form: ExportFormat = "json") -> int:
        """Write every picture and every decision about one, as JSON or CSV (see `_exchange.py`); returns the number of
        pictures. Open a file with `newline=""`."""
        return write(self.pictures(), self.decisions(), stream, form)

    def import_(self, stream: TextIO, form: ExportFormat = "json") -> ImportReport:
        """Import what `export` wrote. What this index has itself stays as it is.

        Raises:
            MobiusError: the file is wrong. Nothing was written then.
        """
        return read(self._database, stream, form)

    def verify_pairs(
        self,
        *,
        threads: int | None = None,
        max_pixels: int = MAX_PIXELS,
        seconds: float | None = None,
        memory_budget: MemoryBudget | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Verify the candidate pairs that have no verdict yet; until then they need review.

        Only pairs that decide about groups are verified: each picture with the keepers that rank above it, until it has
        joined one. Each file is decoded once for each of the two sizes, as long as memory allows.

        Verdicts are stored, so later calls verify only new pairs. They are committed every few seconds.

        Args:
            threads: pairs verified at a time; by default the number of CPUs.
            max_pixels: larger pictures are not decoded.
            seconds: start no pair after this time.
            memory_budget: entered for each decoding, with the picture's pixels or a third of its file's bytes, if that
                is more, and for each detailed comparison.
            progress: called with pairs done and pairs in all; fewer are left when pictures join groups.

        Returns:
            The number of pairs left: not reached in time, or of a picture that is damaged or whose file is missing or
            has changed.
        """
        threads = threads or usable_cpus()
        return self._verifier.run(
            self.release,
            max_pixels=max_pixels,
            threads=threads,
            seconds=seconds,
            memory_budget=memory_budget,
            progress=progress,
        )

    # -- matches -------------------------------------------------------------------------------------------------

    def search(
        self,
        query: Fingerprint | Dhash,
        *,
        max_distance: int | None = None,
        limit: int = 20,
        transforms: bool = False,
        load_query: Callable[[int], VerificationImage | None] | None = None,
        max_pixels: int = MAX_PIXELS,
        memory_budget: MemoryBudget | None = None,
        verify_seconds: float | None = None,
    ) -> list[SearchMatch]:
        """Find pictures like one; confident matches first, then the nearest.

        Args:
            query: a fingerprint made with `descriptor=True`, or only a hash, of which no match is confident.
            max_distance: everything within so many bits of 128, whatever re-ranking says; by default, what matches.
            limit: matches at most.
            transforms: mirrored and rotated copies as well; needs a fingerprint.
            load_query: gives the query as `load_for_verification` does, for a side in pixels; None when it cannot be
                loaded. It is called when there are candidates, the nearest `VERIFIED_PER_SEARCH` of which are then
                verified. Without it, only what the index knows verified is confident.
            max_pixels, memory_budget: as in `verify_pairs`.
            verify_seconds: begin to verify no candidate after this time.

        Raises:
            MobiusError: `transforms` with only a hash.
        """
        return self.begin_search(
            query, max_distance=max_distance, limit=limit, transforms=transforms, load_query=load_query,
            max_pixels=max_pixels, memory_budget=memory_budget, verify_seconds=verify_seconds,
        ).finish()  # fmt: skip

    def begin_search(
        self,
        query: Fingerprint | Dhash,
        *,
        max_distance: int | None = None,
        limit: int = 20,
        transforms: bool = False,
        load_query: Callable[[int], VerificationImage | None] | None = None,
        max_pixels: int = MAX_PIXELS,
        memory_budget: MemoryBudget | None = None,
        verify_seconds: float | None = None,
    ) -> PictureSearch:
        """The first step of `search`, which opens no picture; its `finish` does, where `needs_pixels` says so."""
        search = PictureSearch(
            self._database, self._candidates, self._verifier, query,
            transforms=transforms, load_query=load_query, max_pixels=max_pixels, memory_budget=memory_budget,
            verify_seconds=verify_seconds,
        )  # fmt: skip
        search.nominate(max_distance, limit)
        return search

    def duplicates(self) -> list[Group]:
        """Every group of duplicates: the same on every run, and every member matches the keeper itself.

        The first call compares all pictures with all, later ones only what changed.
        """
        return self._duplicates.groups()

    def duplicates_page(self, *, after: str | None = None, limit: int = 50) -> list[Group]:
        """Some groups of duplicates, in the order of their keepers' SHA-256, so that a page continues the one before
        even when the library has changed in between.

        Args:
            after: the SHA-256 of the last keeper of the page before.
        """
        return self._duplicates.page(after or "", limit)

    def review(self, *, after: str | None = None, limit: int = 50) -> list[ReviewPair]:
        """What a person should decide, the nearest pairs first.

        There is one pair for each picture or group at a time: with the best match that ranks above it. A decision may
        bring up the next.

        Args:
            after: the id of the last pair of the page before.

        Raises:
            MobiusError: `after` is no such id.
        """
        return self._duplicates.questions(after, limit)

    def decide(self, identity: str, decision: DecisionKind, by: str) -> Decision:
        """Record a person's decision about two pictures: `same` puts them into one group, `different` keeps them in
        separate groups, and the pair is not listed for review again. A later decision replaces an earlier one.

        Args:
            identity: `Doubtful.id` or `Member.pair`.
            by: the name of the person.

        Raises:
            MobiusError: there is no such pair, or an argument is wrong.
        """
        return decide(self._database, identity, decision, by)

    def decisions(self) -> list[Decision]:
        """Every decision, by SHA-256; also those about pictures that are gone, which may return."""
        return decisions(self._database)
