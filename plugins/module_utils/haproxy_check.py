# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether HAProxy accepts a configuration, before it is used."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator

from .errors import MobiusError
from .host.front.configuration import LISTENER, LISTENER_COUNT, REDIRECT_LISTENER
from .host.front.settings import FrontSettings
from .host.front.slots import HOST

HAPROXY = "haproxy"
CHECK_TIMEOUT_SECONDS = 20.0
REASON_MAX_CHARS = 300


def check_configuration(
    settings: FrontSettings, text: str, *, haproxy: str = HAPROXY, timeout: float = CHECK_TIMEOUT_SECONDS
) -> tuple[str, ...]:
    """Let HAProxy check a configuration, without using it.

    For the check, the listening sockets are those of this process, the maps are empty, and the page is another file.

    Args:
        timeout: seconds.

    Returns:
        HAProxy's warnings.

    Raises:
        MobiusError: `invalid_input` with HAProxy's first message; `missing_dependency` without HAProxy;
            `environment_failed` when HAProxy cannot be run or was killed; `timeout`.
    """
    with socket.socket() as listener, socket.socket() as redirect_listener, tempfile.NamedTemporaryFile() as page:
        descriptors = {}
        for name, one in ((LISTENER, listener), (REDIRECT_LISTENER, redirect_listener)):
            one.bind((HOST, 0))
            descriptors[name] = one.fileno()
        checked = re.sub(r"\bbind (fd@[34])\b", lambda match: f"bind fd@{descriptors[match[1]]}", text)
        for path in (settings.releases_path, settings.maintenance_map_path):
            checked = checked.replace(f"map({path},", "map(/dev/null,")
        page.write(settings.maintenance_page.encode())
        page.flush()
        checked = checked.replace(f" file {settings.maintenance_page_path} ", f" file {page.name} ")
        try:
            done = subprocess.run(
                [haproxy, "-c", "-f", "/dev/stdin"],
                input=checked.encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=tuple(descriptors.values()),
                env={**os.environ, "LISTEN_FDS": str(LISTENER_COUNT)},
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError:
            raise MobiusError(
                "missing_dependency",
                f"HAProxy is not installed: there is no command {haproxy}.",
                do_next="Run playbooks/provision.yml (or `mobius provision`) for the host, which installs it.",
            ) from None
        except OSError as error:
            raise MobiusError("environment_failed", f"{haproxy} cannot be run: {error.strerror or error}.") from None
        except subprocess.TimeoutExpired:
            raise MobiusError(
                "timeout", f"{haproxy} had not checked the configuration of {settings.service} after {timeout:g} s."
            ) from None
    output = done.stdout.decode("utf-8", "replace")
    for name, descriptor in descriptors.items():
        output = output.replace(f"'bind fd@{descriptor}'", f"'bind {name}'")
    if done.returncode < 0:
        raise MobiusError(
            "environment_failed", f"{haproxy} was killed by signal {-done.returncode} while it checked a configuration."
        )
    if done.returncode:
        message = next(_messages(output, "ALERT", text), f"it ended with {done.returncode} and no message")
        raise MobiusError("invalid_input", f"HAProxy refuses the configuration of {settings.service}: {message}.")
    return tuple(_messages(output, "WARNING", text))


_MESSAGE = re.compile(r"\[(?P<level>[A-Z]+)\]\s+\(\d+\) : (?:config : )?(?P<text>.*)")
_PARSING = re.compile(r"parsing \[/dev/stdin:(?P<line>\d+)\] ?:? ?")


def _messages(output: str, level: str, text: str) -> Iterator[str]:
    """HAProxy's messages of a level, with the text of the line that each is about."""
    lines = text.splitlines()
    for line in output.splitlines():
        match = _MESSAGE.match(line)
        if match is None or match["level"] != level:
            continue
        message = match["text"].strip().rstrip(".")
        if parsing := _PARSING.match(message):
            number = int(parsing["line"])
            shown = lines[number - 1].strip() if 0 < number <= len(lines) else ""
            message = f"{message[parsing.end() :]}, in the line {shown!r}"
        yield "".join(char if char.isprintable() else "?" for char in message)[:REASON_MAX_CHARS]
