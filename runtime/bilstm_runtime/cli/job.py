"""Predicts for the examples of a file, and writes the outputs; the work of run-bilstm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from bilstm_runtime.errors import DataFileError, DataFileProblem, InputError, OptionError
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.io.readers import (
    READERS,
    TEXT_LINES,
    JsonError,
    label_keys,
    read_csv_row,
    read_json_line,
    read_text_lines,
)
from bilstm_runtime.io.sources import line_blocks, read_all
from bilstm_runtime.io.writers import Table
from bilstm_runtime.windows import sliding_windows

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bilstm_runtime.cli.answers import Answerer
    from bilstm_runtime.cli.output import Progress
    from bilstm_runtime.inputs import Values
    from bilstm_runtime.io.writers import Writer
    from bilstm_runtime.model import Model


_Example: TypeAlias = "tuple[int, dict[str, Any]]"
"""An example, with the number of its line."""


def answers_lines(
    model: Model, input_format: str, output_format: str, answerer: Answerer | None = None
) -> bool:
    """Whether each line is an example whose outputs can be written before the next is read."""
    is_free = model.spec.rows_independent and model.spec.batch.size is None
    reads = input_format in ("jsonl", TEXT_LINES) or (
        input_format == "csv" and [len(spec.axes) for spec in model.spec.raw_inputs] == [2]
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
        windows: tuple[int, int] | None = None,
        *,
        are_recordings: bool = False,
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
            windows: The steps of a window, and from one to the next; None if no windows are cut.
            are_recordings: Whether every example is a recording, of which windows are cut. If not,
                those are that have more steps than a window.
        """
        self._model = model
        self._batch_size = batch_size
        self._label = label
        self._write = write
        self._file = file
        self._progress = progress
        self._inputs = model.spec.raw_inputs
        self._names = [spec.name for spec in self._inputs]
        self._header: list[str] = []
        self._has_rows = False
        self._answerer = answerer
        self._windows = windows
        self._are_recordings = are_recordings
        self._texts = model.spec.text_names
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
            self._check_no_windows()
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
            for part in self._parts(examples):
                try:
                    count += self._answer_examples(part, count)
                except InputError as error:
                    raise self._located(error, part) from error
            self._file.flush()
            self._progress(count, None)
        return count or self._answer_file(self._values([]))  # no examples: an error

    def answer_all(self, source: BinaryIO, input_format: str) -> int:
        """Answer all examples of a file together; returns their number.

        Raises:
            InputError: They are not what the model takes; the message begins with the file's name.
        """
        inputs = self._inputs
        content = read_all(source, self._label)
        if input_format == TEXT_LINES:
            self._check_text()
            self._check_no_windows()
            return self._answer_file(read_text_lines(content, inputs, self._label))
        ignored = label_keys(inputs, self._model.outputs)
        return self._answer_file(READERS[input_format](content, inputs, self._label, ignored))

    def _answer_file(self, values: Values) -> int:
        """Answer what a file holds; an `InputError` begins with the name of the file."""
        try:
            return self.answer(values)
        except InputError as error:
            raise self._in_file(error) from error

    def answer_recording(self, source: BinaryIO, input_format: str) -> int:
        """Answer each window of one recording, or examples if not all are recordings.

        Args:
            source: The file.
            input_format: Its format.

        Returns:
            The number of answers.

        Raises:
            DataFileError: The file does not hold one recording.
            InputError: It is not what the model takes; the message begins with the file's name.
        """
        inputs = self._inputs
        ignored = label_keys(inputs, self._model.outputs)
        values = READERS[input_format](read_all(source, self._label), inputs, self._label, ignored)
        column = next(iter(values.values())) if isinstance(values, dict) else values
        rank = len(inputs[0].axes)
        recording = _one_recording(column, rank)
        has_batch = not isinstance(column, np.ndarray) or column.ndim >= rank
        if not self._are_recordings and has_batch and not self._is_recording(recording):
            return self._answer_file(values)
        if recording is None:
            message = f"{self._label}: windows are cut from one recording; found {len(column)} rows"
            raise DataFileError(message)
        try:
            return self._answer_windows(recording)
        except InputError as error:
            raise self._in_file(error) from error

    def _is_recording(self, example: Any) -> bool:
        """Whether an example has more steps than a window."""
        if self._windows is None or not isinstance(example, (list, np.ndarray)):
            return False
        return self._are_recordings or len(example) > self._windows[0]

    def _answer_windows(self, recording: Any) -> int:
        """Answer each window of a recording; returns their number."""
        windows, starts = sliding_windows(
            recording, self._model.spec, *(self._windows or (None, None))
        )
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
        self._check_no_windows()
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

    def _check_no_windows(self) -> None:
        """Raise `DataFileError` if windows are asked for."""
        if self._are_recordings:
            message = f"{self._label}: windows are cut from numbers, not from text"
            raise DataFileError(message)

    def _answer_each(self, number: int, lines: Sequence[str], input_format: str, first: int) -> int:
        """Answer each line, a wrong one with an error; returns the number of examples."""
        examples: list[tuple[int, dict[str, Any] | str]] = []
        for at, line in enumerate(lines, start=number):
            try:
                examples += self._examples(at, [line], input_format)
            except DataFileError as error:
                examples.append((at, str(error)))
        valid = [(at, example) for at, example in examples if isinstance(example, dict)]
        try:
            if len(valid) == len(examples) and len(self._parts(valid)) == 1:
                return self._answer_examples(valid, first)
        except InputError:
            pass
        count = 0
        for at, example in examples:
            if isinstance(example, str):
                self._write_error(example)
                count += 1
                continue
            try:
                count += self._answer_examples([(at, example)], first + count)
            except InputError as error:
                self._write_error(f"{self._label}, line {at}: {error}")
                count += 1
        return count

    def _parts(self, examples: list[_Example]) -> list[list[_Example]]:
        """Split the examples of some lines into those that run together: recordings run alone."""
        name = self._names[0]
        if any(self._is_recording(example[name]) for _, example in examples):
            return [[example] for example in examples]
        return [examples] if examples else []

    def _answer_examples(self, examples: list[_Example], first: int) -> int:
        """Answer examples that run together, or the windows of one; returns how many."""
        value = examples[0][1][self._names[0]]
        if len(examples) == 1 and self._is_recording(value):
            return self._answer_windows(value)
        self.answer(self._values([example for _, example in examples]), first)
        return len(examples)

    def _write_error(self, message: str) -> None:
        self.errors.append(message)
        self._file.write((json.dumps({"error": message}) + "\n").encode())

    def _examples(self, number: int, lines: Sequence[str], input_format: str) -> list[_Example]:
        """Return the examples of some lines, with the numbers of their lines."""
        examples: list[_Example] = []
        ignored = label_keys(self._inputs, self._model.outputs)
        for at, line in enumerate(lines, start=number):
            if input_format == TEXT_LINES:  # an empty line is a text: each line has an answer
                examples.append((at, dict.fromkeys(self._names, line)))
            elif not line.strip():
                continue
            elif input_format == "jsonl":
                examples.append((at, self._json_example(line, at, ignored)))
            else:
                row = self._csv_row(line, at, is_first=not (self._has_rows or examples))
                if row is not None:
                    examples.append((at, {self._names[0]: row}))
        return examples

    def _csv_row(self, line: str, at: int, *, is_first: bool) -> list[float] | None:
        try:
            return read_csv_row(line, self._header, self._label, at, is_first=is_first)
        except DataFileError as error:
            if error.code is not DataFileProblem.NOT_A_NUMBER or len(self._texts) < len(
                self._names
            ):
                raise
            message = (
                f"{self._label}: a .csv file holds numbers; write texts to a .txt file, one a "
                f'line, or to a .jsonl file, as "text" or {{"{self._names[0]}": "text"}}'
            )
            raise OptionError(message) from error

    def _json_example(self, line: str, at: int, ignored: Collection[str]) -> dict[str, Any]:
        try:
            return read_json_line(line, self._names, f"{self._label}, line {at}", ignored)
        except JsonError as error:
            if len(self._texts) < len(self._names):
                raise
            message = f"{error}. If each line is a text as it is, add --input-format {TEXT_LINES}"
            raise DataFileError(message) from error

    def _values(self, examples: Sequence[dict[str, Any]]) -> Values:
        return {name: [example[name] for example in examples] for name in self._names}

    def _in_file(self, error: InputError) -> InputError:
        """Return an error that names the file."""
        return type(error)(f"{self._label}: {error}")

    def _located(self, error: InputError, examples: list[_Example]) -> InputError:
        """Return an error that names the line of the first wrong example."""
        reader = InputReader(self._model.spec)
        for number, example in examples if len(examples) > 1 else []:
            try:
                reader.read(self._values([example]))
            except InputError as found:
                return type(error)(f"{self._label}, line {number}: {found}")
        where = "line" if len(examples) == 1 else "lines from"
        return type(error)(f"{self._label}, {where} {examples[0][0]}: {error}")


def _one_recording(column: Any, rank: int) -> Any:
    """Find the one recording in the values of an input of this rank; None if they are several."""
    is_array = isinstance(column, np.ndarray)
    if is_array and column.ndim < rank:
        return column
    if len(column) == 1:
        return column[0]
    if (
        rank == 2 and len(column) and all(np.shape(row) == (1,) for row in column)
    ):  # one step in each row
        return column[:, 0] if is_array else [row[0] for row in column]
    return None
