# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The base image of the lab's hosts: a small Debian with systemd and an SSH server. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.mobius.dhash.plugins.module_utils.durable import locked
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.lab.podman import (
    IMAGE_LABEL,
    IMAGE_REPOSITORY,
    Podman,
    find_program,
    image_lock_file,
)

WORK_FOLDER = Path("/var/cache/mobius-lab")

PACKAGES = (
    "age",
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "openssh-server",
    "procps",
    "python3",
    "rsync",
    "sudo",
    "systemd",
    "systemd-sysv",
)

LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
)

# Run by mmdebstrap with the root folder as its argument, after all packages are configured.
FINISH = r"""#!/bin/sh
set -eu
root=$1

# A host gets its own identity when it is made.
rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/lib/dbus/machine-id
: > "$root/etc/machine-id"
echo lab > "$root/etc/hostname"
rm -f "$root/etc/resolv.conf"

# A privileged container shares the machine's kernel: what would set it up is the machine's business, not a host's.
for unit in systemd-sysctl.service systemd-modules-load.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
    kmod-static-nodes.service systemd-udevd.service systemd-udev-trigger.service systemd-udevd-kernel.socket \
    systemd-udevd-control.socket systemd-random-seed.service systemd-remount-fs.service sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-kernel-config.mount dev-hugepages.mount systemd-pcrphase.service \
    systemd-network-generator.service getty.target console-getty.service getty@.service systemd-timesyncd.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

mkdir -p "$root/etc/ssh/sshd_config.d" "$root/etc/systemd/journald.conf.d" "$root/root/.ssh" "$root/var/log/journal"
chmod 700 "$root/root/.ssh"
cat > "$root/etc/ssh/sshd_config.d/10-lab.conf" <<'END'
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 200
MaxSessions 200
END
# The locale is the host's own, not whatever the person at the other end has.
sed -i 's/^AcceptEnv/#&/' "$root/etc/ssh/sshd_config"
echo 'LANG=C.UTF-8' > "$root/etc/default/locale"
# These two run programs and read the mail spool at every log-in.
sed -i -E '/pam_(motd|mail)\.so/s/^/#/' "$root/etc/pam.d/sshd"

cat > "$root/etc/systemd/journald.conf.d/10-lab.conf" <<'END'
[Journal]
Storage=persistent
SystemMaxUse=64M
RateLimitIntervalSec=0
END

# Hosts have no network: what roles install comes from a folder of packages, the only source of the host's apt.
packages=/usr/local/share/lab-packages
rm -f "$root"/var/cache/apt/archives/*.deb
APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get install --yes --no-install-recommends --download-only haproxy gunicorn
mkdir -p "$root$packages"
mv "$root"/var/cache/apt/archives/*.deb "$root$packages"
for file in "$root$packages"/*.deb; do
    dpkg-deb --field "$file"
    echo "Filename: ./$(basename "$file")"
    echo "Size: $(stat --format=%s "$file")"
    echo "SHA256: $(sha256sum "$file" | cut -d ' ' -f 1)"
    echo
done > "$root$packages/Packages"
rm -rf "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/*
echo "deb [trusted=yes] file:$packages ./" > "$root/etc/apt/sources.list.d/lab.list"

rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old "$root"/var/log/*.log \
    "$root/var/log/apt"
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
chroot "$root" apt-get update
"""  # noqa: E501 - a changed line would change the recipe

# Facts of the image, as `podman import --change` takes them. systemd shuts down in order on SIGRTMIN+3.
CHANGES = ("STOPSIGNAL SIGRTMIN+3", 'CMD ["/sbin/init"]')


def recipe(debian: str) -> dict[str, Any]:
    """Everything that decides the image's content, except the package versions."""
    return {"debian": debian, "packages": PACKAGES, "left_out": LEFT_OUT, "finish": FINISH, "changes": CHANGES}


def image_name(debian: str) -> str:
    """`localhost/mobius-lab:<debian>-<first 12 hex of the recipe's sha256>`."""
    digest = hashlib.sha256(json.dumps(recipe(debian), sort_keys=True).encode()).hexdigest()
    return f"{IMAGE_REPOSITORY}:{debian}-{digest[:12]}"


def clear_work_folder(folder: Path) -> None:
    """Remove a work folder, of this run or of killed ones.

    Never past a mount: a chroot may still have the machine's /dev in it. What cannot be removed (a killed run's
    mmdebstrap may live on for a moment) is left to the next time; each run works in a folder of its own.
    """
    if folder.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False, capture_output=True)


def bootstrap(debian: str, mirrors: list[str], folder: Path, timeout: float) -> Path:
    """Make the root file system with mmdebstrap.

    Returns:
        the tar file, inside `folder`.

    Raises:
        MobiusError: `environment_failed` with mmdebstrap's last lines; `timeout`.
    """
    program = find_program("mmdebstrap")
    finish, tar = folder / "finish", folder / "base.tar"
    finish.write_text(FINISH, encoding="utf-8")
    finish.chmod(0o755)
    command = [
        program,
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        f"--customize-hook={finish}",
        "--skip=cleanup/apt",  # the hook does that, and leaves the list of the host's own packages
        debian,
        str(tar),
        *mirrors,
    ]
    # The chroot lies in the work folder, so that the next run finds and removes what a killed one left.
    environment = {**os.environ, "TMPDIR": str(folder), "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MobiusError("timeout", f"mmdebstrap did not make the base image in {timeout:.0f} seconds.") from error
    if done.returncode != 0:
        last = " | ".join(done.stderr.decode(errors="replace").strip().splitlines()[-4:])
        raise MobiusError(
            "environment_failed",
            f"mmdebstrap could not make the base image: {last}",
            do_next="Check that this machine's apt can download packages (`apt-get update`), then run again.",
        )
    return tar


def ensure_image(podman: Podman, debian: str, mirrors: list[str], timeout: float) -> bool:
    """Make the image unless it exists; False when another run has just made it."""
    name = image_name(debian)
    find_program("mmdebstrap")
    with _exclusive(timeout):
        if podman.image_exists(name):
            return False
        clear_work_folder(WORK_FOLDER)
        try:
            WORK_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="build-", dir=WORK_FOLDER))
            # apt downloads as a user of its own
            folder.chmod(0o755)
            tar = bootstrap(debian, mirrors, folder, timeout)
            changes = [f"--change={change}" for change in (*CHANGES, f"LABEL {IMAGE_LABEL}={name.rpartition(':')[2]}")]
            podman.run("import", "--quiet", *changes, str(tar), name, timeout=timeout)
        finally:
            clear_work_folder(WORK_FOLDER)
    return True


def bring_image(debian: str, mirrors: list[str], *, timeout: float, check_mode: bool) -> dict[str, Any]:
    """Make the image of a Debian release unless it exists; in check mode only report that it would be made.

    Returns:
        the result of the module `lab_image`.
    """
    podman = Podman()
    before, name = _images(podman), image_name(debian)
    changed, seconds = name not in before, 0.0
    if changed and not check_mode:
        started = time.monotonic()
        ensure_image(podman, debian, mirrors, timeout)
        seconds = round(time.monotonic() - started, 1)
    result = {"changed": changed, "image": name, "seconds": seconds, "removed": [], "kept": []}
    return {**result, "diff": _diff(before, {*before, name})}


def remove_images(*, timeout: float, check_mode: bool) -> dict[str, Any]:
    """Remove every image that no host of any lab uses; in check mode only report which.

    Returns:
        the result of the module `lab_image`.
    """
    podman = Podman()
    before = _images(podman)
    used = {row["ImageName"] for row in podman.lab_containers()}
    kept = [name for name in before if name in used]
    removed = [name for name in before if name not in used]
    if removed and not check_mode:
        with _exclusive(timeout):
            for name in removed:
                podman.run("image", "rm", name)
    result = {"changed": bool(removed), "image": "", "seconds": 0.0, "removed": removed, "kept": kept}
    return {**result, "diff": _diff(before, kept)}


def _images(podman: Podman) -> list[str]:
    rows = podman.json("image", "ls", "--format", "json", "--filter", f"reference={IMAGE_REPOSITORY}")
    return sorted(name for row in rows for name in row.get("Names") or [])


def _diff(before: Iterable[str], after: Iterable[str]) -> dict[str, Any]:
    return {"before": {"images": sorted(before)}, "after": {"images": sorted(after)}}


@contextlib.contextmanager
def _exclusive(timeout: float) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(image_lock_file(), timeout=timeout))
        except TimeoutError as error:
            raise MobiusError("timeout", f"Another run was making a base image all the time: {error}.") from error
        yield
