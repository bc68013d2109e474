"""Predicts for the examples of a file, and writes the outputs; the work of run-bilstm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from bilstm_runtime.errors import DataFileError, InputError
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.io.readers import (
    READERS,
    TEXT_LINES,
    label_keys,
    read_csv_row,
    read_json_line,
    read_text_lines,
)
from bilstm_runtime.io.sources import line_blocks, read_all
from bilstm_runtime.io.writers import Table
from bilstm_runtime.windows import sliding_windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.cli.answers import Answerer
    from bilstm_runtime.cli.output import Progress
    from bilstm_runtime.inputs import Values
    from bilstm_runtime.io.writers import Writer
    from bilstm_runtime.model import Model


def answers_lines(
    model: Model, input_format: str, output_format: str, answerer: Answerer | None = None
) -> bool:
    """Whether each line is an example whose outputs can be written before the next is read."""
    is_free = model.spec.rows_independent and model.spec.batch.size is None
    reads = input_format in ("jsonl", TEXT_LINES) or (
        input_format == "csv" and [len(spec.axes) for spec in model.inputs] == [2]
    )
    writes = (
        output_format == "jsonl"
        or answerer is not None
        or (output_format == "csv" and [len(spec.axes) <= 2 for spec in model.outputs] == [True])
    )
    return is_free and not model.is_stateful and reads and writes


class PredictionJob:
    """Predicts, and writes the outputs to a file.

    Attributes:
        errors: The messages of the examples that were answered with an error.
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        model: Model,
        batch_size: int | None,
        label: str,
        write: Writer,
        file: BinaryIO,
        progress: Progress,
        answerer: Answerer | None = None,
    ) -> None:
        """Predict with a model.

        Args:
            model: The model.
            batch_size: As for `Model.predict`.
            label: The file's name in messages.
            write: Writes numbers.
            file: Where to write.
            progress: Shows the number of examples.
            answerer: Writes answers in words, in place of numbers.
        """
        self._model = model
        self._batch_size = batch_size
        self._label = label
        self._write = write
        self._file = file
        self._progress = progress
        self._names = [spec.name for spec in model.inputs]
        self._header: list[str] = []
        self._has_rows = False
        self._answerer = answerer
        self._texts = [item.input for item in model.spec.preprocessing]
        self.errors: list[str] = []

    def answer(self, values: Values, first: int = 0) -> int:
        """Predict and write; returns the number of examples."""
        if self._answerer is not None:
            lines = self._answerer.lines(values, self._batch_size)
            self._file.write("".join(lines).encode())
            return len(lines)
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
        if input_format == TEXT_LINES:
            self._check_text()
        goes_on = input_format == TEXT_LINES or self._answerer is not None
        # A line that is not UTF-8 is an error of its own, which its surrogates cause.
        errors = "surrogateescape" if goes_on else "strict"
        for number, lines in line_blocks(source, self._label, errors):
            if goes_on:
                found = self._answer_each(number, lines, input_format, count)
                self._has_rows = self._has_rows or found > 0
                count += found
                self._file.flush()
                self._progress(count, None)
                continue
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

    def answer_all(self, source: BinaryIO, input_format: str) -> int:
        """Answer all examples of a file together; returns their number."""
        inputs = self._model.inputs
        content = read_all(source, self._label)
        if input_format == TEXT_LINES:
            self._check_text()
            return self.answer(read_text_lines(content, inputs, self._label))
        ignored = label_keys(inputs, self._model.outputs)
        return self.answer(READERS[input_format](content, inputs, self._label, ignored))

    def answer_windows(
        self, source: BinaryIO, input_format: str, window: int | None, hop: int | None
    ) -> int:
        """Answer each window of one recording; returns the number of windows."""
        spec = self._model.spec
        if input_format == TEXT_LINES:
            message = f"{self._label}: windows are cut from numbers, not from text"
            raise DataFileError(message)
        content = read_all(source, self._label)
        values = READERS[input_format](content, self._model.inputs, self._label)
        recording = np.asarray(next(iter(values.values())) if isinstance(values, dict) else values)
        rank = len(spec.inputs[0].axes)
        if recording.ndim == rank and len(recording) == 1:
            recording = recording[0]
        elif rank == 2 and recording.ndim == 2 and recording.shape[1] == 1:
            recording = recording[:, 0]
        windows, starts = sliding_windows(recording, spec, window, hop)
        if self._answerer is None:
            return self.answer(windows)
        for line, start in zip(
            self._answerer.lines(windows, self._batch_size), starts, strict=True
        ):
            place = {"start": start, "end": start + windows.shape[1]}
            self._file.write((json.dumps({**place, **json.loads(line)}) + "\n").encode())
        return len(starts)

    def answer_texts(self, texts: Sequence[str]) -> int:
        """Answer texts of the command line; returns their number."""
        self._check_text()
        for number, text in enumerate(texts):
            try:
                self.answer(self._values([dict.fromkeys(self._names, text)]), number)
            except InputError as error:
                if len(texts) == 1:
                    raise
                self._write_error(str(error))
        return len(texts)

    def _check_text(self) -> None:
        """Raise `DataFileError` if an input does not take text."""
        numbers = [name for name in self._names if name not in self._texts]
        if numbers:
            message = (
                f"{self._label}: the input {numbers[0]!r} takes numbers, not text; export the "
                "model with its text layers or with --tokenizer FILE, or give --input FILE"
            )
            raise DataFileError(message)

    def _answer_each(self, number: int, lines: Sequence[str], input_format: str, first: int) -> int:
        """Answer each line, a wrong one with an error; returns the number of examples."""
        examples: list[tuple[int, dict[str, Any] | str]] = []
        for at, line in enumerate(lines, start=number):
            try:
                examples += self._examples(at, [line], input_format)
            except DataFileError as error:
                examples.append((at, str(error)))
        valid = [example for _, example in examples if isinstance(example, dict)]
        try:
            if len(valid) == len(examples) and valid:
                self.answer(self._values(valid), first)
                return len(valid)
        except InputError:
            pass
        for count, (at, example) in enumerate(examples, start=first):
            if isinstance(example, str):
                self._write_error(example)
                continue
            try:
                self.answer(self._values([example]), count)
            except InputError as error:
                self._write_error(f"{self._label}, line {at}: {error}")
        return len(examples)

    def _write_error(self, message: str) -> None:
        self.errors.append(message)
        self._file.write((json.dumps({"error": message}) + "\n").encode())

    def _examples(
        self, number: int, lines: Sequence[str], input_format: str
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return the examples of some lines, with the numbers of their lines."""
        examples: list[tuple[int, dict[str, Any]]] = []
        ignored = label_keys(self._model.inputs, self._model.outputs)
        for at, line in enumerate(lines, start=number):
            if not line.strip():
                continue
            if input_format == TEXT_LINES:
                examples.append((at, dict.fromkeys(self._names, line)))
            elif input_format == "jsonl":
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
