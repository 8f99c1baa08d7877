"""Hides from `mobius` what Python lacks on macOS or on Windows, in this process and in those that it starts.

`MOBIUS_TEST_PLATFORM=macos` or `windows`, with this folder in PYTHONPATH. Only imports by `mobius` are concerned: the
standard library of this machine needs its own modules. What it cannot show is how those systems behave: files that are
open and cannot be replaced, case, reserved names. The jobs `macos` and `windows` of `.github/workflows/ci.yml` do.

Source: "Availability" in the documentation of the modules of Python 3.11 to 3.13.
"""

import builtins
import os
import signal
import types

_ABSENT_MODULES = {
    "macos": {"spwd", "ossaudiodev"},
    "windows": {"crypt", "curses", "fcntl", "grp", "nis", "posix", "pty", "pwd", "readline", "resource", "spwd", "syslog",
                "termios", "tty"},
}  # fmt: skip
_ABSENT_OF_OS = {
    "macos": {"sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "getxattr", "setxattr",
              "memfd_create", "eventfd", "pidfd_open", "copy_file_range", "splice", "fdatasync", "O_TMPFILE", "O_PATH",
              "O_NOATIME", "pipe2", "getresuid", "setns", "unshare"},
    "windows": {"sched_getaffinity", "sched_setaffinity", "fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "setuid",
                "setgid", "getgroups", "initgroups", "getpgid", "setpgid", "getpgrp", "setsid", "killpg", "chown", "fchown",
                "lchown", "fchmod", "fchdir", "pread", "preadv", "pwrite", "pwritev", "readv", "writev", "statvfs", "fstatvfs",
                "mkfifo", "mknod", "sendfile", "posix_fadvise", "posix_fallocate", "fdatasync", "sync", "nice", "getpriority",
                "setpriority", "uname", "getloadavg", "sysconf", "pathconf", "confstr", "wait", "wait3", "wait4", "WNOHANG",
                "openpty", "ttyname", "lockf", "getxattr", "setxattr", "memfd_create", "eventfd", "pidfd_open", "splice",
                "copy_file_range", "pipe2", "setns", "unshare", "chroot", "environb", "getenvb", "O_DIRECTORY", "O_CLOEXEC",
                "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "O_DSYNC", "O_NOCTTY", "O_TMPFILE", "O_PATH", "O_NOATIME", "O_ASYNC"},
}  # fmt: skip
_SIGNALS_OF_WINDOWS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"}


def _without(module: types.ModuleType, absent: set[str], **replaced: object) -> types.ModuleType:
    copy = types.ModuleType(module.__name__, module.__doc__)
    copy.__dict__.update({name: value for name, value in vars(module).items() if name not in absent}, **replaced)
    return copy


def _open_file_only(path: object, flags: int, *arguments: int) -> int:
    """`os.open` as on Windows, where a folder cannot be opened."""
    if os.path.isdir(path):  # type: ignore[arg-type]
        raise PermissionError(13, "Permission denied", path)
    return os.open(path, flags, *arguments)  # type: ignore[arg-type]


def hide(platform: str) -> None:
    """Let `mobius` import no more than `platform` has."""
    substitutes = {"os": _without(os, _ABSENT_OF_OS[platform])}
    if platform == "windows":
        absent = {name for name in vars(signal) if name.startswith("SIG") and name not in _SIGNALS_OF_WINDOWS}
        substitutes["os"] = _without(os, _ABSENT_OF_OS[platform], name="nt", open=_open_file_only)
        substitutes["signal"] = _without(signal, absent | {"alarm", "setitimer", "pthread_sigmask", "sigwait", "pause"})
    real_import = builtins.__import__

    def import_as_there(name, globals=None, locals=None, fromlist=(), level=0):  # type: ignore[no-untyped-def]  # noqa: A002
        importer = str((globals or {}).get("__name__", ""))
        if level == 0 and (importer == "mobius" or importer.startswith("mobius.")):
            if name.partition(".")[0] in _ABSENT_MODULES[platform]:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in substitutes:
                return substitutes[name]
        return real_import(name, globals, locals, fromlist, level)

    builtins.__import__ = import_as_there


if "MOBIUS_TEST_PLATFORM" in os.environ:
    hide(os.environ["MOBIUS_TEST_PLATFORM"])
