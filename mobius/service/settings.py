# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings from a TOML file and from `MOBIUS_` environment variables, checked before anything starts."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from mobius.dhash import FORMATS
from mobius.errors import MobiusError
from mobius.logs import LEVELS

PREFIX: Final = "MOBIUS_"
FILE: Final = "settings_file"
"""The one setting that only the environment can give: where the file with the others is."""

DECODE_BYTES: Final = 12
"""Memory that one pixel in work takes at most, in bytes (a transparent picture, laid on white)."""
CONNECTION_BYTES: Final = 96_000
"""Memory that one connection takes at most: a head, and what was read of a body ahead of the limits."""
BASE_BYTES: Final = 160_000_000
"""The interpreter, its libraries and an index of a hundred thousand pictures."""

_RELEASE: Final = re.compile(r"([0-9a-z.]+)-[0-9a-f]{12}")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Settings:
    """What an instance is told. In the file each has its name; in the environment, which wins, the same in capitals
    with `MOBIUS_` before it.

    Attributes:
        environment: production logs to `log_file` only; development logs to standard output.
        service: the service's name.
        release_id: `<version>-<12 hex>`; needed in production.
        version: taken from the release id when not given.
        start: what the instance does first. Standby in production, serving in development, unless told otherwise.
        run_dir: the folder that holds one folder for each running release.
        admin_socket: path of the Unix socket; `run_dir/release_id/admin.sock` when only `run_dir` is given.
        listen: `systemd` (the descriptor handed down), `none` (admin socket only), or HOST:PORT for development.
        log_file, log_level: where the logs go in production, and from which level on.
        index: SQLite index of the host's library; without it only `/v1/hash` works.
        tokens: file with the hashes of the bearer tokens (`mobius dhash token` makes them).
        writes: `token`, or `open` for everybody who reaches the service; `open` is for a laptop.
        reads: `open`, or `token`. Health and metrics stay open.
        formats: those of a picture that is taken; others get 415.
        threads: pictures hashed at the same time; the number of CPUs when not given.
        max_connections: open at the same time; a further one is answered 503.
        max_in_flight: requests under /v1 accepted at the same time; more get 503.
        max_body_bytes: of a request; more gets 413.
        max_parts: pictures in one multipart request; more gets 413.
        max_pixels: of a picture; more gets 413.
        bodies_bytes: of all bodies held at the same time; a request that does not fit gets 503.
        decode_pixels: of all pictures decoded at the same time; a picture that does not fit waits.
        head_timeout: seconds in which a request's head must have arrived, once begun.
        body_timeout: seconds in which a request's body must have arrived, and in which a client must have taken what it
            was sent.
        idle_timeout: seconds that an idle keep-alive connection stays open.
        drain_deadline: seconds that open connections get to finish.
        disk_free_bytes: with less free beside the index, health says `warn`.
    """

    environment: Literal["production", "development"] = "development"
    service: str = "mobius-dhash"
    release_id: str = "0.0.0.dev-000000000000"
    version: str = "0.0.0.dev"
    start: Literal["serving", "standby"] = "serving"
    run_dir: Path | None = None
    admin_socket: Path | None = None
    listen: Literal["systemd", "none"] | tuple[str, int] = "systemd"
    log_file: Path | None = None
    log_level: str = "INFO"
    index: Path | None = None
    tokens: Path | None = None
    writes: Literal["token", "open"] = "token"
    reads: Literal["token", "open"] = "open"
    formats: tuple[str, ...] = FORMATS
    threads: int = 2
    max_connections: int = 2048
    max_in_flight: int = 128
    max_body_bytes: int = 32_000_000
    max_parts: int = 64
    max_pixels: int = 50_000_000
    bodies_bytes: int = 96_000_000
    decode_pixels: int = 50_000_000
    head_timeout: float = 10.0
    body_timeout: float = 60.0
    idle_timeout: float = 75.0
    drain_deadline: float = 30.0
    disk_free_bytes: int = 500_000_000

    @property
    def most_memory(self) -> int:
        """Bytes of memory that the limits allow at most; the unit's own limit must be higher."""
        return (
            BASE_BYTES
            + self.max_connections * CONNECTION_BYTES
            + self.bodies_bytes
            + self.decode_pixels * DECODE_BYTES
        )  # fmt: skip

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the variables, and the file that `MOBIUS_SETTINGS_FILE` names.

        Raises:
            MobiusError: one sentence that names the setting, where it stands and what it must be.
        """
        variables = {name.removeprefix(PREFIX).lower(): value for name, value in environment.items()
                     if name.startswith(PREFIX)}  # fmt: skip
        where = {name: f"{PREFIX}{name.upper()}" for name in [*cls.__dataclass_fields__, *variables]}
        given = dict(variables)
        file = given.pop(FILE, None)
        if file is not None:
            for name, value in _read_file(file).items():
                if name not in variables:
                    given[name] = value
                    where[name] = f"{name} in {file}"
        unknown = sorted(given.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            raise _bad(where[unknown[0]], "is no setting of the service")

        def read(name: str, parse: Callable[[str], _T | None], must: str, default: _T) -> _T:
            if name not in given:
                return default
            value = parse(given[name])
            if value is None:
                raise _bad(where[name], f"must be {must}, not {given[name]!r}")
            return value

        def whole(name: str, low: int, high: int) -> int:
            return read(name, _whole(low, high), f"{low} to {high}", int(getattr(cls, name)))

        def seconds(name: str, low: float, high: float) -> float:
            return read(name, _seconds(low, high), f"{low:g} to {high:g} seconds", float(getattr(cls, name)))

        def place(name: str, default: Path | None = None) -> Path | None:
            return read(name, _path, "an absolute path", default)

        production = read("environment", _choice("production", "development"), "production or development",
                          "development") == "production"  # fmt: skip
        for needed in ("release_id", "admin_socket", "log_file") if production else ():
            if needed not in given and not (needed == "admin_socket" and "run_dir" in given):
                raise _bad(where[needed], "must be set in production")
        release = read("release_id", _release, "<version>-<12 hexadecimal digits>", cls.release_id)
        run_dir = place("run_dir")
        settings = cls(
            environment="production" if production else "development",
            service=read("service", _name, "a name of a-z, 0-9 and -", cls.service),
            release_id=release,
            version=read("version", _text, "a version", release.rpartition("-")[0]),
            start=read("start", _one_of("serving", "standby"), "serving or standby",
                       "standby" if production else "serving"),
            run_dir=run_dir,
            admin_socket=place("admin_socket", None if run_dir is None else run_dir / release / "admin.sock"),
            listen=read("listen", _listen, "systemd, none or HOST:PORT", cls.listen),
            log_file=place("log_file"),
            log_level=read("log_level", _choice(*LEVELS), f"one of {', '.join(LEVELS)}", cls.log_level),
            index=place("index"),
            tokens=place("tokens"),
            writes=read("writes", _one_of("token", "open"), "token or open", cls.writes),
            reads=read("reads", _one_of("token", "open"), "token or open", cls.reads),
            formats=read("formats", _formats, f"some of {','.join(FORMATS)}", cls.formats),
            threads=read("threads", _whole(1, 256), "1 to 256", max(2, len(os.sched_getaffinity(0)))),
            max_connections=whole("max_connections", 1, 1 << 20),
            max_in_flight=whole("max_in_flight", 1, 65536),
            max_body_bytes=whole("max_body_bytes", 1, 1 << 31),
            max_parts=whole("max_parts", 1, 10_000),
            max_pixels=whole("max_pixels", 1, 1 << 31),
            bodies_bytes=whole("bodies_bytes", 1, 1 << 40),
            decode_pixels=whole("decode_pixels", 1, 1 << 40),
            head_timeout=seconds("head_timeout", 0.1, 3600),
            body_timeout=seconds("body_timeout", 1, 3600),
            idle_timeout=seconds("idle_timeout", 1, 3600),
            drain_deadline=seconds("drain_deadline", 0, 3600),
            disk_free_bytes=whole("disk_free_bytes", 0, 1 << 50),
        )  # fmt: skip
        for part, sum_of_all in (("max_body_bytes", "bodies_bytes"), ("max_pixels", "decode_pixels")):
            least, value = getattr(settings, part), getattr(settings, sum_of_all)
            if value < least:
                raise _bad(where[sum_of_all], f"must be {part} ({least}) or more, not {value}")
        if settings.reads == "token" and settings.tokens is None:
            raise _bad(where["tokens"], "must be set when reads want a token")
        return settings


def _read_file(name: str) -> dict[str, str]:
    """The file's settings as the text that a variable would hold."""
    path = Path(name)
    if not path.is_absolute():
        raise _bad(f"{PREFIX}{FILE.upper()}", f"must be an absolute path, not {name!r}")
    try:
        with path.open("rb") as stream:
            tables = tomllib.load(stream)
    except OSError as error:
        raise MobiusError("invalid_input", f"The settings {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MobiusError("invalid_input", f"The settings {path} are not TOML: {str(error).rstrip('.')}.") from error
    return {key: _as_text(path, key, value) for key, value in tables.items()}


def _as_text(path: Path, key: str, value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        return ",".join(value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise _bad(f"{key} in {path}", "must be a text, a number or a list of texts")


def _bad(where: str, what: str) -> MobiusError:
    return MobiusError("invalid_input", f"{where} {what}.")


def _choice(*allowed: str) -> Callable[[str], str | None]:
    return lambda text: text if text in allowed else None


def _one_of(first: _T, second: _T) -> Callable[[str], _T | None]:
    return lambda text: first if text == first else second if text == second else None


def _release(text: str) -> str | None:
    return text if _RELEASE.fullmatch(text) else None


def _name(text: str) -> str | None:
    return text if re.fullmatch(r"[a-z0-9][a-z0-9-]*", text) else None


def _text(text: str) -> str | None:
    return text if text.isprintable() and text else None


def _path(text: str) -> Path | None:
    path = Path(text)
    return path if path.is_absolute() else None


def _formats(text: str) -> tuple[str, ...] | None:
    names = tuple(name.strip().upper() for name in text.split(","))
    return names if set(names) <= set(FORMATS) else None


def _seconds(low: float, high: float) -> Callable[[str], float | None]:
    def parse(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        return value if low <= value <= high else None

    return parse


def _whole(low: int, high: int) -> Callable[[str], int | None]:
    return lambda text: int(text) if re.fullmatch(r"[0-9]{1,15}", text) and low <= int(text) <= high else None


def _listen(text: str) -> Literal["systemd", "none"] | tuple[str, int] | None:
    if text == "systemd":
        return "systemd"
    if text == "none":
        return "none"
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)
