"""Small bundles, for tests of their format and of staging them."""

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


LINKS = {"app/newest.so": "../lib.so", "current": "app/data"}
LONG_PATH = f"{'n' * 120}/{'o' * 200}"


def make_linked_bundle(folder: Path) -> Path:
    """Pack `FILES`, `LINKS` and a file with a long name into a bundle for any host."""
    make_small_bundle(folder)
    tree = folder / "tree"
    for path, target in LINKS.items():
        (tree / path).symlink_to(target)
    (tree / LONG_PATH).parent.mkdir()
    (tree / LONG_PATH).write_bytes(b"long")
    return pack([tree], folder / "linked", service="mobius-dhash", version="1.3.0").path
