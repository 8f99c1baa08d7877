# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The tables of an index, and how an index of an older schema becomes one of this.

Opening an index brings it forward, one transaction a step: killed anywhere, an index has the old schema or the new one.
Only `mobius dhash migrate schema` reverses steps.

Two releases work on one index while one takes over from the other, so a migration *expands* first: it adds what the new
release needs and leaves what the old one uses, and says in `compatible` which is the oldest schema whose releases may
go on. A later one *contracts*: it drops the old form when no release that is kept needs it any more, and raises that
figure. All statements name their columns, so that added ones do not disturb them. Schema 2 does both at once: schema 1
knew neither `compatible` nor a release that was ever kept. Schemas 3 and 4 leave what schema 2 uses, so its releases go
on.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from typing import Final

from mobius.errors import MobiusError

SCHEMA: Final = 4
"""`PRAGMA user_version` of the indexes written here."""

APPLICATION: Final = 1836016233
"""`PRAGMA application_id` from schema 2 on: "mobi"."""

_FIRST: Final = """
CREATE TABLE images (
    root TEXT NOT NULL, path TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    sha256 TEXT NOT NULL, algorithm TEXT NOT NULL,
    rows INTEGER NOT NULL, columns INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, format TEXT NOT NULL,
    release TEXT NOT NULL, written_at TEXT NOT NULL,
    PRIMARY KEY (root, path)
) WITHOUT ROWID;
CREATE TABLE unreadable (
    root TEXT NOT NULL, path TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    reason TEXT NOT NULL, release TEXT NOT NULL, written_at TEXT NOT NULL,
    PRIMARY KEY (root, path)
) WITHOUT ROWID;
"""

# Pictures are contents, known by their SHA-256, and files are places where they lie: a renamed file keeps its picture,
# a copy costs no second decoding, and a file has one row whichever of the folders above it is scanned.
_SECOND: Final = """
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice, as others follow the changes by it
    sha256 TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
    algorithm TEXT NOT NULL, rows INTEGER NOT NULL, columns INTEGER NOT NULL,
    look BLOB, -- NULL in what schema 1 wrote, until the next scan
    width INTEGER NOT NULL, height INTEGER NOT NULL, format TEXT NOT NULL,
    warnings TEXT NOT NULL DEFAULT '',
    posted INTEGER NOT NULL DEFAULT 0, -- stays without any file
    quarantined INTEGER NOT NULL DEFAULT 0, -- written by a release that proved bad
    release TEXT NOT NULL, written_at TEXT NOT NULL
);
CREATE TABLE files (
    path BLOB PRIMARY KEY, -- absolute, the bytes that the file system knows
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    picture INTEGER REFERENCES pictures(id),
    reason TEXT, -- why there is no picture
    readers TEXT, -- what found that; others try again
    CHECK ((picture IS NULL) = (reason IS NOT NULL))
) WITHOUT ROWID;
CREATE INDEX files_by_picture ON files(picture) WHERE picture IS NOT NULL;
CREATE TABLE thumbnails (picture INTEGER PRIMARY KEY REFERENCES pictures(id), data BLOB NOT NULL);
CREATE TABLE decisions (
    first TEXT NOT NULL, second TEXT NOT NULL, -- SHA-256, so that they outlive every row above
    decision TEXT NOT NULL CHECK (decision IN ('same', 'different')),
    decided_by TEXT NOT NULL, decided_at TEXT NOT NULL,
    PRIMARY KEY (first, second), CHECK (first < second)
) WITHOUT ROWID;
CREATE TABLE changes (number INTEGER PRIMARY KEY AUTOINCREMENT, picture INTEGER NOT NULL);
CREATE TABLE compatible (schema INTEGER PRIMARY KEY, oldest INTEGER NOT NULL);
INSERT INTO compatible VALUES (2, 2);

INSERT INTO pictures (sha256, size, algorithm, rows, columns, width, height, format, release, written_at)
SELECT sha256, size, algorithm, rows, columns, width, height, format, release, written_at FROM (
    SELECT *, row_number() OVER (PARTITION BY sha256 ORDER BY written_at DESC, root, path) AS place FROM images
) WHERE place = 1 ORDER BY sha256;
INSERT OR IGNORE INTO files (path, size, mtime_ns, inode, picture)
SELECT CAST(rtrim(root, '/') || '/' || path AS BLOB), images.size, mtime_ns, 0, id
FROM images JOIN pictures USING (sha256) ORDER BY images.written_at DESC;
INSERT OR IGNORE INTO files (path, size, mtime_ns, inode, reason, readers)
SELECT CAST(rtrim(root, '/') || '/' || path AS BLOB), size, mtime_ns, 0, reason, ''
FROM unreadable ORDER BY written_at DESC;
DROP TABLE images;
DROP TABLE unreadable;

CREATE TRIGGER picture_added AFTER INSERT ON pictures BEGIN
    INSERT INTO changes (picture) VALUES (NEW.id);
END;
CREATE TRIGGER picture_changed AFTER UPDATE OF rows, columns, look, quarantined ON pictures BEGIN
    INSERT INTO changes (picture) VALUES (NEW.id);
END;
CREATE TRIGGER picture_removed AFTER DELETE ON pictures BEGIN
    INSERT INTO changes (picture) VALUES (OLD.id);
    DELETE FROM thumbnails WHERE picture = OLD.id;
END;
-- whoever is further behind than this reads everything anew
CREATE TRIGGER change_forgotten AFTER INSERT ON changes BEGIN
    DELETE FROM changes WHERE number <= NEW.number - 100000;
END;
CREATE TRIGGER file_removed AFTER DELETE ON files WHEN OLD.picture IS NOT NULL BEGIN
    DELETE FROM pictures WHERE id = OLD.picture AND NOT posted
    AND NOT EXISTS (SELECT 1 FROM files WHERE picture = OLD.picture);
END;
CREATE TRIGGER file_changed AFTER UPDATE OF picture ON files WHEN OLD.picture IS NOT NEW.picture BEGIN
    DELETE FROM pictures WHERE id = OLD.picture AND NOT posted
    AND NOT EXISTS (SELECT 1 FROM files WHERE picture = OLD.picture);
END;
PRAGMA application_id = 1836016233;
"""

_CHANGED_WITH_PROOFS: Final = """\
CREATE TRIGGER picture_changed_with_proofs AFTER UPDATE OF sha256, quarantined ON pictures
WHEN NEW.quarantined OR NEW.sha256 != OLD.sha256 BEGIN
    DELETE FROM proofs WHERE first = OLD.id;
    DELETE FROM proofs WHERE second = OLD.id;
    DELETE FROM proofs WHERE NEW.quarantined AND release = OLD.release;
END;"""

# What was found of pairs of pictures by their pixels. Releases of different rules work on one index, so each keeps its
# own verdicts. Those of schema 2 know nothing of them: what goes with a picture or a bad release goes by itself.
_THIRD: Final = f"""
CREATE TABLE proofs (
    first INTEGER NOT NULL, second INTEGER NOT NULL, -- ids of pictures
    rule INTEGER NOT NULL, -- what decided
    proven INTEGER NOT NULL,
    release TEXT NOT NULL,
    PRIMARY KEY (first, second, rule), CHECK (first < second)
) WITHOUT ROWID;
CREATE INDEX proofs_by_second ON proofs(second);
CREATE INDEX proofs_by_release ON proofs(release);
CREATE TRIGGER picture_removed_with_proofs AFTER DELETE ON pictures BEGIN
    DELETE FROM proofs WHERE first = OLD.id;
    DELETE FROM proofs WHERE second = OLD.id;
END;
{_CHANGED_WITH_PROOFS}
INSERT INTO compatible VALUES (3, 2);
"""  # noqa: S608 - a constant

# No command ever quarantined the pictures of a bad release: the golden probes refuse wrong hashes before a client meets
# them, and a scan hashes again what another algorithm wrote. The column stays, as releases of schemas 2 and 3 name it.
_FOURTH: Final = """
UPDATE pictures SET look = NULL, quarantined = 0 WHERE quarantined; -- the next scan hashes these again
DROP TRIGGER picture_changed;
CREATE TRIGGER picture_changed AFTER UPDATE OF rows, columns, look ON pictures BEGIN
    INSERT INTO changes (picture) VALUES (NEW.id);
END;
DROP TRIGGER picture_changed_with_proofs;
CREATE TRIGGER picture_changed_with_proofs AFTER UPDATE OF sha256 ON pictures WHEN NEW.sha256 != OLD.sha256 BEGIN
    DELETE FROM proofs WHERE first = OLD.id;
    DELETE FROM proofs WHERE second = OLD.id;
END;
DROP INDEX proofs_by_release;
INSERT INTO compatible VALUES (4, 2);
"""

MIGRATIONS: Final = {1: _FIRST, 2: _SECOND, 3: _THIRD, 4: _FOURTH}
"""Schema to the statements that make it out of the one before."""

# The verdicts go, as schema 2 has nowhere to keep them; they are made of the pictures again.
_WITHOUT_THIRD: Final = """
DROP TRIGGER picture_removed_with_proofs;
DROP TRIGGER picture_changed_with_proofs;
DROP TABLE proofs;
DELETE FROM compatible WHERE schema = 3;
"""

_WITHOUT_FOURTH: Final = f"""
DROP TRIGGER picture_changed;
CREATE TRIGGER picture_changed AFTER UPDATE OF rows, columns, look, quarantined ON pictures BEGIN
    INSERT INTO changes (picture) VALUES (NEW.id);
END;
DROP TRIGGER picture_changed_with_proofs;
{_CHANGED_WITH_PROOFS}
CREATE INDEX proofs_by_release ON proofs(release);
DELETE FROM compatible WHERE schema = 4;
"""  # noqa: S608 - a constant

REVERSALS: Final = {4: _WITHOUT_FOURTH, 3: _WITHOUT_THIRD}
"""Schema to the statements that make the one before out of it. Schema 1 cannot hold what an index has since."""

OLDEST_SCHEMA: Final = min(REVERSALS) - 1
"""The oldest schema to which an index can be brought."""


def prepare(connection: sqlite3.Connection, name: str) -> None:
    """Bring an open index to `SCHEMA`. The connection must be in autocommit mode.

    Raises:
        MobiusError: it is another program's database, or of a schema that this release does not know.
        sqlite3.Error: it is no database, or cannot be written.
    """
    _use_wal(connection)
    while not _usable(connection, name):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # another process may have done it while this one waited
            version = _number(connection, "PRAGMA user_version")
            if version < SCHEMA:
                change_schema(connection, name, version + 1)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _usable(connection: sqlite3.Connection, name: str) -> bool:
    """Whether the index can be used as it is; False when it is to be migrated."""
    connection.execute("BEGIN")
    try:
        version = schema_of(connection, name)
        if version <= SCHEMA:
            return version == SCHEMA
        row = connection.execute("SELECT oldest FROM compatible WHERE schema=?", (version,)).fetchone()
        if row is None or row[0] > SCHEMA:
            raise _newer_schema(name, version)
        return True
    finally:
        if connection.in_transaction:  # SQLite may have ended it itself, on a full disk for example
            connection.execute("ROLLBACK")


def schema_of(connection: sqlite3.Connection, name: str) -> int:
    """The schema of an open index, whichever release wrote it; 0 of an empty file.

    Raises:
        MobiusError: it is another program's database.
    """
    version = _number(connection, "PRAGMA user_version")
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type='table'")}
    ours = {0: not tables, 1: {"images", "unreadable"} <= tables}.get(
        version, _number(connection, "PRAGMA application_id") == APPLICATION
    )
    if not ours:
        raise MobiusError("invalid_input", f"{name} is a database of something else.")
    return version


def _newer_schema(name: str, version: int) -> MobiusError:
    return MobiusError(
        "invalid_input",
        f"The index {name} has schema {version}; this release knows schemas up to {SCHEMA}.",
        do_next="Use the release that wrote the index, or a newer one.",
    )


def change_schema(connection: sqlite3.Connection, name: str, target: int) -> None:
    """Bring an index up or down to a schema, in the transaction that the caller has begun.

    Raises:
        MobiusError: it is another program's database, or of a schema that this release does not know.
    """
    version = schema_of(connection, name)
    if version > SCHEMA:
        raise _newer_schema(name, version)
    while version != target:
        up = version < target
        for statement in statements(MIGRATIONS[version + 1] if up else REVERSALS[version]):
            connection.execute(statement)
        version += 1 if up else -1
        connection.execute(f"PRAGMA user_version={version}")


def statements(script: str) -> Iterator[str]:
    """The statements of a script one by one (`executescript` would commit before the first)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _use_wal(connection: sqlite3.Connection) -> None:
    """Several processes may do this to a new file at the same time, and SQLite does not wait for its turn here."""
    deadline = time.monotonic() + 30
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _number(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])
