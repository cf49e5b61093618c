"""`glc-bench service`: a service under load, a tenth of it hostile."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Annotated

import typer

from glc.bench.app import app
from glc.bench.device import device_card
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show
from glc.bench.served_process import served_process
from glc.bench.service_load import KindRow, LoadReport, measure_load, mixed
from glc.bench.service_requests import CLOSED, MAX_BODY_BYTES, hostile_requests, kind_requests, new_target
from glc.runtime.default_model import packaged_photos
from glc.runtime.terminal import EXIT_ERROR, requires_extra

_MIB = 1 << 20


@app.command()
def service(
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, help="Requests in all.")] = 2000,
    clients: Annotated[int, typer.Option("--clients", min=1, help="Clients at once.")] = 16,
    side: Annotated[int, typer.Option("--side", min=16, help="Height and width of the image in pixels.")] = 128,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Of the service.")] = 2,
    max_queue: Annotated[int, typer.Option("--max-queue", min=0, help="Of the service.")] = 12,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of requests.")] = 0,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Requests to `glc serve` over loopback, a tenth of them hostile; fails where one is answered wrongly."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    with requires_extra("serve"):
        importlib.import_module("fastapi")  # by the process that is started
    options = ["--workers", str(workers), "--threads", "1", "--max-queue", str(max_queue)]
    with served_process([*options, "--max-body", str(MAX_BODY_BYTES), "--receive-timeout", "2"]) as served:
        target = new_target(served.port, packaged_photos()[0], side)
        order = mixed(kind_requests(), hostile_requests(), requests, seed)
        report = measure_load(served, target, order, clients, sample_every=200)
        status = served.stop()
    rows = [report.of_kind(kind.name) for kind in (*kind_requests(), *hostile_requests())]
    everything = report.of_all()
    title = f"Service: {requests} requests of {clients} clients in {report.duration_s:.0f} s, exit status {status}"
    tables = [_kinds(title, rows, everything), _memory(report)]
    show("service", tables, rows, style, device_card(), all=everything, memory=report.memory, exit_status=status)
    if everything.wrong or status:
        raise typer.Exit(EXIT_ERROR)


def _kinds(title: str, rows: Sequence[KindRow], everything: KindRow) -> Table:
    headings = ("request", "number", "statuses", "wrong", "p50 ms", "p95 ms", "p99 ms")
    cells = [
        (row.kind, str(row.requests), _statuses(row), str(row.wrong), *map(_ms, (row.p50_ms, row.p95_ms, row.p99_ms)))
        for row in rows
        if row.requests
    ]
    notes = (f"all statuses: {_statuses(everything)}", "times are of requests that found a place")
    return Table(title, headings, cells, notes)


def _memory(report: LoadReport) -> Table:
    cells = [(str(sample.requests), f"{sample.memory_bytes / _MIB:.0f}") for sample in report.memory]
    return Table("Resident memory of the service", ("requests answered", "MiB"), cells)


def _statuses(row: KindRow) -> str:
    return ", ".join(f"{'closed' if status == CLOSED else status}: {count}" for status, count in row.statuses)


def _ms(duration_ms: float | None) -> str:
    return "" if duration_ms is None else f"{duration_ms:.0f}"
