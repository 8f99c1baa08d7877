"""Labs of their own, each in a folder of its own, beside whatever lab the checkout has: podman, SSH and Ansible are real.

Most tests share one lab with one host: each takes it in whatever state the test before left it, and spoils it anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.lab.folder import LabFolder
from ansible_collections.mobius.dhash.plugins.module_utils.lab.hosts import apply, wait_until_booted
from ansible_collections.mobius.dhash.plugins.module_utils.lab.plan import ExpectedLab, lab_id, plan
from ansible_collections.mobius.dhash.plugins.module_utils.lab.podman import Podman
from ansible_collections.mobius.dhash.plugins.module_utils.lab.ports import PortAllocator, port_is_free
from ansible_collections.mobius.dhash.plugins.modules import lab_host

CHECKOUT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent


class Lab:
    """One lab, driven as a person does: through `mobius lab`, and through its inventory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(CHECKOUT / "inventories" / "local", root / "inventories" / "local")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [str(BIN / "mobius"), "lab", *arguments, "--root", str(self.root), "--format", "json"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> dict[str, Any]:
        """What `mobius lab ...` prints as JSON; it must end with 0."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return dict(json.loads(out))

    def changed(self, *arguments: str) -> bool:
        return bool(self.run(*arguments)["changed"]["localhost"])

    def up(self, *, hosts: int = 1, check: bool = False) -> dict[str, str]:
        """Run the module as the playbook does, only quicker. What it did, or would do, with each host."""
        arguments = {"root": str(self.root), "hosts": [f"lab{number + 1}" for number in range(hosts)]}
        arguments |= {"image": self.record["image"], "_ansible_check_mode": check}
        done = subprocess.run(
            [sys.executable, "-m", lab_host.__name__],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT / ".ansible" / "collections")},
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        result = json.loads(done.stdout)
        assert done.returncode == 0, result["msg"]
        actions = {row["name"]: row["action"] for row in result["hosts"]}
        assert result["changed"] is (set(actions.values()) != {"keep"})
        return actions

    def ready(self) -> None:
        """Make sure that the host runs, in whatever way."""
        process = self.start("status")
        process.communicate(timeout=30)
        if process.returncode != 0:
            self.up()

    def ssh(self, command: str) -> str:
        """What a command on the first host prints; quicker than through Ansible."""
        state = self.root / ".lab"
        options = [
            "-F",
            "none",
            "-o",
            f'UserKnownHostsFile="{state / "known_hosts"}"',
            "-o",
            "StrictHostKeyChecking=yes",
        ]
        login = ["-i", state / "id_ed25519", "-p", str(self.host["ssh_port"]), "root@127.0.0.1"]
        done = subprocess.run(
            ["ssh", *options, *login, command], capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout.strip()

    @property
    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.root / ".lab" / "lab.json").read_bytes()))

    @property
    def host(self) -> dict[str, Any]:
        return dict(self.record["hosts"][0])

    def container(self) -> str:
        """The id of the first host's container."""
        return podman("container", "inspect", "--format", "{{.Id}}", self.host["container"]).strip()

    def ansible(self, command: str) -> str:
        """What a command on the first host prints, asked through Ansible and the inventory script, from another place."""
        done = subprocess.run(
            [BIN / "ansible", "lab1", "-i", self.root / "inventories" / "local", "-a", command],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.partition(">>\n")[2].strip()


def podman(*arguments: str) -> str:
    return subprocess.run(["podman", *arguments], check=True, capture_output=True, text=True).stdout


def everything_of_podman() -> set[str]:
    """Containers, volumes and networks there are, except those of other labs and of other people, which may change."""
    rows = podman("ps", "--all", "--format", "{{.ID}} {{.Labels}}") + podman("volume", "ls", "--quiet")
    return set((rows + podman("network", "ls", "--quiet")).splitlines())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("a lab"))
    try:
        assert made.changed("up", "--hosts", "1")
        yield made
    finally:
        made.run("down")


@pytest.fixture
def image(lab: Lab) -> str:
    return str(lab.record["image"])


def test_ansible_reaches_the_host_with_its_known_key_and_its_own_machine_id(lab: Lab) -> None:
    assert lab.ansible("hostname") == "lab1"
    assert lab.ssh("systemctl is-system-running") == "running"
    assert len(lab.ssh("cat /etc/machine-id")) == 32


def test_a_second_up_changes_nothing_and_the_check_says_so(lab: Lab) -> None:
    lab.ready()
    before = lab.container()
    assert lab.changed("up", "--hosts", "1", "--check") is False
    assert lab.changed("up", "--hosts", "1") is False
    assert lab.container() == before


def test_a_stopped_host_is_started_with_its_files_and_its_ports(lab: Lab) -> None:
    lab.ready()
    before, ports = lab.container(), lab.host["ports"]
    lab.ssh("touch /root/kept")
    podman("stop", before)
    assert lab.up(check=True) == {"lab1": "start"}
    assert podman("container", "inspect", "--format", "{{.State.Status}}", before).strip() == "exited"
    assert lab.up() == {"lab1": "start"}
    assert (lab.container(), lab.host["ports"]) == (before, ports)
    assert lab.ssh("ls /root/kept") == "/root/kept"


def test_a_killed_host_is_up_again_although_ssh_still_holds_a_connection_to_it(lab: Lab) -> None:
    lab.ready()
    lab.ansible("true")
    podman("kill", lab.container())
    assert lab.up() == {"lab1": "start"}
    assert lab.ansible("systemctl is-system-running") == "running"


def test_a_removed_host_is_made_anew_on_its_ports_although_ssh_still_holds_a_connection_to_it(lab: Lab) -> None:
    lab.ready()
    lab.ansible("true")
    before, ports = lab.container(), lab.host["ports"]
    podman("rm", "--force", "--time", "0", before)
    assert lab.up() == {"lab1": "create"}
    assert lab.container() != before
    assert lab.host["ports"] == ports
    assert lab.ansible("systemctl is-system-running") == "running"


def test_a_host_whose_port_was_taken_moves_to_another(lab: Lab) -> None:
    lab.ready()
    taken = lab.host["http_port"]
    podman("stop", "--time", "0", lab.container())
    with socket.create_server(("127.0.0.1", taken)):
        assert lab.up() == {"lab1": "recreate"}
        assert lab.host["http_port"] != taken
        assert lab.ssh("hostname") == "lab1"


def test_a_port_that_is_taken_between_the_look_and_the_start_is_replaced(tmp_path: Path, image: str) -> None:
    expected = ExpectedLab(lab_id(tmp_path), ("lab1",), image, "bookworm", (22, 8080))
    folder, engine = LabFolder(tmp_path), Podman()
    ports = PortAllocator(expected.lab, (), port_is_free)
    planned = plan(expected, {}, {}, {"lab1": folder.keys("lab1")}, ports)
    try:
        with socket.create_server(("127.0.0.1", planned[0].ports[8080])):
            (done,) = apply(engine, folder, expected, planned, ports)
            assert set(done.ports.values()).isdisjoint(planned[0].ports.values())
            assert wait_until_booted(folder, done, time.monotonic() + 60) == []
        assert folder.recorded_ports(expected.lab) == {"lab1": done.ports}
    finally:
        engine.remove(expected.container("lab1"))


def test_a_host_half_made_by_a_killed_run_is_made_anew(lab: Lab) -> None:
    lab.ready()
    name, image = lab.host["container"], lab.record["image"]
    podman("rm", "--force", "--time", "0", name)
    podman("create", "--name", name, "--label", f"org.mobius.lab.id={lab.record['lab']}", image)
    assert lab.up() == {"lab1": "recreate"}
    assert lab.ssh("hostname") == "lab1"


# what would change the machine itself: its clock, kernel, disks, limits, log and the processes outside of the host
MACHINE_CAPABILITIES = {
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_RAWIO": 17,
    "SYS_MODULE": 16,
    "SYS_PACCT": 20,
    "SYS_BOOT": 22,
    "SYS_RESOURCE": 24,
    "SYS_TIME": 25,
    "MKNOD": 27,
    "SYSLOG": 34,
    "WAKE_ALARM": 35,
    "PERFMON": 38,
    "BPF": 39,
}
SANDBOX = (
    *("PrivateUsers=yes", "PrivateTmp=yes", "PrivateDevices=yes", "DevicePolicy=closed", "ProtectSystem=strict"),
    *("ProtectHome=yes", "ProtectProc=invisible", "ProcSubset=pid", "ProtectControlGroups=yes", "ProtectHostname=yes"),
    *("NoNewPrivileges=yes", "CapabilityBoundingSet=", "User=nobody", "SystemCallFilter=@system-service"),
    *("RestrictNamespaces=yes", "MemoryDenyWriteExecute=yes", "ProtectKernelTunables=yes"),
)


def held_capabilities(status: str) -> set[str]:
    """Those of `MACHINE_CAPABILITIES` that are in a bounding set of this /proc/PID/status."""
    (bounding,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapBnd")]
    return {name for name, bit in MACHINE_CAPABILITIES.items() if int(bounding, 16) >> bit & 1}


def test_a_host_has_no_capability_over_the_machines_clock_kernel_and_disks(lab: Lab) -> None:
    lab.ready()
    entered = podman("exec", lab.host["container"], "cat", "/proc/self/status")
    for status in (lab.ssh("cat /proc/1/status"), lab.ssh("cat /proc/self/status"), entered):
        assert held_capabilities(status) == set()


def test_a_host_has_no_device_of_the_machine_and_cannot_make_one(lab: Lab) -> None:
    lab.ready()
    devices = lab.ssh("find /dev -xdev -type b -printf 'block %p\\n' -o -type c -printf '%p\\n'").split("\n")
    assert set(devices) - {"/dev/console"} == {
        f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")
    }
    # the node's number is that of no device of any kernel
    made = lab.ssh("mknod /root/node b 4095 1048575 2>&1 || true; ls /root/node 2>&1 || true; rm -f /root/node")
    assert "Operation not permitted" in made and "No such file" in made


def test_a_host_only_reads_the_kernels_settings(lab: Lab) -> None:
    lab.ready()
    # opened, and nothing written
    for path in (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ):
        answer = lab.ssh(f"python3 -c \"import os; os.open('{path}', os.O_WRONLY)\" 2>&1 || true")
        assert "Read-only file system" in answer or "No such file" in answer, answer


def test_systemd_confines_a_unit_of_a_host_as_on_a_machine_of_its_own(lab: Lab) -> None:
    lab.ready()
    script = (
        "cat /proc/self/status; echo uid-map: $(cat /proc/self/uid_map); echo proc: $(ls /proc | grep -cx sys); "
        "echo dev: $(find /dev -type b -o -type c | wc -l); touch /etc/x /usr/x /var/x 2>&1; ls -d /root/.ssh 2>&1; "
        "ls /proc/1 2>&1; true"
    )
    properties = " ".join(f"--property={item}" for item in SANDBOX)
    seen = lab.ssh(f"touch /tmp/outside; systemd-run --quiet --pipe --wait {properties} sh -c '{script}'")
    fields = dict(line.split(":", 1) for line in seen.splitlines() if ":" in line)
    assert int(fields["CapBnd"], 16) == 0 and fields["NoNewPrivs"].strip() == "1"
    # the filters of the unit come on top of the container's own
    assert int(fields["Seccomp_filters"]) > 1
    assert fields["uid-map"].split() != ["0", "0", "4294967295"]
    assert (fields["proc"].strip(), seen.count("Read-only file system")) == ("0", 3)
    assert "cannot access '/proc/1'" in seen and "/root/.ssh'" in seen
    assert lab.ssh("systemctl is-system-running") == "running"


def test_status_says_which_host_runs_where_and_ends_with_3_when_one_does_not(lab: Lab) -> None:
    lab.ready()
    process = lab.start("status")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    shown = json.loads(out)
    assert shown["running"] is True
    assert [(row["name"], row["state"], row["ssh_port"]) for row in shown["hosts"]] == [
        ("lab1", "running", lab.host["ssh_port"])
    ]
    enforced = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    assert any("Memory limits" in note for note in shown["notes"]) is not enforced
    podman("stop", "--time", "0", lab.container())
    process = lab.start("status")
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, json.loads(out)["hosts"][0]["state"]) == (3, "exited")


def test_a_killed_up_is_finished_by_the_next_one_and_down_leaves_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    process = lab.start("up", "--hosts", "2")
    # as soon as the first container is there, everything that was started is killed
    deadline = time.monotonic() + 60
    while not (ours := containers_of(lab)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kill_tree(process.pid)
    process.communicate()
    assert len(ours) == 1
    assert lab.run("up", "--hosts", "2")["changed"]["localhost"] == 1
    assert lab.ssh("systemctl is-system-running") == "running"

    # shrinking to one host, and then to none
    assert lab.up(check=True) == {"lab2": "remove", "lab1": "keep"}
    assert len(containers_of(lab)) == 2
    assert lab.up() == {"lab2": "remove", "lab1": "keep"}
    assert len(containers_of(lab)) == 1

    assert lab.changed("down") is True
    assert containers_of(lab) == []
    assert not (tmp_path / ".lab").exists()
    assert lab.changed("down") is False


def test_two_labs_that_start_at_once_do_not_disturb_each_other(lab: Lab, tmp_path: Path) -> None:
    lab.ready()
    before = everything_of_podman()
    kept = lab.container()
    others = [Lab(tmp_path / name) for name in ("one", "two")]
    try:
        for process in [other.start("up", "--hosts", "1") for other in others]:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
        ports = [port for one in (lab, *others) for port in one.host["ports"].values()]
        assert len(set(ports)) == len(ports)
        identities = {one.ssh("cat /etc/machine-id") for one in (lab, *others)}
        assert len(identities) == 3
    finally:
        for process in [other.start("down") for other in others]:
            process.communicate(timeout=60)
    assert lab.container() == kept
    assert lab.ssh("hostname") == "lab1"
    assert not [row for row in everything_of_podman() - before if any(name in row for name in ids_of(others))]


def test_without_podman_the_message_names_it_and_how_to_install_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    # podman is found through PATH; everything else that the run needs is linked into this one
    (tmp_path / "bin").mkdir()
    for folder in ("/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            place = tmp_path / "bin" / program.name
            if program.name != "podman" and not place.is_symlink():
                place.symlink_to(program)
    command = [str(BIN / "mobius"), "lab", "up", "--hosts", "1", "--root", str(lab.root)]
    environment = {**os.environ, "PATH": str(tmp_path / "bin")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-4:-1] == [
        "✗ lab up failed",
        "  why       podman is not installed.",
        "  next      Run `apt-get install podman`, or `make setup` in a checkout of MOBIUS.",
    ]
    assert done.stderr.rstrip().endswith(", exit 3 (SRE, missing_dependency)")
    assert not (tmp_path / ".lab").exists()


def containers_of(lab: Lab) -> list[str]:
    """The containers of a lab, known by its id also before or after it has a record."""
    (identity,) = ids_of([lab])
    return podman("ps", "--all", "--quiet", "--filter", f"label=org.mobius.lab.id={identity}").split()


def ids_of(labs: list[Lab]) -> list[str]:
    return [hashlib.sha256(os.fsencode(one.root.resolve())).hexdigest()[:8] for one in labs]


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all that stems from it, which therefore has no chance to tidy up."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(name)] = int(fields[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    for member in family:
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            continue
