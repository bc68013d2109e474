"""Score a large file with Dask: many processes, or many machines with a shared folder.

    pip install "bilstm-edge[onnx]" distributed pyarrow
    python score_with_dask.py model-edge rows.jsonl scores.jsonl --workers 4
    python score_with_dask.py model-edge rows.parquet scores.parquet --scheduler tcp://host:8786

Each row has the inputs of the model by name, and the columns of --keep, such as an id. The output
has these columns and the outputs of the model, in the order of the rows. Each worker process loads
the model once. Each part of the rows becomes one file, under its name only when it is complete: a
part that dies with its worker is computed again, by another worker.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster, as_completed

import bilstm_runtime


@functools.cache
def loaded(bundle: str, sha256: str) -> bilstm_runtime.Model:
    """Load the model once in a process."""
    return bilstm_runtime.load(bundle, sha256=sha256)


def score(part: tuple[int, int], out: str, task: dict[str, Any]) -> str:
    """Score the rows of one part and write them to a file; returns its path.

    Args:
        part: The first byte of a part of a jsonl file and the byte after it, or the number of a
            row group of a Parquet file, twice.
        out: The path of the scores of the part.
        task: The bundle, its SHA-256, the file of rows, and the columns to keep.
    """
    done = Path(out)
    if done.exists():  # written before a worker died
        return out
    rows = task["rows"]
    columns = read_jsonl(rows, *part) if rows.endswith(".jsonl") else read_parquet(rows, part[0])
    model = loaded(task["bundle"], task["sha256"])
    inputs = {spec.name: columns[spec.name] for spec in model.inputs}
    outputs = model.predict(inputs)
    if model.output_structure != "dict":
        flat = [outputs] if model.output_structure == "single" else outputs
        outputs = {spec.name: one for spec, one in zip(model.outputs, flat, strict=True)}
    kept = {name: columns[name] for name in task["keep"]}
    scores = {name: [np.asarray(row).tolist() for row in one] for name, one in outputs.items()}
    partial = done.with_name(f"{done.name}.{os.getpid()}")
    (write_jsonl if out.endswith(".jsonl") else write_parquet)(partial, kept | scores)
    partial.replace(done)
    return out


def read_jsonl(path: str, begin: int, end: int) -> dict[str, list[Any]]:
    """Read the lines between two positions as columns."""
    with Path(path).open("rb") as file:
        file.seek(begin)
        lines = [json.loads(line) for line in file.read(end - begin).splitlines()]
    return {name: [line[name] for line in lines] for name in lines[0]}


def read_parquet(path: str, group: int) -> dict[str, list[Any]]:
    """Read a row group as columns."""
    import pyarrow.parquet  # noqa: PLC0415 (only for Parquet)

    table = pyarrow.parquet.ParquetFile(path).read_row_group(group)
    found: dict[str, list[Any]] = table.to_pydict()
    return found


def write_jsonl(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write columns as lines."""
    with path.open("w") as file:
        for row in zip(*columns.values(), strict=True):
            file.write(json.dumps(dict(zip(columns, row, strict=True))) + "\n")


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write columns as one row group."""
    import pyarrow as pa  # noqa: PLC0415 (only for Parquet)
    from pyarrow import parquet  # noqa: PLC0415 (the same)

    parquet.write_table(pa.table(columns), path)


def parts_of(path: str, rows: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file; see `score`."""
    if not path.endswith(".jsonl"):
        import pyarrow.parquet  # noqa: PLC0415 (only for Parquet)

        count = pyarrow.parquet.ParquetFile(path).num_row_groups
        yield from ((group, group) for group in range(count))
        return
    with Path(path).open("rb") as file:
        begin = 0
        while sum(1 for _ in itertools.islice(file, rows)):
            yield begin, file.tell()
            begin = file.tell()


def join(parts: list[str], out: str) -> None:
    """Write the parts in their order to one file."""
    if out.endswith(".jsonl"):
        with Path(out).open("wb") as file:
            for part in parts:
                with Path(part).open("rb") as source:
                    shutil.copyfileobj(source, file)
        return
    import pyarrow.parquet  # noqa: PLC0415 (only for Parquet)

    schema = pyarrow.parquet.read_schema(parts[0])
    with pyarrow.parquet.ParquetWriter(out, schema) as writer:
        for part in parts:
            writer.write_table(pyarrow.parquet.read_table(part, schema=schema))


def run(  # noqa: PLR0913 (the options of a user are independent)
    client: Client, bundle: str, rows: str, out: str, *, keep: Sequence[str] = (), size: int = 5000
) -> None:
    """Score all rows of a file on a cluster.

    Args:
        client: The cluster, whose workers see the same files.
        bundle: The bundle folder.
        rows: The rows, a jsonl or Parquet file.
        out: Where the scores go; the same format.
        keep: The columns of the rows to keep.
        size: The number of lines of a part; a Parquet file is read by row groups.
    """
    model = bilstm_runtime.load(bundle)
    task = {
        "bundle": str(Path(bundle).resolve()),
        "sha256": model.sha256,
        "rows": str(Path(rows).resolve()),
        "keep": list(keep),
    }
    # Parts of an interrupted run are used again, unless the rows or the options are others.
    status = Path(rows).stat()
    run_of = json.dumps([task, size, status.st_size, status.st_mtime_ns])
    folder = Path(f"{out}.{hashlib.sha256(run_of.encode()).hexdigest()[:16]}.parts")
    folder.mkdir(exist_ok=True)
    parts = list(parts_of(rows, size))
    suffix = Path(out).suffix
    paths = [str(folder.resolve() / f"{number:08}{suffix}") for number in range(len(parts))]
    futures = client.map(score, parts, paths, task=task, pure=False)
    for count, _ in enumerate(as_completed(futures), start=1):
        if sys.stderr.isatty():
            end = "" if count < len(futures) else "\n"
            sys.stderr.write(f"\r{count} of {len(futures)} parts{end}")
    join(client.gather(futures), out)
    shutil.rmtree(folder)


def main() -> None:
    """Read the command line, and score a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("rows", help="a .jsonl or .parquet file")
    parser.add_argument("out", help="a file of the same format")
    parser.add_argument("--keep", action="append", default=[], help="a column to keep, such as id")
    parser.add_argument("--part", type=int, default=5000, help="lines of a part (default: 5000)")
    parser.add_argument("--workers", type=int, help="processes on this machine (default: cores)")
    parser.add_argument("--scheduler", help="the address of a running cluster instead")
    args = parser.parse_args()
    if not args.rows.endswith((".jsonl", ".parquet")):
        parser.error(f"{args.rows}: give a .jsonl or .parquet file")
    with contextlib.ExitStack() as stack:
        cluster = args.scheduler or stack.enter_context(
            LocalCluster(n_workers=args.workers, threads_per_worker=1, dashboard_address=None)
        )
        client = stack.enter_context(Client(cluster))
        run(client, args.bundle, args.rows, args.out, keep=args.keep, size=args.part)


if __name__ == "__main__":
    main()
