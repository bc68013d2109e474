"""The example that scores a file with Dask: order, ids, and a worker that is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bilstm_runtime import load

distributed = pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROWS = 3000


@pytest.fixture(scope="module")
def cluster():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, scheduler_port=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 20, ROWS)
    return [
        {"id": f"row {n}", "tokens": rng.integers(1, 9, length).tolist()}
        for n, length in enumerate(lengths)
    ]


def files(kind, rows, folder):
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=100)
    return str(path), str(folder / f"scores.{kind}")


def read(path):
    if path.endswith(".jsonl"):
        return [json.loads(line) for line in Path(path).read_text().splitlines()]
    return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_order_and_ids_are_kept_though_a_worker_dies(kind, cluster, rows, fixtures, tmp_path):
    score_with_dask = pytest.importorskip("score_with_dask")
    source, out = files(kind, rows, tmp_path)
    killed = []

    def kill():
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("*.parts/*"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        pids = cluster.run(os.getpid)
        os.kill(next(iter(pids.values())), signal.SIGKILL)
        killed.append(True)

    thread = threading.Thread(target=kill)
    thread.start()
    score_with_dask.run(cluster, str(fixtures / "tagger"), source, out, keep=["id"], size=100)
    thread.join()
    assert killed
    found = read(out)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    expected = load(fixtures / "tagger").predict([row["tokens"] for row in rows])
    (name,) = set(found[0]) - {"id"}
    for row, answer in zip(found, expected, strict=True):
        np.testing.assert_allclose(row[name], answer, 1e-5, 1e-6)
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_parts_have_as_many_rows_as_asked_for(kind, rows, tmp_path):
    score_with_dask = pytest.importorskip("score_with_dask")
    source, _ = files(kind, rows, tmp_path)
    assert len(list(score_with_dask.parts_of(source, 100))) == ROWS // 100
