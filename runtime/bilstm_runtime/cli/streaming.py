"""Streams the steps of a file or of stdin; the work of run-bilstm --stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from bilstm_runtime.errors import DataFileError, InputError, OptionError
from bilstm_runtime.io.readers import JsonError, read_csv_row, read_json_line, read_npy
from bilstm_runtime.io.sources import line_blocks
from bilstm_runtime.io.writers import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bilstm_runtime.cli.answers import Answerer
    from bilstm_runtime.cli.output import Progress
    from bilstm_runtime.model import Model
    from bilstm_runtime.streams import StreamOutput
    from bilstm_runtime.values import AnyArray


_REPORTED: Final = 256
"""Steps of an array after which outputs are flushed and the progress is shown."""


class StreamJob:
    """Feeds a stream from lines or an array, and writes each output as soon as it is there.

    Attributes:
        errors: The messages of the steps that were not taken.
    """

    def __init__(  # noqa: PLR0913 (by name)
        self,
        model: Model,
        label: str,
        file: BinaryIO,
        progress: Progress,
        *,
        answerer: Answerer | None,
        chunk: int | None,
        lookahead: int | None,
    ) -> None:
        """Start a stream.

        Args:
            model: The model.
            label: The file's name in messages.
            file: Where to write.
            progress: Shows the number of steps.
            answerer: Names classes and tags; None if the outputs are written as numbers.
            chunk: As for `Model.stream`.
            lookahead: As for `Model.stream`.

        Raises:
            NoArtifactError: The bundle has no stream file for this backend and recipe.
            OptionError: Chunk or look-ahead are impossible, or an input has no time axis.
        """
        self._stream = model.stream(chunk=chunk, lookahead=lookahead)
        spec = self._stream.spec
        self._names = list(spec.timed)
        self._timed = [item for item in model.inputs if item.name in self._names]
        self._is_sequence = [output.is_sequence for output in spec.outputs]
        self._outputs = [output.name for output in model.outputs]
        self._flatten = model.spec.flatten_outputs
        self._label, self._file, self._progress = label, file, progress
        self._answerer = answerer
        self._header: list[str] = []
        self._entries = 0
        self.errors: list[str] = []

    def run(self, source: BinaryIO, input_format: str) -> int:
        """Feed all steps; returns their number.

        Args:
            source: One step per line, or one array of steps.
            input_format: "jsonl", "csv" or "npy".
        """
        if input_format not in ("jsonl", "csv", "npy"):
            message = (
                f"--stream reads one step per line, as jsonl or csv, or an array of steps, as npy, "
                f"not {input_format}"
            )
            raise OptionError(message)
        if input_format == "npy":
            self._feed_array(source)
        else:
            self._feed_lines(source, input_format)
        for item in self._stream.finish():
            self._write(item)
        return self._stream.steps

    def _feed_array(self, source: BinaryIO) -> None:
        """Feed an array `[steps, ...]`, or `[1, steps, ...]`, step by step."""
        steps = np.asarray(read_npy(source.read(), self._timed, self._label))
        if steps.ndim == len(self._timed[0].axes) and len(steps) == 1:
            steps = steps[0]
        if not steps.ndim:
            message = f"{self._label}: a single number; expected an array of steps"
            raise DataFileError(message)
        for number, step in enumerate(steps):
            self._feed({self._names[0]: step}, f"{self._label}, step {number}")
            if not number % _REPORTED:
                self._file.flush()
                self._progress(self._stream.steps, None)

    def _feed_lines(self, source: BinaryIO, input_format: str) -> None:
        if input_format == "csv" and len(self._names) > 1:
            message = f"{self._label}: a .csv file suits a model with one input; use .jsonl"
            raise DataFileError(message)
        for number, lines in line_blocks(source, self._label, "surrogateescape"):
            for at, line in enumerate(lines, start=number):
                if line.strip():
                    self._feed_line(line, at, input_format)
            self._file.flush()
            self._progress(self._stream.steps, None)

    def _feed_line(self, line: str, number: int, input_format: str) -> None:
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
        except JsonError as error:
            self._leave_out(f"{error}. For numbers with commas between, add --input-format csv")
            return
        except DataFileError as error:
            self._leave_out(str(error))
            return
        self._feed(step, where)

    def _feed(self, step: Mapping[str, Any], where: str) -> None:
        try:
            found = self._stream.feed({name: [value] for name, value in step.items()})
        except InputError as error:
            self._leave_out(f"{where}: {error}")
            return
        for item in found:
            self._write(item)

    def _leave_out(self, reason: str) -> None:
        """Note a step that was not taken, and write why in its place."""
        self.errors.append(reason)
        self._line({"error": reason})

    def _write(self, item: StreamOutput) -> None:
        """Write one line per step of a sequence output, or one per chunk of running answers."""
        rows = self._rows(self._flatten(item))
        running = {name: self._shown(name, v) for name, v, is_sequence in rows if not is_sequence}
        sequences = [(n, self._shown(n, v)) for n, v, is_sequence in rows if is_sequence]
        if not sequences:
            self._line({"step": self._stream.steps_done - 1, **running})
            return
        count = max(len(value) for _, value in sequences)
        for entry in range(count):
            line: dict[str, Any] = {"step": self._entries}
            self._entries += 1
            line.update({n: value[entry] for n, value in sequences if entry < len(value)})
            if entry == count - 1:
                line.update(running)
            self._line(line)

    def _shown(self, name: str, value: AnyArray) -> Any:
        """Return the answer in words, or the numbers; a list of one for each step of a sequence."""
        found = None if self._answerer is None else self._answerer.answer_of(name, value)
        return plain(value) if found is None else found

    def _rows(self, values: Sequence[Any]) -> list[tuple[str, Any, bool]]:
        arrays = [np.asarray(value) for value in values]
        return list(zip(self._outputs, arrays, self._is_sequence, strict=True))

    def _line(self, line: dict[str, Any]) -> None:
        self._file.write((json.dumps(line) + "\n").encode())
