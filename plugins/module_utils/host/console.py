# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command `mobius-host` for the console and for systemd units; it runs the same code as the modules."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import getpass
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import durable, errors
from ..errors import MobiusError
from ..manifest import release_of
from .clock import process_age, utc_now
from .config import CONFIG_DIR, Host, only_service, revision_name
from .executor import Executor
from .failures import to_failure
from .front import traffic
from .front.certificate import read_certificate
from .instance import STATE_TIMEOUT_SECONDS, is_answering
from .journal import read_journal
from .lock import wait_until_unlocked
from .metrics import metrics_page, write_metrics
from .plan import Actor, HostPlan, Observation
from .rebuild import read_known_activation, read_known_pending
from .revision import write_script
from .state import MonitoringWindow, is_live, read_activation, read_window, role_of
from .status import status, verify
from .systemd import notify_ready
from .transitions.confirmation import plan_confirmed
from .transitions.maintenance_mode import plan_maintenance
from .transitions.marks import plan_pin
from .transitions.repair import plan_repair
from .transitions.rollback import plan_rollback
from .transitions.upkeep import plan_boot, plan_guard, plan_unwatched
from .watch import watch_window

READY_POLL_SECONDS = 0.05  # from one request to the health of a starting instance to the next
GUARD_POLL_SECONDS = 1.0  # from one reading of pending.json by the guard to the next


def _actor() -> str:
    return f"console:{os.environ.get('SUDO_USER') or getpass.getuser()}"


def _print_status(facts: Mapping[str, Any]) -> None:
    print(f"service    {facts['service']}")
    print(f"confirmed  {facts['confirmed'] or 'nothing'}")
    print(f"serving    {', '.join(facts['serving']) or 'nothing'}")
    if facts["maintenance"]:
        maintenance = facts["maintenance"]
        why = f": {maintenance['reason']}" if maintenance["reason"] else ""
        print(f"maintained since {maintenance['since']}, by {maintenance['actor']}{why}; clients get 503")
    if facts["pending"]:
        pending = facts["pending"]
        print(f"pending    {pending['release']} ({pending['stage']}), reverts in {pending['remaining']:.0f} s")
    if facts["watch"]:
        print(f"watched    {facts['watch']['release']}, for {facts['watch']['remaining']:.0f} s more")
    if facts["lease"]:
        lease = facts["lease"]
        print(f"held       by the run {lease['run']} of {lease['actor']} since {lease['since']}, ", end="")
        print(f"and for {lease['remaining']:.0f} s more")
    if facts["at_work"]:
        print("at work    another command, so problems are not looked for")
    leaves = facts["pending"]["release"] if facts["pending"] else facts["confirmed"]
    if facts["serving"] and leaves:
        print(f"roll back  mobius-host --service {facts['service']} rollback --from {leaves}")
    for item in facts["releases"]:
        bad = f"  bad: {item['reason'] or 'no reason recorded'}" if item["bad"] else ""
        pinned = "  pinned" if item["pinned"] else ""
        print(f"  {item['release']:<32} {item['state']:<9} {item['confirmed'] or '-'}{pinned}{bad}")
    for item in facts["problems"]:
        print(f"problem    {item['problem']} {item['heal']}")


def _print_warnings(plan: HostPlan) -> None:
    for warning in plan.warnings:
        print(f"mobius-host: {warning}", file=sys.stderr)


def _status(executor: Executor, options: argparse.Namespace) -> int:
    facts = status(executor)
    if options.json:
        print(json.dumps(facts, indent=2, sort_keys=True))
    else:
        _print_status(facts)
    if facts["problems"]:
        raise _inconsistent(len(facts["problems"]))
    return 0


def _inconsistent(problems: int) -> MobiusError:
    counted = f"{problems} problems" if problems > 1 else "one problem"
    return MobiusError("host_inconsistent", f"This host has {counted}, shown above.")


def _rollback(executor: Executor, options: argparse.Namespace) -> int:
    started = time.monotonic()
    plan = executor.run(
        lambda observed: plan_rollback(
            observed, options.to, executor.actor, leaves=options.leaves, since=options.requested_at
        )
    )
    _print_warnings(plan)
    print(f"{executor.host.service}: {plan.note} ({time.monotonic() - started:.2f} s).")
    return 0


def _confirm(executor: Executor, _: argparse.Namespace) -> int:
    plan = executor.run(lambda observed: plan_confirmed(observed, None, executor.actor))
    print(f"{executor.host.service}: {plan.note}.")
    return 0


def _pin(executor: Executor, options: argparse.Namespace) -> int:
    is_pinned = options.command == "pin"
    plan = executor.run(lambda observed: plan_pin(observed, options.release, is_pinned, executor.actor))
    print(f"{executor.host.service}: {plan.note}.")
    return 0


def _verify(executor: Executor, options: argparse.Namespace) -> int:
    problems_by_name = verify(executor, [options.release] if options.release else [])
    for name, problems in problems_by_name.items():
        print(f"{name}: {'intact' if not problems else f'{len(problems)} problems'}")
        for problem in problems:
            print(f"  {problem}")
    if damaged := [name for name, problems in problems_by_name.items() if problems and name not in ("journal", "host")]:
        raise MobiusError("tree_damaged", f"{', '.join(damaged)} on this host is not what was built.")
    if problems_by_name["journal"]:
        raise MobiusError("state_damaged", f"The journal is damaged: {problems_by_name['journal'][0]}.")
    if problems_by_name["host"]:
        raise _inconsistent(len(problems_by_name["host"]))
    return 0


def _repair(executor: Executor, options: argparse.Namespace) -> int:
    """Show what a repair does, and do it after a yes; the plan is made again under the lock."""
    observed = executor.observe()
    plan = plan_repair(observed, executor.actor)
    if not plan.changed:
        print(f"{executor.host.service}: nothing is to be repaired.")
        return 0
    _print_repair(executor.host, observed, plan)
    if options.check:
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            raise MobiusError("invalid_input", "Nothing was changed.", do_next="Give --yes to do what is shown above.")
        if input("Do that? [y/N] ").strip().lower() not in ("y", "yes"):
            raise MobiusError("interrupted", "Nothing was changed.")

    def make_plan(again: Observation) -> HostPlan:
        actual = plan_repair(again, executor.actor)
        # after a start, which comes first, there is less to do
        if not {str(action) for action in actual.actions} <= {str(action) for action in plan.actions}:
            raise MobiusError(
                "environment_failed",
                "The host is no longer as it was when the plan was shown, so nothing was changed.",
                do_next="Run `mobius-host repair` again: it shows the plan that fits now.",
            )
        return actual

    print(f"{executor.host.service}: repaired; {executor.run(make_plan).note}.")
    return 0


def _print_repair(host: Host, observed: Observation, plan: HostPlan) -> None:
    print(f"service    {host.service}")
    if observed.record_problem:
        print(f"damaged    {observed.record_problem}")
    if observed.pending_problem:
        print(f"damaged    {observed.pending_problem}")
    if observed.is_record_lost:
        lines, unreadable = read_journal(host)
        lost = f", and {unreadable} that cannot be read" if unreadable else ""
        activation = plan.after.activation
        print(f"rebuilt    from {len(lines)} lines of the journal{lost}, what is staged, and what serves:")
        print(f"confirmed  {activation.confirmed or 'nothing'}")
        print(f"previous   {activation.previous(observed.staged) or 'nothing'}, the target of a rollback")
        print(f"bad        {', '.join(sorted(plan.after.view()['bad'])) or 'nothing'}")
        print(f"pinned     {', '.join(activation.pinned) or 'nothing'}")
    for action in plan.actions:
        print(f"  {action}")


def _boot(executor: Executor, _: argparse.Namespace) -> int:
    plan = executor.run(lambda observed: plan_boot(observed, executor.actor))
    _print_warnings(plan)
    print(plan.note)
    return 0


def _guard(executor: Executor, _: argparse.Namespace) -> int:
    """Wait for the deadline of the pending promotion, however often it is moved, and revert an overdue one.

    The deadline is absolute, so a restarted guard waits no longer than the first would have.
    """
    while True:
        pending = read_known_pending(executor.host)
        if pending and is_live(read_known_activation(executor.host), pending, executor.clock(), executor.boot()):
            executor.sleep(max(0.0, min(GUARD_POLL_SECONDS, pending.deadline - executor.clock())))
            continue
        # also when nothing is pending: it finishes what a killed guard left
        plan = executor.run(lambda observed: plan_guard(observed, executor.actor))
        if plan.after.pending is None:
            _print_warnings(plan)
            print(plan.note)
            return 0


def _unavailable(executor: Executor, _: argparse.Namespace) -> int:
    """Run for as long as another command holds the lock of the host: the unit then starts what that one stopped."""
    wait_until_unlocked(executor.host, notify_ready)
    return 0


def _role(executor: Executor, options: argparse.Namespace) -> int:
    """Give a starting instance its address and its state file; needs no lock, which its starter may hold."""
    activation, pending = read_known_activation(executor.host), read_known_pending(executor.host)
    live = pending if is_live(activation, pending, executor.clock(), executor.boot()) else None
    role = role_of(activation, live, options.release)
    environment = executor.front.environment(options.release)
    executor.front.write_state(options.release, role)
    environment["MOBIUS_RELEASE_ID"] = release_of(options.release)
    text = "".join(f"{name}={value}\n" for name, value in environment.items())
    durable.write_bytes(options.env_file, text.encode())
    write_script(executor.host, options.release)
    return 0


def _ready(executor: Executor, options: argparse.Namespace) -> int:
    """Wait until a starting instance answers its health path, and let it serve if it has to.

    Its unit is starting for as long, so systemd's own time-out ends this. An instance that has ended shows in the
    exit code alone: the last line of the unit's log is that of the instance.
    """
    process = os.environ.get("MAINPID")
    while not is_answering(executor.host, options.release, STATE_TIMEOUT_SECONDS):
        if process is not None and not os.path.exists(f"/proc/{process}"):
            return int(MobiusError("instance_failed", "").code)
        executor.sleep(READY_POLL_SECONDS)
    executor.front.raise_by_record(options.release)
    return 0


def _drain(executor: Executor, options: argparse.Namespace) -> int:
    """Drain an instance that is about to be stopped. One that ended by itself has no requests, and is started again."""
    if "MAINPID" in os.environ:
        executor.front.drain(options.release)
    return 0


def _render(executor: Executor, _: argparse.Namespace) -> int:
    """Write the configuration of the front; needs no lock, which its starter may hold."""
    executor.front.render()
    return 0


def _maintenance(executor: Executor, options: argparse.Namespace) -> int:
    """Give clients the page of maintenance, or let them reach the service again."""
    plan = executor.run(
        lambda observed: plan_maintenance(observed, options.state == "on", executor.actor), check=options.check
    )
    _print_warnings(plan)
    for action in plan.actions if options.check else ():
        print(f"  {action}")
    print(f"{executor.host.service}: {plan.note}{'' if plan.changed else ' already'}.")
    return 0


def _renew(executor: Executor, options: argparse.Namespace) -> int:
    """Check the certificate of the front, and let a front that runs use it for new connections."""
    host = executor.host
    path = host.front.certificate
    if path is None:
        raise MobiusError(
            "invalid_input",
            f"The front of {host.service} has no certificate.",
            do_next="Set host_front_certificate, and run playbooks/provision.yml (or `mobius provision`).",
        )
    certificate = read_certificate(path)
    did = "can be used"
    if not options.check:
        is_used = executor.front.use_certificate(certificate)
        did = "is used from now on" if is_used else "will be used, once the front runs"
    print(f"{host.service}: {path} {did}; it expires on {certificate.last_day}.")
    return 0


def _traffic(executor: Executor, _: argparse.Namespace) -> int:
    """Count the requests that the front logs, until systemd stops it."""
    traffic.run(executor.host.traffic_page, executor.host.front)
    return 0


def _metrics(executor: Executor, options: argparse.Namespace) -> int:
    """Write the metrics for Prometheus's node exporter, or only show them."""
    if options.show:
        print(metrics_page(executor), end="")
    else:
        write_metrics(executor)
    return 0


def _watch(executor: Executor, options: argparse.Namespace) -> int:
    """Watch the confirmed release to the end of its window (or for `--seconds`), and roll back on a trigger.

    The end is absolute, so a restarted watch lasts no longer than the first would have.
    """
    host, activation = executor.host, read_activation(executor.host)
    if options.seconds is not None:
        began, token = executor.clock(), activation.token
        settings = dataclasses.replace(host.watch_settings, unhealthy_seconds=options.grace)
        settings = dataclasses.replace(settings, interval=min(settings.interval, 1.0, options.grace / 4))
        window = MonitoringWindow(
            activation.confirmed or "", None, began, began + options.seconds, executor.boot(), token
        )
        if activation.confirmed is not None:
            watch_window(executor, window, settings, is_persistent=False)
        print(f"{activation.confirmed or 'nothing'} was watched for {options.seconds:g} s")
        return 0
    while True:
        opened = read_window(host)
        if opened is not None and opened.is_of(read_activation(host), executor.boot()):
            watch_window(executor, opened, host.watch_settings, is_persistent=True)
        # a run may have acquired the host since: plan and lease are made under the same lock
        plan = executor.run(lambda observed: plan_unwatched(observed, executor.actor))
        if not plan.after.is_held_open:
            print(plan.note)
            return 0


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mobius-host",
        description="Switches, reverts, confirms and watches the releases of a service on this host.",
    )
    parser.add_argument("--service", help="the service; not needed when the host has only one")
    parser.add_argument("--config-dir", default=CONFIG_DIR, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Executor, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=text, description=text)
        subparser.set_defaults(run=run)
        return subparser

    command("status", _status, "show which release serves and which are kept").add_argument(
        "--json", action="store_true", help="print JSON"
    )
    rollback = command("rollback", _rollback, "serve the previous release at once, and mark the present one bad")
    rollback.add_argument("--to", metavar="ID", help="the release to roll back to, any kept one")
    rollback.add_argument(
        "--from", metavar="ID", dest="leaves", help="the release to leave; when it no longer serves, nothing is done"
    )
    rollback.add_argument("--reason", metavar="TEXT", help="the reason, for the history")
    rollback.add_argument("--run", metavar="ID", dest="run_id", help="the id of the run that rolls back")
    command("confirm", _confirm, "confirm the pending promotion")
    repair = command("repair", _repair, "show what is wrong with the state of the host, and repair it")
    repair.add_argument("--check", action="store_true", help="only show what it would do")
    repair.add_argument("--yes", action="store_true", help="do it without a question")
    repair.add_argument("--reason", metavar="TEXT", help="the reason, for the journal")
    for name, text in (
        ("pin", "keep a staged release from retention"),
        ("unpin", "let retention remove a release again"),
    ):
        pin = command(name, _pin, text)
        pin.add_argument("release", metavar="ID")
        pin.add_argument("--reason", metavar="TEXT", help="the reason, for the journal")
    verifier = command(
        "verify", _verify, "compare the host with its record, its units and what was built, and check the journal"
    )
    verifier.add_argument("release", metavar="ID", nargs="?", help="only this release")
    watch = command("watch", _watch, "watch the confirmed release, and roll back on a trigger")
    watch.add_argument("--seconds", type=float, help="how long to watch; without it, to the end of its window")
    watch.add_argument("--grace", type=float, default=10.0, help="with --seconds, how long it may be unhealthy")
    command("boot", _boot, "start the confirmed release (for systemd)")
    command("guard", _guard, "revert an unconfirmed promotion at its deadline (for systemd)")
    command("unavailable", _unavailable, "run while a restore exchanges the data (for systemd)")
    role = command("role", _role, "give a starting instance its address and its state (for systemd)")
    role.add_argument("release", metavar="ID", type=revision_name)
    role.add_argument("--env-file", metavar="FILE", required=True, help="where to write its address")
    for name, run, text in (
        ("ready", _ready, "wait until a starting instance is healthy, and let it serve if it has to (for systemd)"),
        ("drain", _drain, "drain an instance before it is stopped (for systemd)"),
    ):
        command(name, run, text).add_argument("release", metavar="ID", type=revision_name)
    command("render", _render, "write the configuration of the front (for systemd)")
    maintenance = command(
        "maintenance", _maintenance, "give clients 503 and a page, or let them reach the service again"
    )
    maintenance.add_argument("state", choices=("on", "off"))
    maintenance.add_argument("--reason", metavar="TEXT", help="the reason, for the journal and for `status`")
    maintenance.add_argument("--check", action="store_true", help="only show what it would do")
    renew = command("renew", _renew, "use the certificate that its file has now; no connection is dropped")
    renew.add_argument("--check", action="store_true", help="only check whether it can be used")
    metrics = command("metrics", _metrics, "write the metrics of the host for Prometheus (a timer does, each minute)")
    metrics.add_argument("--show", action="store_true", help="print them, and write nothing")
    command("traffic", _traffic, "count the requests that the front logs (for systemd)")
    return parser


def main(arguments: Sequence[str] | None = None, requested_at: str | None = None) -> int:
    """Run the command; returns the exit code of the table in errors.py.

    Args:
        requested_at: when it was requested, in RFC 3339; by default, when this process started.
    """
    requested_at = requested_at or utc_now(-process_age(os.getpid()))
    try:
        options = _parser().parse_args(arguments)
        options.requested_at = requested_at
    except SystemExit as stop:
        # argparse exits with 2, which here means a failed release
        return int(errors.ExitCode.INPUT if stop.code else errors.ExitCode.SUCCESS)
    actor = options.command if options.command in ("guard", "boot", "watch") else _actor()
    try:
        host = Host.load(options.service or only_service(options.config_dir), options.config_dir)
        actor = Actor(actor, getattr(options, "run_id", None), getattr(options, "reason", None))
        executor = Executor(
            host,
            actor,
            may_rebuild=options.command in ("repair", "boot", "guard", "maintenance", "metrics"),
            finds_silent=options.command == "rollback",
            pending_may_be_lost=options.command == "rollback" and bool(options.to or options.leaves),
            journal_may_wait=options.command in ("repair", "boot", "guard", "rollback", "watch", "maintenance"),
        )
        return int(options.run(executor, options))
    except KeyboardInterrupt:
        failure = MobiusError("interrupted", "Interrupted.")
    except (MobiusError, OSError) as error:
        failure = to_failure(error)
    print(f"mobius-host: {failure.reason}\n{failure.do_next}", file=sys.stderr)
    return int(failure.code)
