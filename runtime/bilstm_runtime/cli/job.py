"""Predicts for the examples of a file, and writes the outputs; the work of run-bilstm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

from bilstm_runtime.errors import InputError
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.io.readers import label_keys, read_csv_row, read_json_line
from bilstm_runtime.io.sources import line_blocks
from bilstm_runtime.io.writers import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.cli.output import Progress
    from bilstm_runtime.inputs import Values
    from bilstm_runtime.io.writers import Writer
    from bilstm_runtime.model import Model


def answers_lines(model: Model, input_format: str, output_format: str) -> bool:
    """Whether each line is an example whose outputs can be written before the next is read."""
    is_free = model.spec.rows_independent and model.spec.batch.size is None
    reads = input_format == "jsonl" or (
        input_format == "csv" and [len(spec.axes) for spec in model.inputs] == [2]
    )
    writes = output_format == "jsonl" or (
        output_format == "csv" and [len(spec.axes) <= 2 for spec in model.outputs] == [True]
    )
    return is_free and not model.is_stateful and reads and writes


class PredictionJob:
    """Predicts, and writes the outputs to a file."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        model: Model,
        batch_size: int | None,
        label: str,
        write: Writer,
        file: BinaryIO,
        progress: Progress,
    ) -> None:
        self._model = model
        self._batch_size = batch_size
        self._label = label
        self._write = write
        self._file = file
        self._progress = progress
        self._names = [spec.name for spec in model.inputs]
        self._header: list[str] = []
        self._has_rows = False

    def answer(self, values: Values, first: int = 0) -> int:
        """Predict and write; returns the number of examples."""
        show = self._progress if first == 0 else None
        outputs = self._model.predict(values, batch_size=self._batch_size, progress=show)
        names = [spec.name for spec in self._model.outputs]
        table = Table.of(outputs, names, self._model.output_structure, first)
        self._write(table, self._file)
        rows = [
            len(c) for c, s in zip(table.columns, self._model.outputs, strict=True) if s.has_rows
        ]
        return rows[0] if rows else 0

    def answer_lines(self, source: BinaryIO, input_format: str) -> int:
        """Answer the lines of a file as they come; returns the number of examples."""
        count = 0
        for number, lines in line_blocks(source, self._label):
            examples = self._examples(number, lines, input_format)
            if not examples:
                continue
            self._has_rows = True
            try:
                self.answer(self._values([example for _, example in examples]), count)
            except InputError as error:
                raise self._located(error, examples) from error
            count += len(examples)
            self._file.flush()
            self._progress(count, None)
        return count or self.answer(self._values([]))  # no examples: an error

    def _examples(
        self, number: int, lines: Sequence[str], input_format: str
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return the examples of some lines, with the numbers of their lines."""
        examples: list[tuple[int, dict[str, Any]]] = []
        ignored = label_keys(self._model.inputs, self._model.outputs)
        for at, line in enumerate(lines, start=number):
            if not line.strip():
                continue
            if input_format == "jsonl":
                where = f"{self._label}, line {at}"
                examples.append((at, read_json_line(line, self._names, where, ignored)))
            else:
                row = read_csv_row(
                    line, self._header, self._label, at, is_first=not (self._has_rows or examples)
                )
                if row is not None:
                    examples.append((at, {self._names[0]: row}))
        return examples

    def _values(self, examples: Sequence[dict[str, Any]]) -> Values:
        return {name: [example[name] for example in examples] for name in self._names}

    def _located(self, error: InputError, examples: list[tuple[int, dict[str, Any]]]) -> InputError:
        """Return an error that names the line of the first wrong example."""
        reader = InputReader(self._model.spec)
        for number, example in examples:
            try:
                reader.read(self._values([example]))
            except InputError as found:
                return type(error)(f"{self._label}, line {number}: {found}")
        return type(error)(f"{self._label}, lines from {examples[0][0]}: {error}")
