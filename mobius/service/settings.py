# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings from a TOML file and from `MOBIUS_` environment variables, checked before anything starts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from mobius.dhash import FORMATS, usable_cpus
from mobius.errors import MobiusError
from mobius.logs import LEVELS

PREFIX: Final = "MOBIUS_"
FILE: Final = "settings_file"
"""The path of the file with the settings; only the environment can name it."""

_LOOPBACK: Final = "127.0.0.1"
_RELEASE: Final = re.compile(r"([0-9a-z.]+)-[0-9a-f]{12}")
_T = TypeVar("_T")


@dataclass(frozen=True)
class ServiceSettings:
    """The settings of an instance. The file has them by name; the environment, which has precedence, by the name in
    capitals after `MOBIUS_`.

    Attributes:
        environment: production logs to `log_file` only; development logs to standard output.
        service: the service's name.
        release_id: `<version>-<12 hex>`; required in production.
        version: that of the release id by default.
        address: HOST:PORT to listen on; by default that of `HOST` and `PORT`. Required in production.
        state_file: file with the state in which the front has this instance: `standby`, `serving` or `draining`.
            Without one it serves.
        client_address: where logs take a client's address from: its connection, or `X-Forwarded-For`, which every
            front replaces; `forwarded` is for an address that clients cannot reach.
        log_file, log_level: the log file in production, and the lowest level that is logged.
        index: SQLite index of the host's library; without it only `/v1/hash` works.
        tokens: file with the hashes of the bearer tokens (`mobius dhash token` makes them).
        writes: `token`, or `open` for everybody who can reach the service; `open` is for a laptop.
        reads: `open`, or `token`. Health and metrics stay open.
        hosts: `any`, or `local` for requests to a name of this machine only, and from no page of another site: without
            that, a web page can make a browser on this machine read (DNS rebinding). `local` by default where `writes`
            is `open` and `client_address` is `connection`.
        formats: accepted picture formats; others get 415.
        threads: processes that hash common pictures at the same time; by default the number of CPUs, 2 to 4.
        max_connections: open at the same time; further ones get 503.
        max_in_flight: requests under /v1 worked on at the same time; further ones get 503.
        max_body_bytes: size of a request body; a longer one gets 413.
        max_parts: pictures in one multipart request; more get 413.
        max_pixels: size of a picture; a larger one gets 413.
        bodies_bytes: size of all bodies held at the same time; a request that does not fit gets 503.
        decode_pixels: size of all pictures compared at the same time; a picture that does not fit waits.
        decode_bytes: memory that decoding a picture may take, and a quarter of it for a common one; what needs more
            gets 413.
        head_timeout: seconds in which a request's head must arrive, once it has begun.
        body_timeout: seconds in which a request's body must arrive, and in which a client must read its answer.
        idle_timeout: seconds that an idle keep-alive connection stays open.
        drain_deadline: seconds that open connections have to finish.
        disk_free_bytes: with less free space beside the index, health is `warn`.
    """

    environment: Literal["production", "development"] = "development"
    service: str = "mobius-dhash"
    release_id: str = "0.0.0.dev-000000000000"
    version: str = "0.0.0.dev"
    address: tuple[str, int] = (_LOOPBACK, 8080)
    state_file: Path | None = None
    client_address: Literal["connection", "forwarded"] = "connection"
    log_file: Path | None = None
    log_level: str = "INFO"
    index: Path | None = None
    tokens: Path | None = None
    writes: Literal["token", "open"] = "token"
    reads: Literal["token", "open"] = "open"
    hosts: Literal["any", "local"] = "any"
    formats: tuple[str, ...] = FORMATS
    threads: int = 2
    max_connections: int = 2048
    max_in_flight: int = 128
    max_body_bytes: int = 32_000_000
    max_parts: int = 64
    max_pixels: int = 50_000_000
    bodies_bytes: int = 96_000_000
    decode_pixels: int = 50_000_000
    decode_bytes: int = 268_435_456
    head_timeout: float = 10.0
    body_timeout: float = 60.0
    idle_timeout: float = 75.0
    drain_deadline: float = 30.0
    disk_free_bytes: int = 500_000_000

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ServiceSettings:
        """Read the variables, and the file that `MOBIUS_SETTINGS_FILE` names.

        Raises:
            MobiusError: a setting is unknown, missing or not valid; the message says which, where, and what it must be.
        """
        variables = {name.removeprefix(PREFIX).lower(): value for name, value in environment.items()
                     if name.startswith(PREFIX)}  # fmt: skip
        origins = {name: f"{PREFIX}{name.upper()}" for name in [*cls.__dataclass_fields__, *variables]}
        texts = dict(variables)
        file = texts.pop(FILE, None)
        if file is not None:
            for name, value in _read_file(file).items():
                if name not in variables:
                    texts[name] = value
                    origins[name] = f"{name} in {file}"
        # a shell may have them for other reasons, so that what is set for this service counts first
        if environment.get("PORT") and "address" not in texts:
            texts["address"] = f"{environment.get('HOST') or _LOOPBACK}:{environment['PORT']}"
            origins["address"] = "HOST:PORT"
        unknown = sorted(texts.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            raise _invalid(origins[unknown[0]], "is not a setting of the service")

        def read(name: str, parse: Callable[[str], _T | None], must: str, default: _T) -> _T:
            if name not in texts:
                return default
            value = parse(texts[name])
            if value is None:
                raise _invalid(origins[name], f"must be {must}, not {texts[name]!r}")
            return value

        def integer(name: str, low: int, high: int) -> int:
            return read(name, _integer(low, high), f"{low} to {high}", int(getattr(cls, name)))

        def seconds(name: str, low: float, high: float) -> float:
            return read(name, _seconds(low, high), f"{low:g} to {high:g} seconds", float(getattr(cls, name)))

        def path(name: str) -> Path | None:
            return read(name, _path, "an absolute path", None)

        production = read("environment", _choice("production", "development"), "production or development",
                          "development") == "production"  # fmt: skip
        for required in ("release_id", "address", "log_file") if production else ():
            if required not in texts:
                raise _invalid(origins[required], "must be set in production")
        release = read("release_id", _release, "<version>-<12 hexadecimal digits>", cls.release_id)
        writes = read("writes", _one_of("token", "open"), "token or open", cls.writes)
        client_address = read("client_address", _one_of("connection", "forwarded"), "connection or forwarded",
                              cls.client_address)  # fmt: skip
        is_open = writes == "open" and client_address == "connection"
        settings = cls(
            environment="production" if production else "development",
            service=read("service", _name, "a name of a-z, 0-9 and -", cls.service),
            release_id=release,
            version=read("version", _text, "a version", release.rpartition("-")[0]),
            address=read("address", _address, "HOST:PORT", cls.address),
            state_file=path("state_file"),
            client_address=client_address,
            log_file=path("log_file"),
            log_level=read("log_level", _choice(*LEVELS), f"one of {', '.join(LEVELS)}", cls.log_level),
            index=path("index"),
            tokens=path("tokens"),
            writes=writes,
            reads=read("reads", _one_of("token", "open"), "token or open", cls.reads),
            hosts=read("hosts", _one_of("any", "local"), "any or local", "local" if is_open else "any"),
            formats=read("formats", _formats, f"some of {','.join(FORMATS)}", cls.formats),
            threads=read("threads", _integer(1, 256), "1 to 256", min(4, max(2, usable_cpus()))),
            max_connections=integer("max_connections", 1, 1 << 20),
            max_in_flight=integer("max_in_flight", 1, 65536),
            max_body_bytes=integer("max_body_bytes", 1, 1 << 31),
            max_parts=integer("max_parts", 1, 10_000),
            max_pixels=integer("max_pixels", 1, 1 << 31),
            bodies_bytes=integer("bodies_bytes", 1, 1 << 40),
            decode_pixels=integer("decode_pixels", 1, 1 << 40),
            decode_bytes=integer("decode_bytes", 1 << 25, 1 << 40),
            head_timeout=seconds("head_timeout", 0.1, 3600),
            body_timeout=seconds("body_timeout", 1, 3600),
            idle_timeout=seconds("idle_timeout", 1, 3600),
            drain_deadline=seconds("drain_deadline", 0, 3600),
            disk_free_bytes=integer("disk_free_bytes", 0, 1 << 50),
        )  # fmt: skip
        for part, total in (("max_body_bytes", "bodies_bytes"), ("max_pixels", "decode_pixels")):
            minimum, value = getattr(settings, part), getattr(settings, total)
            if value < minimum:
                raise _invalid(origins[total], f"must be {part} ({minimum}) or more, not {value}")
        if settings.reads == "token" and settings.tokens is None:
            raise _invalid(origins["tokens"], "must be set when `reads` is `token`")
        return settings


def _read_file(name: str) -> dict[str, str]:
    """The settings of the file, each as the text that a variable would hold."""
    path = Path(name)
    if not path.is_absolute():
        raise _invalid(f"{PREFIX}{FILE.upper()}", f"must be an absolute path, not {name!r}")
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
    raise _invalid(f"{key} in {path}", "must be a text, a number or a list of texts")


def _invalid(origin: str, problem: str) -> MobiusError:
    return MobiusError("invalid_input", f"{origin} {problem}.")


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


def _integer(low: int, high: int) -> Callable[[str], int | None]:
    return lambda text: int(text) if re.fullmatch(r"[0-9]{1,15}", text) and low <= int(text) <= high else None


def _address(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)
