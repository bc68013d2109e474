"""Reading the user's own data, whatever it comes in."""

from __future__ import annotations

import os
from typing import Any

from bilstm_exporter.evaluation.data_files import read_file
from bilstm_exporter.evaluation.dataset import LIMIT, Dataset, make_dataset
from bilstm_exporter.evaluation.python_data import read_object
from bilstm_runtime.spec import ModelSpec


def read_data(data: Any, manifest: ModelSpec, *, limit: int = LIMIT) -> Dataset:
    """Read examples and their labels, and check them as the runtime would.

    Args:
        data: A file that ends in .npz, .npy, .csv or .jsonl (see
            :func:`bilstm_exporter.evaluation.data_files.read_file`), or arrays, dicts, tuples
            or anything that yields (see
            :func:`bilstm_exporter.evaluation.python_data.read_object`). Sequences may differ in
            length, and texts stand where the model begins with a text layer.
        manifest: What the model takes and answers.
        limit: Examples used at most. Of more, that many are drawn, the same every time; of what
            yields, the first that many.

    Raises:
        DataError: It cannot be read, or is not what the model takes.
    """
    if isinstance(data, (str, os.PathLike)):
        return make_dataset(read_file(data, manifest), manifest, limit)
    return make_dataset(read_object(data, manifest, limit), manifest, limit)
