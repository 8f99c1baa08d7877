"""A small bundle, for tests of its format and of staging it."""

from __future__ import annotations

from pathlib import Path

from mobius.control.bundle.builder import pack

FIELDS = {
    "service": "mobius-dhash",
    "version": "1.2.0",
    "commit": "c" * 40,
    "built_at": "2026-01-02T03:04:05Z",
    "python": "3.11",
    "platform": "linux_x86_64",
}
FILES = {
    "app/__init__.py": b"",
    "app/__main__.py": b"print('served')\n" * 40,
    "app/data/numbers.bin": bytes(range(256)) * 9,
    "lib.so": b"\x7fELF" + b"\0" * 700,
}


def make_small_bundle(folder: Path) -> Path:
    """Pack `FILES` into a bundle with its `.sha256`; `lib.so` is executable."""
    tree = folder / "tree"
    for path, content in FILES.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
    (tree / "lib.so").chmod(0o755)
    return pack([tree], folder / "dist", **FIELDS).path
