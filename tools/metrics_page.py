"""Makes docs/metrics.md from the one table: `python -m tools.metrics_page > docs/metrics.md`."""

from __future__ import annotations

from mobius.metric_table import BACKUP, FRONT, HOST, METRICS, SERVICE

SECTIONS = {
    HOST: (
        "A host",
        "`<service>-metrics.timer` runs `mobius-host metrics` each minute, which writes `<service>-host.prom`.",
    ),
    FRONT: (
        "Requests of clients",
        "The traffic receiver writes its page each second; `<service>-front.prom` is a link to it. `source` is "
        "`public` for clients, and `probe` for what MOBIUS requests itself.",
    ),
    BACKUP: (
        "Backups of a host",
        "Each command of `mobius-backup` that may change something writes `<service>-backup.prom`, when it fails too.",
    ),
    SERVICE: (
        "An instance of dhash",
        "At `/metrics` of the service. Another service has metrics of its own, or none.",
    ),
}


def page() -> str:
    """The whole page, as Markdown."""
    lines = [
        "# Which metrics does MOBIUS write?",
        "",
        "On hosts they are files for the textfile collector of Prometheus's node exporter, in `host_metrics_dir` and",
        "`backup_metrics_dir`. Debian's node exporter reads `/var/lib/prometheus/node-exporter`, where backups have",
        "theirs; `host_metrics_dir` is empty at first, so set it: without it a host writes none of its own.",
        "",
        "Each file is replaced in one step, and has the time at which it was written: when that grows old, nothing on",
        "it counts. What cannot be read is left out. `mobius-host metrics --show` prints a host's page.",
        "",
        "The alerts from them are in `mobius/observability/rules.yml`: name that file in `rule_files` of Prometheus.",
        "Its first rule is the objective, 99.9 %. Each alert has the label `team` ([EXIT_CODES.md](EXIT_CODES.md)) and",
        "a page in [runbooks](runbooks), whose `SERVICE` stands for the name of the service.",
        "",
        "This page is made from the table in `mobius/metric_table.py`; a test compares them.",
    ]
    for source, (title, text) in SECTIONS.items():
        lines += ["", f"## {title}", "", text, "", "| metric | type | labels | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels)} | {metric.meaning} |"
            for metric in METRICS.values()
            if metric.source == source
        ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(page(), end="")
