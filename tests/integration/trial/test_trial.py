# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius try` with services that nobody here wrote, and with the mistakes that beginners make: real processes, HAProxy."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mobius.control.bundle.packing import pack_folder

CHECKOUT = Path(__file__).resolve().parents[3]
LIMIT_SECONDS = 30.0

pytestmark = pytest.mark.slow

# a threaded server of the standard library, which the small services below change in one place
SERVER = """
import os, signal, socketserver, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST, PORT = os.environ["HOST"], int(os.environ["PORT"])

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"ok"
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

def serve(host=HOST, port=PORT):
    ThreadingHTTPServer((host, port), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Report:
    """What one trial printed."""

    code: int
    content: dict[str, Any]
    errors: str

    def check(self, name: str) -> dict[str, Any]:
        return next(one for one in self.content["checks"] if one["name"] == name)

    @property
    def broken(self) -> set[str]:
        return {one["name"] for one in self.content["checks"] if one["result"] == "broken"}


class Project:
    """A folder with `mobius.yml`, and the service in `app`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app = folder / "app"
        self.app.mkdir(parents=True)
        self.mark = f"trial-{uuid.uuid4().hex}"  # tells its trials from those that other tests run at the same time
        (self.app / self.mark).touch()

    def describe(self, exec_line: str, **keys: Any) -> None:
        environment = {**keys.pop("environment", {}), "TRIAL_MARK": self.mark}
        content = {"service": "shop", "exec": exec_line, "environment": environment, **keys}
        (self.folder / "mobius.yml").write_text(json.dumps(content))

    def script(self, end: str, name: str = "serve.py") -> None:
        (self.app / name).write_text(f"#!/usr/bin/python3\n{SERVER}\n{textwrap.dedent(end)}")
        (self.app / name).chmod(0o755)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mobius.cli", "try", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environment},
            capture_output=True,
            text=True,
            timeout=2 * LIMIT_SECONDS,
            check=False,
        )

    def try_it(self, source: str = "app", **environment: str) -> Report:
        done = self.run(source, "--format", "json", **environment)
        assert done.stdout, done.stderr
        assert self.leftovers() == []
        report = Report(done.returncode, json.loads(done.stdout), done.stderr)
        assert report.content["seconds"] < LIMIT_SECONDS
        assert report.content["exit_code"] == report.code
        return report

    def leftovers(self) -> list[str]:
        """The processes and the folders that are left of its trials."""
        mark = f"TRIAL_MARK={self.mark}".encode()
        left = [str(path) for path in Path("/tmp").glob(f"mobius-try-*/tree/{self.mark}")]
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    left.append(str(path.parent))
        return left


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "shop")


# -- services that nobody here wrote --


def test_pythons_own_server_keeps_everything(project: Project) -> None:
    project.describe("python3 -m http.server {port} --bind {host}", health="/")
    report = project.try_it()
    assert (report.code, report.broken) == (0, set()), report.content
    assert report.content["front"]
    assert "0 failed" in report.check("drain")["detail"]
    assert {one["result"] for one in report.content["checks"]} == {"kept"}


def test_a_wsgi_application_keeps_everything(project: Project) -> None:
    """wsgiref is the standard library's; the application is one as for gunicorn."""
    (project.app / "shop.py").write_text(
        textwrap.dedent("""
        import socketserver, sys
        from wsgiref.simple_server import WSGIServer, make_server

        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"shop"]

        class Server(socketserver.ThreadingMixIn, WSGIServer):
            daemon_threads = True

        host, _, port = sys.argv[1].rpartition(":")
        make_server(host, int(port), app, server_class=Server).serve_forever()
        """)
    )
    project.describe("/usr/bin/python3 shop.py {address}", health="/healthz")
    report = project.try_it()
    assert (report.code, report.broken) == (0, set()), report.content


NODE = """
const http = require('http');
const server = http.createServer((request, response) => {
  response.writeHead(request.url === '/healthz' ? 200 : 404);
  response.end('ok');
});
server.listen(process.env.PORT, process.env.HOST);
process.on('SIGTERM', () => server.close(() => process.exit(0)));
"""


@pytest.mark.parametrize("sandbox", [{}, {"jit": True}])
def test_a_node_server_needs_a_switch_of_the_sandbox(project: Project, sandbox: dict[str, bool]) -> None:
    (project.app / "server.js").write_text(NODE)
    project.describe("node server.js", health="/healthz", sandbox=sandbox)
    report = project.try_it()
    assert report.broken == (set() if sandbox else {"sandbox"}), report.content
    if not sandbox:
        assert "sandbox: {jit: true}" in report.check("sandbox")["advice"]


def test_a_worker_is_tried_without_a_front(project: Project) -> None:
    project.describe("/bin/sleep 600", kind="worker")
    report = project.try_it()
    assert (report.code, report.broken) == (0, set()), report.content
    assert {one["name"] for one in report.content["checks"]} == {
        *("program", "start", "health", "foreground", "sandbox", "stop", "writes"),
    }


@pytest.mark.parametrize(("command", "broken"), [(["/bin/true"], set()), (["/bin/false"], {"health"})])
def test_a_workers_health_command_is_run(project: Project, command: list[str], broken: set[str]) -> None:
    project.describe("/bin/sleep 600", kind="worker", health_command=command)
    assert project.try_it().broken == broken


def test_a_service_of_tcp_is_tried_by_its_connections(project: Project) -> None:
    project.script("""
    class Echo(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())
    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
    Server((HOST, PORT), Echo).serve_forever()
    """)
    project.describe("./serve.py", kind="tcp")
    report = project.try_it()
    assert (report.code, report.broken) == (0, set()), report.content


def test_a_bundle_is_tried_as_a_folder_is(project: Project) -> None:
    project.script("serve()")
    project.describe("./serve.py")
    packed = pack_folder(project.app, project.folder / "dist", service="shop", version="1.0.0")
    report = project.try_it(str(packed.bundle.path))
    assert (report.code, report.broken) == (0, set()), report.content


def test_what_would_not_be_packed_is_not_there(project: Project) -> None:
    project.script("serve()")
    (project.app / ".mobiusignore").write_text("serve.py\n")
    project.describe("./serve.py")
    report = project.try_it()
    assert report.check("program")["detail"] == "there is no file ./serve.py in the release"


def test_one_that_answers_slowly_loses_no_request_when_it_is_replaced(project: Project) -> None:
    project.script("""
    real = Handler.do_GET
    def do_GET(self):
        time.sleep(0.3)
        real(self)
    Handler.do_GET = do_GET
    serve()
    """)
    project.describe("./serve.py")
    report = project.try_it()
    assert (report.code, report.broken) == (0, set()), report.content


def test_probes_are_sent_and_a_wrong_answer_is_shown(project: Project) -> None:
    project.script("""
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    Handler.do_POST = do_POST
    serve()
    """)
    (project.folder / "order.json").write_text('{"order": 1}')
    probe = {"name": "an order", "method": "POST", "path": "/orders", "body_file": "order.json", "status": 201}
    project.describe("./serve.py", probes=[probe, {"name": "nothing", "path": "/x", "status": 404}])
    report = project.try_it()
    assert (report.code, report.broken) == (0, set()), report.content
    assert report.check("probes")["detail"] == "2 as expected"
    project.describe("./serve.py", probes=[{**probe, "json": {"order": 2}}])
    report = project.try_it()
    assert (report.code, report.broken) == (2, {"probes"})
    assert report.check("probes")["detail"] == "The probe 'an order' failed: order is 1, expected 2"


# -- what beginners get wrong --


def test_a_program_that_is_not_executable(project: Project) -> None:
    project.script("serve()")
    (project.app / "serve.py").chmod(0o644)
    project.describe("./serve.py")
    report = project.try_it()
    assert (report.code, report.broken) == (2, {"program"})
    assert report.check("program")["detail"] == "./serve.py is not executable"
    assert report.check("start")["result"] == "not tried"


def test_a_program_that_no_host_has(project: Project) -> None:
    project.describe("gunicorn shop:app --bind {address}")
    (project.folder / "bin").mkdir()
    shutil.copy("/bin/true", project.folder / "bin/gunicorn")
    path = f"{project.folder / 'bin'}:{os.environ['PATH']}"
    assert project.try_it(PATH=path).check("program")["detail"].startswith("gunicorn is not there: no host finds it")


def test_a_script_without_its_interpreter(project: Project) -> None:
    (project.app / "serve").write_text("#!/opt/nothing/python\n")
    (project.app / "serve").chmod(0o755)
    project.describe("./serve")
    report = project.try_it()
    assert report.broken == {"start"}
    assert "No such file" in report.check("start")["detail"]
    assert "interpreter" in report.check("start")["advice"]


def test_one_that_exits_at_once_shows_its_last_lines(project: Project) -> None:
    project.script('print("no database"); sys.exit(3)')
    project.describe("./serve.py")
    report = project.try_it()
    assert (report.code, report.broken) == (2, {"start"})
    assert "it ended with code 3 after" in report.check("start")["detail"]
    assert report.check("start")["detail"].endswith(": no database")


def test_a_health_path_that_is_not_there(project: Project) -> None:
    project.script("serve()")
    project.describe("./serve.py", health="/healthz")
    report = project.try_it()
    assert (report.code, report.broken) == (2, {"health"})
    assert report.check("health")["detail"] == "GET /healthz answers with 404"
    assert "Set health in mobius.yml" in report.check("health")["advice"]


def test_a_port_that_is_taken(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        project.script(f"ThreadingHTTPServer.allow_reuse_address = False; serve(port={taken.getsockname()[1]})")
        project.describe("./serve.py")
        report = project.try_it()
    assert report.broken == {"start"}
    assert "Address already in use" in report.check("start")["detail"]
    assert "{address}" in report.check("start")["advice"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_one_that_listens_on_a_port_of_its_own(project: Project) -> None:
    port = free_port()
    project.script(f"serve('127.0.0.1', {port})")
    project.describe("./serve.py")
    report = project.try_it()
    assert report.broken == {"address"}
    assert f"it listens on 127.0.0.1:{port}, and not on 127.0.0.1:" in report.check("address")["detail"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_one_that_listens_on_all_addresses(project: Project, host: str) -> None:
    project.script(f"""
    import socket
    if {host!r} == "::":
        ThreadingHTTPServer.address_family = socket.AF_INET6
    serve({host!r})
    """)
    project.describe("./serve.py")
    report = project.try_it()
    assert (report.code, report.broken) == (2, {"address"}), report.content
    assert "it listens on all addresses" in report.check("address")["detail"]


def test_one_that_goes_to_the_background(project: Project) -> None:
    project.script("""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    serve()
    """)
    project.describe("./serve.py")
    report = project.try_it()
    assert report.broken == {"foreground"}
    assert "went on in the background" in report.check("foreground")["detail"]


def test_one_that_runs_only_once(project: Project) -> None:
    project.script("""
    import fcntl
    lock = open(os.environ["LOCK"], "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit("another one runs")
    serve()
    """)
    keys: dict[str, Any] = {"shared": ["data"], "environment": {"LOCK": "/var/lib/shop/data/lock"}}
    project.describe("./serve.py", **keys)
    report = project.try_it()
    assert report.broken == {"second instance"}
    assert "another one runs" in report.check("second instance")["detail"]
    assert "overlap: false" in report.check("second instance")["advice"]
    project.describe("./serve.py", overlap=False, **keys)
    report = project.try_it()
    assert report.broken == set()
    assert report.check("second instance")["result"] == "not tried"


def test_one_that_does_not_end_on_sigterm(project: Project) -> None:
    project.script("signal.signal(signal.SIGTERM, signal.SIG_IGN); serve()")
    project.describe("./serve.py", drain_timeout=1)
    report = project.try_it()
    assert [one["name"] for one in report.content["checks"] if one["result"] == "broken"] == ["stop"]
    assert "SIGTERM; hosts kill it after 11 s" in report.check("stop")["detail"]


def test_requests_that_are_lost_while_one_instance_replaces_another(project: Project) -> None:
    """Both share a file, and the one that starts later makes the first one fail."""
    project.script("""
    own = open(os.environ["OWNER"], "w")
    own.write(str(os.getpid())); own.flush()
    seen = os.environ["OWNER"]
    real = Handler.do_GET
    def do_GET(self):
        self.server.count = getattr(self.server, "count", 0) + 1
        if self.server.count > 100:
            self.send_response(500); self.send_header("Content-Length", "0"); self.end_headers()
        else:
            real(self)
    Handler.do_GET = do_GET
    serve()
    """)
    project.describe("./serve.py", shared=["data"], environment={"OWNER": "/var/lib/shop/data/owner"})
    report = project.try_it()
    assert "drain" in report.broken
    assert "with status 500" in report.check("drain")["detail"]


@pytest.mark.parametrize(
    ("target", "shown"),
    [("visits.log", "the release itself (visits.log)"), ("{home}/visits.log", "the release itself (~/visits.log)")],
)
def test_one_that_writes_where_no_host_lets_it(project: Project, target: str, shown: str) -> None:
    project.script(f"""
    with open({target!r}.replace("{{home}}", os.environ["HOME"]), "a") as log:
        log.write("visit")
    serve()
    """)
    project.describe("./serve.py")
    report = project.try_it()
    assert report.broken == {"writes"}
    assert shown in report.check("writes")["detail"]
    assert "shared" in report.check("writes")["advice"]


def test_one_that_keeps_a_file_open_elsewhere(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = Path("/var/cache") if os.geteuid() == 0 else Path.home()
    path = elsewhere / f"mobius-trial-{os.getpid()}.db"
    project.script(f"database = open({str(path)!r}, 'w'); serve()")
    project.describe("./serve.py")
    try:
        report = project.try_it()
    finally:
        path.unlink(missing_ok=True)
    assert report.broken == {"writes"}
    assert str(path) in report.check("writes")["detail"]


def test_what_it_writes_to_its_shared_folder_is_kept(project: Project) -> None:
    project.script('open("/dev/null", "w"); open(os.environ["DATA"] + "/x", "w").write("x"); serve()')
    project.describe("./serve.py", shared=["uploads"], environment={"DATA": "/var/lib/shop/uploads"})
    report = project.try_it()
    assert (report.code, report.broken) == (0, set()), report.content


# -- the machine, and the command --


def test_without_haproxy_it_is_asked_directly_and_the_report_says_so(project: Project, tmp_path: Path) -> None:
    project.script("serve()")
    project.describe("./serve.py")
    script = (
        "import json, sys; from ansible_collections.mobius.dhash.plugins.module_utils.trial import trial, settings;"
        "trial.find_haproxy = lambda: None;"
        "print(json.dumps(trial.Trial(settings.TrialSettings.parse(json.load(sys.stdin))).run().as_dict()))"
    )
    given = {"service": "shop", "exec": "./serve.py", "folder": str(tmp_path), "tree": str(project.app)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(given),
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / ".ansible/collections")},
        capture_output=True,
        text=True,
        check=True,
    )
    report = Report(0, json.loads(done.stdout), "")
    assert report.broken == set()
    assert report.content["front"] == ""
    assert "HAProxy is not installed" in report.check("front")["detail"]
    assert report.check("drain")["result"] == "not tried"
    assert report.check("second instance")["result"] == "kept"
    assert report.check("stop")["result"] == "kept"


def test_the_text_names_what_is_broken_and_what_helps(project: Project) -> None:
    project.script("serve()")
    project.describe("./serve.py", health="/healthz")
    done = project.run("app")
    assert done.returncode == 2
    assert "✗ health          GET /healthz answers with 404" in done.stdout
    assert "→ Set health in mobius.yml to a path that it answers with 2xx." in done.stdout
    assert "exit 2 (QA, trial_failed)" in done.stderr


@pytest.mark.parametrize(
    ("source", "reason"),
    [("nothing.tar.gz", "There is no bundle or folder nothing.tar.gz."), ("mobius.yml", "")],
)
def test_what_is_no_bundle_is_refused(project: Project, source: str, reason: str) -> None:
    project.describe("./serve.py")
    done = project.run(source)
    assert done.returncode == 1
    assert "bundle_invalid" in done.stderr
    assert reason in done.stderr


def test_another_services_bundle_is_refused(project: Project) -> None:
    project.describe("./serve.py")
    packed = pack_folder(project.app, project.folder / "dist", service="other", version="1.0.0")
    done = project.run(str(packed.bundle.path))
    assert done.returncode == 1
    assert "The bundle is of the service other, and mobius.yml of shop." in done.stderr


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    project = Project(tmp_path / "empty")
    done = project.run("app")
    assert done.returncode == 1
    assert "has no mobius.yml" in done.stderr


# -- killed --


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_next_trial_clears_what_a_killed_one_has_left(project: Project, number: signal.Signals) -> None:
    project.script("signal.signal(signal.SIGTERM, signal.SIG_IGN); serve()")
    project.describe("./serve.py", drain_timeout=20)
    with subprocess.Popen(
        [sys.executable, "-m", "mobius.cli", "try", "app"],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as trial:
        wait_for(lambda: len(project.leftovers()) > 1)  # its folder, and a process
        os.killpg(trial.pid, number)
    if number == signal.SIGKILL:
        assert len(project.leftovers()) > 1
    else:  # the trial itself ends what it has started
        wait_for(lambda: len(project.leftovers()) == 1)
    project.describe("python3 -m http.server {port} --bind {host}", health="/")
    assert project.try_it().code == 0  # and it looks at what is left


def test_a_trial_leaves_one_alone_that_runs_beside_it(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "other")
    other.describe("python3 -m http.server {port} --bind {host}", health="/")
    project.describe("python3 -m http.server {port} --bind {host}", health="/")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        reports = list(pool.map(lambda each: each.try_it(), (project, other)))
    assert [report.code for report in reports] == [0, 0], [report.content for report in reports]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
