"""Streams the steps of a file or of stdin, one line each; the work of run-bilstm --stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from bilstm_runtime.errors import DataFileError, InputError, OptionError
from bilstm_runtime.io.readers import read_csv_row, read_json_line
from bilstm_runtime.io.sources import line_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.cli.output import Progress
    from bilstm_runtime.model import Model
    from bilstm_runtime.streams import StreamOutput


class StreamJob:
    """Feeds the lines of a file to a stream, and writes each output as soon as it is there.

    Attributes:
        errors: The messages of the lines that were not taken.
    """

    def __init__(  # noqa: PLR0913 (by name)
        self,
        model: Model,
        label: str,
        file: BinaryIO,
        progress: Progress,
        *,
        chunk: int | None,
        lookahead: int | None,
    ) -> None:
        """Start a stream.

        Args:
            model: The model.
            label: The file's name in messages.
            file: Where to write.
            progress: Shows the number of steps.
            chunk: As for `Model.stream`.
            lookahead: As for `Model.stream`.

        Raises:
            NoArtifactError: The bundle has no stream file for this backend and recipe.
            OptionError: Chunk or look-ahead are impossible, or an input has no time axis.
        """
        self._stream = model.stream(chunk=chunk, lookahead=lookahead)
        spec = self._stream.spec
        self._names = list(spec.timed)
        self._is_sequence = [output.is_sequence for output in spec.outputs]
        self._outputs = [output.name for output in model.outputs]
        self._structure = model.output_structure
        self._label, self._file, self._progress = label, file, progress
        self._header: list[str] = []
        self._entries = 0
        self.errors: list[str] = []

    def run(self, source: BinaryIO, input_format: str) -> int:
        """Feed all lines; returns the number of steps.

        Args:
            source: One step per line.
            input_format: "jsonl" or "csv".
        """
        if input_format not in ("jsonl", "csv"):
            message = f"--stream reads one step per line, as jsonl or csv, not {input_format}"
            raise OptionError(message)
        if input_format == "csv" and len(self._names) > 1:
            message = f"{self._label}: a .csv file suits a model with one input; use .jsonl"
            raise DataFileError(message)
        for number, lines in line_blocks(source, self._label, "surrogateescape"):
            for at, line in enumerate(lines, start=number):
                if line.strip():
                    self._feed(line, at, input_format)
            self._file.flush()
            self._progress(self._stream.steps, None)
        for item in self._stream.finish():
            self._write(item)
        return self._stream.steps

    def _feed(self, line: str, number: int, input_format: str) -> None:
        where = f"{self._label}, line {number}"
        try:
            if input_format == "jsonl":
                step = read_json_line(line, self._names, where)
            else:
                is_first = self._stream.steps == 0 and not self._header
                row = read_csv_row(line, self._header, self._label, number, is_first=is_first)
                if row is None:
                    return
                step = {self._names[0]: row}
            found = self._stream.feed({name: [value] for name, value in step.items()})
        except (DataFileError, InputError) as error:
            text = str(error) if isinstance(error, DataFileError) else f"{where}: {error}"
            self.errors.append(text)
            self._line({"error": text})
            return
        for item in found:
            self._write(item)

    def _write(self, item: StreamOutput) -> None:
        """Write one line per step of a sequence output, or one per chunk of running answers."""
        values = [item] if self._structure == "single" else item
        values = list(values.values()) if isinstance(values, dict) else list(values)
        running = {
            name: value.tolist()
            for name, value, is_sequence in self._rows(values)
            if not is_sequence
        }
        sequences = [(n, value) for n, value, is_sequence in self._rows(values) if is_sequence]
        if not sequences:
            self._line({"step": self._stream.steps_done - 1, **running})
            return
        count = max(len(value) for _, value in sequences)
        for entry in range(count):
            line: dict[str, Any] = {"step": self._entries}
            self._entries += 1
            line.update({n: value[entry].tolist() for n, value in sequences if entry < len(value)})
            if entry == count - 1:
                line.update(running)
            self._line(line)

    def _rows(self, values: Sequence[Any]) -> list[tuple[str, Any, bool]]:
        arrays = [np.asarray(value) for value in values]
        return list(zip(self._outputs, arrays, self._is_sequence, strict=True))

    def _line(self, line: dict[str, Any]) -> None:
        self._file.write((json.dumps(line) + "\n").encode())
