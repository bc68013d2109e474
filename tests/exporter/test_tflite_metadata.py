"""The standard metadata of a TFLite file, as a reader of the format finds it."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import pytest
from ai_edge_litert.tools import flatbuffer_utils

from bilstm_exporter import export
from exporter.models import MODELS


class Table:
    """A table of a flatbuffer, read by the rules of the format."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place

    def _field(self, slot: int) -> int:
        table = self.place - struct.unpack_from("<i", self.data, self.place)[0]
        offset = 4 + 2 * slot
        size = struct.unpack_from("<H", self.data, table)[0]
        found = struct.unpack_from("<H", self.data, table + offset)[0] if offset < size else 0
        return self.place + found if found else 0

    def _target(self, place: int) -> int:
        return place + struct.unpack_from("<I", self.data, place)[0]

    def text(self, slot: int) -> str:
        place = self._target(self._field(slot))
        size = struct.unpack_from("<I", self.data, place)[0]
        return self.data[place + 4 : place + 4 + size].decode()

    def tables(self, slot: int) -> list[Table]:
        place = self._target(self._field(slot))
        count = struct.unpack_from("<I", self.data, place)[0]
        return [Table(self.data, self._target(place + 4 + 4 * i)) for i in range(count)]

    def floats(self, slot: int) -> list[float]:
        place = self._target(self._field(slot))
        count = struct.unpack_from("<I", self.data, place)[0]
        return list(struct.unpack_from(f"<{count}f", self.data, place + 4))

    def table(self, slot: int) -> Table | None:
        place = self._field(slot)
        return Table(self.data, self._target(place)) if place else None


def metadata_of(content: bytes) -> Table:
    model: Any = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (entry,) = model.metadata
    assert entry.name == b"TFLITE_METADATA"
    data = bytes(model.buffers[entry.buffer].data)
    assert data[4:8] == b"M001"
    return Table(data, struct.unpack_from("<I", data)[0])


@pytest.mark.slow
def test_names_shapes_and_ranges(exported):
    found = metadata_of(exported("classifier").tflite)
    (graph,) = found.tables(3)
    (ids,), (label,) = graph.tables(2), graph.tables(3)
    assert (ids.text(0), label.text(0)) == ("ids", "label")
    assert ids.text(1) == "int32 [batch, time]; a step of 0 is padding"
    assert label.text(1) == "float32 [batch, 2]"
    stats = ids.table(5)
    assert stats is not None
    assert (stats.floats(1), stats.floats(0)) == ([0.0], [8.0])
    assert label.table(5) is None


@pytest.mark.slow
def test_labels_lie_behind_the_model(tmp_path):
    report = export(MODELS["lstm"](), tmp_path / "bundle", formats="tflite", labels=["no", "yes"])
    content = (tmp_path / "bundle" / report.artifacts[0].file).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("labels_label.txt") == b"no\nyes\n"
    (file,) = metadata_of(content).tables(3)[0].tables(3)[0].tables(6)
    assert file.text(0) == "labels_label.txt"
