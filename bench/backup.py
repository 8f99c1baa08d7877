#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Time to create, verify and restore a backup of a library of photographs, beside restic, borg, and tar with zstd.

The library is made of the photographs in Debian's packages, each cut in several ways and encoded again, so that no two
files are alike: deduplication (restic, borg) has no more equal pieces than in a real library.

The ways take turns, round after round, and of each step the fastest round counts. Before each step all that it reads
is dropped from the page cache, and each step ends when its bytes are on the disk (`sync --file-system`). Ours reads
back what it wrote before it is done; no peer does. What makes the peers slower here is off: restic and
borg do not compress, borg does not encrypt (restic always does), and `tar | zstd` uses the fastest level and all
processors. Its digest is computed, and compared, by sha256sum in a separate pass.
"""

from __future__ import annotations

import filecmp
import io
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click
from pictures import CHECKOUT, FOLDER, PACKAGES, fetch, pictures_in
from PIL import Image

STEPS: Final = ("create", "verify", "restore")
WORK: Final = CHECKOUT / ".cache" / "bench-backup"
PEERS: Final = ("restic", "borgbackup", "python3-msgpack", "python3-packaging", "python3-pkg-resources", "zstd")
"""Debian's packages of the peers, unpacked beside the pictures and installed nowhere."""

_CUTS: Final = 24  # of each photograph
_QUALITY: Final = 95
_SHARE: Final = 0.8  # of each side, that a cut keeps
_SMALLEST: Final = 1500  # pixels of the longer side, below which it is no photograph of a camera
_SAMPLE: Final = 0.02  # seconds between two samples of the memory


# --- The library ------------------------------------------------------------------------------------------------------


def make_library(folder: Path, size: int) -> None:
    """Fill the folder with at least `size` bytes of photographs; an existing one stays as it is."""
    if folder.is_dir():
        return
    fetch(FOLDER, PACKAGES["photographs"])
    photographs = [path for name in PACKAGES["photographs"] for path in pictures_in(FOLDER / name) if _large(path)]
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    written = 0
    with ProcessPoolExecutor() as pool:
        for number, cuts in enumerate(pool.map(_cuts, photographs)):
            cut_folder = unfinished / f"{number:03}"
            cut_folder.mkdir()
            for turn, cut in enumerate(cuts):
                (cut_folder / f"{turn:02}.jpg").write_bytes(cut)
                written += len(cut)
            click.echo(f"cutting photographs: {written / 1e9:.2f} of {size / 1e9:.2f} GB", err=True)
            if written >= size:
                pool.shutdown(cancel_futures=True)
                unfinished.rename(folder)
                return
    raise click.ClickException(f"All photographs together give {written / 1e9:.2f} GB only.")


def _large(path: Path) -> bool:
    with Image.open(path) as image:
        return max(image.size) >= _SMALLEST


def _cuts(path: Path) -> list[bytes]:
    """The photograph as JPEG, cut at several places."""
    cuts = []
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = int(image.width * _SHARE), int(image.height * _SHARE)
    for turn in range(_CUTS):
        left = (image.width - width) * (turn * 7 % _CUTS) // _CUTS
        top = (image.height - height) * (turn * 3 % _CUTS) // _CUTS
        buffer = io.BytesIO()
        image.crop((left, top, left + width, top + height)).save(buffer, "JPEG", quality=_QUALITY)
        cuts.append(buffer.getvalue())
    return cuts


# --- The ways ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """How one program does the three steps: shell lines, run in an empty folder, with `$LIBRARY` to save."""

    prepare: str
    create: str
    verify: str
    restore: str


def ways(peers: Path) -> dict[str, Way]:
    """By name, ours first; `peers` has the unpacked packages."""
    ours = shlex.join([sys.executable, str(Path(__file__).with_name("backup_step.py"))])
    at = shlex.quote(str(peers))
    restic = f"RESTIC_PASSWORD=any {at}/restic/usr/bin/restic --quiet --no-cache --repo repository"
    modules = ":".join(f"{at}/{name}/usr/lib/python3/dist-packages" for name in PEERS[1:5])
    borg = f"/usr/bin/env PYTHONPATH={modules} /usr/bin/python3 {at}/borgbackup/usr/bin/borg"
    zstd = f"{at}/zstd/usr/bin/zstd --quiet"
    checked = "sha256sum --quiet --check --strict library.tar.zst.sha256"
    return {
        "mobius": Way("true", f"{ours} create .", f"{ours} verify .", f"{ours} restore ."),
        "restic": Way(
            f"{restic} init --repository-version 2",
            f'{restic} backup --compression off "$LIBRARY"',
            f"{restic} check --read-data",
            f"{restic} restore latest --target restored",
        ),
        "borg": Way(
            f"{borg} init --encryption none repository",
            f'{borg} create --compression none repository::library "$LIBRARY"',
            f"{borg} check --verify-data repository",
            f"mkdir restored && cd restored && {borg} extract ../repository::library",
        ),
        "tar, zstd, sha256sum": Way(
            "true",
            f'tar --create --directory "$LIBRARY" . | {zstd} -1 -T0 -o library.tar.zst'
            " && sha256sum library.tar.zst >library.tar.zst.sha256",
            checked,
            f"{checked} && mkdir restored && {zstd} -d -c library.tar.zst | tar --extract --directory restored",
        ),
    }


# --- Measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One step of one way.

    Attributes:
        seconds: by the clock, of the fastest round.
        processor: seconds of processor time, user and system, of the round with the least; other work on the machine
            changes it little.
        megabytes: the peak of memory of its processes in any round.
    """

    way: str
    step: str
    seconds: float
    processor: float
    megabytes: float


def _forget(*folders: Path) -> None:
    """Drop all that lies there from the page cache."""
    os.sync()
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _peaks(process: int, peaks: dict[int, int]) -> None:
    """Record the peak of memory of the process and its children up to now, by their number, in bytes."""
    try:
        with open(f"/proc/{process}/status", encoding="ascii", errors="replace") as status:
            held = [line for line in status if line.startswith("VmHWM:")]
        with open(f"/proc/{process}/task/{process}/children", encoding="ascii") as children:
            below = [int(child) for child in children.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return
    if held:
        peaks[process] = int(held[0].split()[1]) * 1024
    for child in below:
        _peaks(child, peaks)


def _run(line: str, folder: Path, library: Path) -> tuple[float, float, float]:
    """Seconds until its bytes are on the disk, seconds of processor time, and megabytes.

    Raises:
        click.ClickException: it failed.
    """
    environment = {**os.environ, "LIBRARY": str(library), "BORG_BASE_DIR": str(folder.parent / "borg")}
    environment |= {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
    script = f"set -o pipefail; {{ {line}; }} && sync --file-system ."
    peaks: dict[int, int] = {}
    with tempfile.TemporaryFile() as output:
        started, before = time.perf_counter(), _processor()
        process = subprocess.Popen(["bash", "-c", script], cwd=folder, env=environment, stdout=output, stderr=output)
        while True:
            try:
                code = process.wait(_SAMPLE)
                break
            except subprocess.TimeoutExpired:
                _peaks(process.pid, peaks)
        seconds = time.perf_counter() - started
        output.seek(0)
        if code:
            raise click.ClickException(f"{line} failed: {output.read().decode(errors='replace').strip()[-500:]}")
    return seconds, _processor() - before, sum(peaks.values()) / 1e6


def _processor() -> float:
    """Seconds of processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(library: Path, work: Path, chosen: dict[str, Way], rounds: int) -> list[Row]:
    """Every way in turn, `rounds` times; each one's folder is removed before the next begins."""
    best: dict[tuple[str, str], tuple[float, float, float]] = {}
    for number in range(rounds):
        for name, way in chosen.items():
            click.echo(f"round {number + 1} of {rounds}: {name}", err=True)
            folder = work / "turn"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _run(way.prepare, folder, library)
            for step in STEPS:
                _forget(library, folder)
                cost = _run(getattr(way, step), folder, library)
                known = best.get((name, step), cost)
                best[name, step] = min(known[0], cost[0]), min(known[1], cost[1]), max(known[2], cost[2])
            if not _same(library, folder):
                raise click.ClickException(f"{name} did not restore what it saved.")
    shutil.rmtree(work, ignore_errors=True)
    return [Row(name, step, *best[name, step]) for step in STEPS for name in chosen]


def _same(library: Path, folder: Path) -> bool:
    """Whether the restored tree holds the library, byte for byte."""
    expected = sorted(path.relative_to(library) for path in library.rglob("*") if path.is_file())
    restored = folder / "restored"
    tops = (restored, restored / "state" / "library", restored.joinpath(*library.parts[1:]))
    top = next((top for top in tops if (top / expected[0]).is_file()), None)
    return top is not None and all(filecmp.cmp(library / path, top / path, shallow=False) for path in expected)


def table(rows: Sequence[Row], size: int) -> str:
    """The rows as Markdown; `size` of the library in bytes."""
    ours = {row.step: row for row in rows if row.way == "mobius"}
    lines = [
        "| step | way | seconds | MB/s | its time to ours | processor, s | its to ours | memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.step} | {row.way} | {row.seconds:.2f} | {size / 1e6 / row.seconds:.0f}"
        f" | {row.seconds / ours[row.step].seconds:.2f} | {row.processor:.2f}"
        f" | {row.processor / ours[row.step].processor:.2f} | {row.megabytes:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


@click.command()
@click.option("--size", default=2.0, show_default=True, help="Of the library, in GB.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Each way has so many turns.")
@click.option("--library", type=click.Path(exists=True, path_type=Path), help="A folder of your photographs instead.")
@click.option(
    "--work", type=click.Path(path_type=Path), default=CHECKOUT / ".cache" / "bench-backup", show_default=True
)
@click.option("--way", "names", multiple=True, help="Only ours and these.  [default: all]")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(size: float, rounds: int, library: Path | None, work: Path, names: tuple[str, ...], form: str) -> None:
    """Time a backup's steps beside restic, borg, and tar with zstd and sha256sum.

    \b
    python bench/backup.py
    python bench/backup.py --library ~/Pictures --rounds 1
    python bench/backup.py --size 0.2 --way restic
    """
    fetch(FOLDER.with_name("peers"), PEERS)
    if library is None:
        library = CHECKOUT / ".cache" / f"photographs-{size:g}GB"
        make_library(library, int(size * 1e9))
    known = ways(FOLDER.with_name("peers"))
    chosen = {name: way for name, way in known.items() if not names or name in ("mobius", *names)}
    sizes = [path.stat().st_size for path in library.rglob("*") if path.is_file()]
    rows = measure(library.resolve(), work.resolve(), chosen, rounds)
    if form == "json":
        click.echo(json.dumps([asdict(row) for row in rows]))
        return
    click.echo(f"{len(sizes)} photographs, {sum(sizes) / 1e9:.2f} GB, {rounds} rounds, {os.cpu_count()} CPUs\n")
    click.echo(table(rows, sum(sizes)))


if __name__ == "__main__":
    main()
