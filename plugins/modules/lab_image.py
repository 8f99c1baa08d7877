#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make or remove the base image of the lab's hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: lab_image
short_description: Make or remove the base image of the lab's hosts
version_added: "1.0.0"
description:
  - Makes a small Debian with systemd and an SSH server out of Debian packages, and imports it into podman. No image
    registry is asked.
  - The image is tagged with the digest of its recipe, so every checkout with the same recipe shares it, and a changed
    recipe makes a new one. Two runs at once make it once.
options:
  debian:
    description: The Debian release.
    type: str
    choices: [bookworm, trixie]
    default: bookworm
  mirrors:
    description:
      - Where the packages come from, as C(mmdebstrap) takes it; empty for its default. They are no part of the recipe.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that making the image, or waiting for another run that makes it, may take.
    type: int
    default: 900
  state:
    description:
      - V(present) makes the image of O(debian) when it is missing.
      - V(absent) removes the images of all releases and recipes, except those that a lab's hosts still use.
    type: str
    choices: [present, absent]
    default: present
requirements:
  - podman and mmdebstrap on the control node, and root
attributes:
  check_mode:
    support: full
    description: Says what would be made or removed, and changes nothing.
  diff_mode:
    support: full
    description: Shows the images before and after.
author: MOBIUS contributors (@mobius)
"""

EXAMPLES = r"""
- name: Make the base image
  mobius.dhash.lab_image:
    debian: bookworm
  delegate_to: localhost

- name: Remove every base image that no host uses
  mobius.dhash.lab_image:
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
image:
  description: The image's name and tag, with O(state=present).
  returned: success
  type: str
  sample: localhost/mobius-lab:bookworm-3f2a9c41d07e
seconds:
  description: How long the making took; 0 when it was there.
  returned: success
  type: float
  sample: 38.2
removed:
  description: The images that were removed.
  returned: success
  type: list
  elements: str
kept:
  description: The images that a host of some lab still uses, so they stay.
  returned: success
  type: list
  elements: str
"""

import hashlib
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils.durable import locked
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.podman import (
    IMAGE_LABEL,
    IMAGE_REPOSITORY,
    Podman,
    PodmanError,
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

rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old "$root"/var/log/*.log \
    "$root/var/log/apt"
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
"""

# Facts of the image, as `podman import --change` takes them. systemd shuts down in order on SIGRTMIN+3.
CHANGES = ("STOPSIGNAL SIGRTMIN+3", 'CMD ["/sbin/init"]')


def recipe(debian: str) -> dict[str, Any]:
    """Everything that decides what is in the image, except the day's package versions."""
    return {"debian": debian, "packages": PACKAGES, "left_out": LEFT_OUT, "finish": FINISH, "changes": CHANGES}


def image_name(debian: str) -> str:
    """`localhost/mobius-lab:<debian>-<first 12 hex of the recipe's sha256>`."""
    digest = hashlib.sha256(json.dumps(recipe(debian), sort_keys=True).encode()).hexdigest()
    return f"{IMAGE_REPOSITORY}:{debian}-{digest[:12]}"


def clear(folder: Path) -> None:
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
        debian,
        str(tar),
        *mirrors,
    ]
    # The chroot lies in our folder, so that what a killed run leaves is found and removed.
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


def make(podman: Podman, debian: str, mirrors: list[str], timeout: float) -> bool:
    """Make the image unless it is there; False when another run made it meanwhile."""
    name = image_name(debian)
    find_program("mmdebstrap")
    with locked(image_lock_file(), timeout=timeout):
        if podman.image_exists(name):
            return False
        clear(WORK_FOLDER)
        try:
            WORK_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="build-", dir=WORK_FOLDER))
            # apt downloads as a user of its own
            folder.chmod(0o755)
            tar = bootstrap(debian, mirrors, folder, timeout)
            changes = [f"--change={change}" for change in (*CHANGES, f"LABEL {IMAGE_LABEL}={name.rpartition(':')[2]}")]
            podman.run("import", "--quiet", *changes, str(tar), name, timeout=timeout)
        finally:
            clear(WORK_FOLDER)
    return True


def run(module: AnsibleModule) -> dict[str, Any]:
    """The module's result; nothing is changed in check mode."""
    podman = Podman()
    rows = podman.json("image", "ls", "--format", "json", "--filter", f"reference={IMAGE_REPOSITORY}")
    before = sorted(name for row in rows for name in row.get("Names") or [])
    result: dict[str, Any] = {"changed": False, "image": "", "seconds": 0.0, "removed": [], "kept": []}
    after = list(before)

    if module.params["state"] == "present":
        name = image_name(module.params["debian"])
        result["image"] = name
        if name not in before:
            result["changed"] = True
            after = sorted([*before, name])
            if not module.check_mode:
                started = time.monotonic()
                make(podman, module.params["debian"], module.params["mirrors"], module.params["timeout"])
                result["seconds"] = round(time.monotonic() - started, 1)
    else:
        used = {row["ImageName"] for row in podman.lab_containers()}
        result["kept"] = [name for name in before if name in used]
        result["removed"] = [name for name in before if name not in used]
        result["changed"] = bool(result["removed"])
        after = result["kept"]
        if result["changed"] and not module.check_mode:
            with locked(image_lock_file(), timeout=module.params["timeout"]):
                for name in result["removed"]:
                    podman.run("image", "rm", name)

    result["diff"] = {"before": {"images": before}, "after": {"images": after}}
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "debian": {"type": "str", "choices": ["bookworm", "trixie"], "default": "bookworm"},
            "mirrors": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 900},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except MobiusError as error:
        module.fail_json(msg=error.reason, mobius_failure=error.as_dict())
    except TimeoutError as error:
        failure = MobiusError("timeout", f"Another run was making a base image all the time: {error}.")
        module.fail_json(msg=failure.reason, mobius_failure=failure.as_dict())
    except (PodmanError, OSError, subprocess.CalledProcessError) as error:
        failure = MobiusError("environment_failed", f"The base image could not be made or removed: {error}")
        module.fail_json(msg=failure.reason, mobius_failure=failure.as_dict())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
