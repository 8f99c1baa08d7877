# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Delivers notifications, in a process of its own: `python -I sender.py`, the standard library only.

So a receiver that hangs holds up nothing of the run. Standard input is `{"seconds": …, "deliveries": […]}`, with the
secrets, which therefore stand in no command line; standard output is `{name: what went wrong}`. No answer and no text
of a library is reported, for both may repeat an address that is secret.
"""

from __future__ import annotations

import email
import email.policy
import json
import os
import smtplib
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is meant for one receiver is not carried to another."""

    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        return None


def deliver(delivery: dict[str, Any], seconds: float) -> None:
    """Hand one notification over.

    Raises:
        OSError, smtplib.SMTPException, ValueError: it was not taken.
    """
    if delivery["kind"] == "email":
        _mail(delivery, seconds)
        return
    request = urllib.request.Request(  # noqa: S310 - http and https only: the settings were checked
        delivery["url"], delivery["body"].encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=seconds):
        pass


def _mail(delivery: dict[str, Any], seconds: float) -> None:
    secure = ssl.create_default_context()
    address = (delivery["host"], delivery["port"])
    if delivery["tls"] == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(*address, timeout=seconds, context=secure)
    else:
        server = smtplib.SMTP(*address, timeout=seconds)
    with server:
        if delivery["tls"] == "starttls":
            server.starttls(context=secure)
        if delivery["user"]:
            server.login(delivery["user"], delivery["password"])
        server.send_message(email.message_from_string(delivery["body"], policy=email.policy.SMTP))


def what_went_wrong(error: Exception) -> str:
    """The end of a sentence about a delivery, without a text of the receiver's."""
    if isinstance(error, urllib.error.HTTPError):
        return f"it answered {error.code}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"it answered {error.smtp_code}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    if isinstance(cause, ssl.SSLError):
        return "its certificate or its TLS is not right"
    if isinstance(cause, socket.gaierror):
        return "its name is not known"
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno).lower()
    return type(error).__name__


def main() -> None:
    """Deliver all at once, and be done after so many seconds whatever the receivers do."""
    request = json.load(sys.stdin)
    problems = {delivery["name"]: "it did not answer in time" for delivery in request["deliveries"]}

    def one(delivery: dict[str, Any]) -> None:
        try:
            deliver(delivery, request["seconds"])
        except (OSError, smtplib.SMTPException, ValueError) as error:
            problems[delivery["name"]] = what_went_wrong(error)
        else:
            del problems[delivery["name"]]

    threads = [threading.Thread(target=one, args=(delivery,), daemon=True) for delivery in request["deliveries"]]
    end = time.monotonic() + request["seconds"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    print(json.dumps(dict(problems)), flush=True)
    os._exit(0)  # a thread that waits for a receiver is not waited for


if __name__ == "__main__":
    main()
