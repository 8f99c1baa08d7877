# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings from `MOBIUS_` environment variables, checked before anything starts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

from mobius.errors import MobiusError
from mobius.logs import LEVELS

PREFIX: Final = "MOBIUS_"
_RELEASE: Final = re.compile(r"([0-9a-z.]+)-[0-9a-f]{12}")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Settings:
    """What an instance is told. Each field is the variable of its name in capitals, with `MOBIUS_` before it.

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
        drain_deadline: seconds that open connections get to finish.
        idle_timeout: seconds that an idle keep-alive connection stays open.
        body_timeout: seconds in which a request's body must have arrived.
        index: SQLite index of the host's library.
        threads: pictures hashed at the same time; the number of CPUs when not given.
        max_in_flight: hash requests accepted at the same time; more get 503.
        max_body_bytes: of a request; more gets 413.
        max_pixels: of a picture; more gets 413.
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
    drain_deadline: float = 30.0
    idle_timeout: float = 75.0
    body_timeout: float = 60.0
    index: Path | None = None
    threads: int = 2
    max_in_flight: int = 128
    max_body_bytes: int = 32_000_000
    max_pixels: int = 50_000_000

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the variables.

        Raises:
            MobiusError: one sentence that names the variable and what it must be.
        """
        given = {name.removeprefix(PREFIX).lower(): value for name, value in environment.items()
                 if name.startswith(PREFIX)}  # fmt: skip
        unknown = sorted(given.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            raise _bad(unknown[0], "is no setting of the service")

        def read(name: str, parse: Callable[[str], _T | None], must: str, default: _T) -> _T:
            if name not in given:
                return default
            value = parse(given[name])
            if value is None:
                raise _bad(name, f"must be {must}, not {given[name]!r}")
            return value

        surroundings = read("environment", _choice("production", "development"), "production or development",
                            "development")  # fmt: skip
        production = surroundings == "production"
        for needed in ("release_id", "admin_socket", "log_file") if production else ():
            if needed not in given and not (needed == "admin_socket" and "run_dir" in given):
                raise _bad(needed, "must be set in production")
        release = read("release_id", _release, "<version>-<12 hexadecimal digits>", cls.release_id)
        run_dir = read("run_dir", _path, "an absolute path", None)
        own = None if run_dir is None else run_dir / release / "admin.sock"
        return cls(
            environment="production" if production else "development",
            service=read("service", _name, "a name of a-z, 0-9 and -", cls.service),
            release_id=release,
            version=read("version", _text, "a version", release.rpartition("-")[0]),
            start=read("start", _start, "serving or standby", "standby" if production else "serving"),
            run_dir=run_dir,
            admin_socket=read("admin_socket", _path, "an absolute path", own),
            listen=read("listen", _listen, "systemd, none or HOST:PORT", cls.listen),
            log_file=read("log_file", _path, "an absolute path", None),
            log_level=read("log_level", _choice(*LEVELS), f"one of {', '.join(LEVELS)}", cls.log_level),
            drain_deadline=read("drain_deadline", _seconds(0, 3600), "0 to 3600 seconds", cls.drain_deadline),
            idle_timeout=read("idle_timeout", _seconds(1, 3600), "1 to 3600 seconds", cls.idle_timeout),
            body_timeout=read("body_timeout", _seconds(1, 3600), "1 to 3600 seconds", cls.body_timeout),
            index=read("index", _path, "an absolute path", None),
            threads=read("threads", _whole(1, 256), "1 to 256", max(2, len(os.sched_getaffinity(0)))),
            max_in_flight=read("max_in_flight", _whole(1, 65536), "1 to 65536", cls.max_in_flight),
            max_body_bytes=read("max_body_bytes", _whole(1, 1 << 31), f"1 to {1 << 31}", cls.max_body_bytes),
            max_pixels=read("max_pixels", _whole(1, 1 << 31), f"1 to {1 << 31}", cls.max_pixels),
        )


def _bad(name: str, what: str) -> MobiusError:
    return MobiusError("invalid_input", f"{PREFIX}{name.upper()} {what}.")


def _choice(*allowed: str) -> Callable[[str], str | None]:
    return lambda text: text if text in allowed else None


def _start(text: str) -> Literal["serving", "standby"] | None:
    return "serving" if text == "serving" else "standby" if text == "standby" else None


def _release(text: str) -> str | None:
    return text if _RELEASE.fullmatch(text) else None


def _name(text: str) -> str | None:
    return text if re.fullmatch(r"[a-z0-9][a-z0-9-]*", text) else None


def _text(text: str) -> str | None:
    return text if text.isprintable() and text else None


def _path(text: str) -> Path | None:
    path = Path(text)
    return path if path.is_absolute() else None


def _seconds(low: float, high: float) -> Callable[[str], float | None]:
    def parse(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        return value if low <= value <= high else None

    return parse


def _whole(low: int, high: int) -> Callable[[str], int | None]:
    return lambda text: int(text) if re.fullmatch(r"[0-9]{1,12}", text) and low <= int(text) <= high else None


def _listen(text: str) -> Literal["systemd", "none"] | tuple[str, int] | None:
    if text == "systemd":
        return "systemd"
    if text == "none":
        return "none"
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)
