"""The load on a service: its mix, its verdict, and a short run of it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter

import pytest

from glc.bench.served_process import ServedProcess
from glc.bench.service_load import measure_load, mixed
from glc.bench.service_requests import Kind, Target, hostile_requests, kind_requests


def test_each_tenth_request_is_hostile_and_each_kind_has_its_turn() -> None:
    hostile = hostile_requests()
    order = mixed(kind_requests(), hostile, 700, seed=1)
    assert [kind in hostile for kind in order] == [n % 10 == 0 for n in range(700)]
    counts = Counter(kind.name for kind in order)
    assert {counts[kind.name] for kind in hostile} == {10}
    assert all(counts[kind.name] > 100 for kind in kind_requests())
    names = [kind.name for kind in order]
    assert names == [kind.name for kind in mixed(kind_requests(), hostile, 700, seed=1)]
    assert names != [kind.name for kind in mixed(kind_requests(), hostile, 700, seed=2)]


def test_an_answer_that_is_not_right_is_found_and_a_full_queue_is_right() -> None:
    answers = iter([200, 500, 503, 200, 0])
    kind = Kind("drawn", lambda _: next(answers), frozenset({200}))
    with subprocess.Popen(["sleep", "60"], text=True) as process:
        try:
            report = measure_load(ServedProcess(process, 0), Target(0, b"", b""), [kind] * 5, 1, sample_every=2)
        finally:
            process.kill()
    assert [outcome.status for outcome in report.outcomes if not outcome.right] == [500, 0]
    row = report.of_all()
    assert row == dataclasses.replace(report.of_kind("drawn"), kind="all")
    assert (row.requests, row.wrong, row.statuses) == (5, 2, ((0, 1), (200, 2), (500, 1), (503, 1)))
    assert report.of_kind("nothing").requests == 0
    assert [sample.requests for sample in report.memory] == [0, 2, 4, 5]
    assert all(sample.memory_bytes > 0 for sample in report.memory)


@pytest.mark.slow
def test_a_service_under_load_answers_all_and_none_wrongly() -> None:
    command = [sys.executable, "-m", "glc.bench", "service", "-n", "120", "--clients", "8", "--side", "64"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["exit_status"] == 0
    everything = document["all"]
    assert (everything["requests"], everything["wrong"]) == (120, 0)
    assert {status for status, _ in everything["statuses"] if status >= 500} <= {503}
    served = {kind.name for kind in kind_requests()}
    assert all(200 in dict(row["statuses"]) for row in document["rows"] if row["kind"] in served)
    refused = [row for row in document["rows"] if row["kind"] not in served]
    assert sum(row["requests"] for row in refused) == 12
    assert not [row for row in refused if 200 in dict(row["statuses"])]
