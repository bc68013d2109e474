"""The answers of run-bilstm in words: labels, tags and spans, as JSON lines or as plain text."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bilstm_runtime.cli.text_tables import printable
from bilstm_runtime.decoding.labels import labels_of
from bilstm_runtime.decoding.results import Label, Span, Tag, Transcription
from bilstm_runtime.decoding.tags import tags_of
from bilstm_runtime.decoding_spec import CtcDecoding, LabelDecoding, TagDecoding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.decoding.options import DecodingOptions
    from bilstm_runtime.inputs import Values
    from bilstm_runtime.model import Model
    from bilstm_runtime.values import AnyArray

_DIGITS: Final = 6
"""Digits of a score after the point: about those that float32 computes."""

_SEPARATORS: Final = {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}


class Answerer:
    """Predicts the labels and tags of examples, and writes each as one line."""

    def __init__(self, model: Model, options: DecodingOptions, *, as_text: bool) -> None:
        """Answer with the labels of a model.

        Args:
            model: The model.
            options: Which answers.
            as_text: Write plain text for people, not JSON.
        """
        self._model = model
        self._options = options
        self._as_text = as_text
        self._words = options.scorer if isinstance(options.scorer, tuple) else None

    def lines(self, values: Values, batch_size: int | None) -> list[str]:
        """Return the answer of each example, with the end of its last line."""
        found = self._model.decode(
            values,
            top_k=self._options.top_k,
            threshold=self._options.threshold,
            spans=self._options.spans,
            beam_width=self._options.beam_width,
            words=self._words,
            batch_size=batch_size,
        )
        rows = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
        return [self._plain(row) if self._as_text else self._json(row) for row in rows]

    @property
    def only_at_the_end(self) -> list[str]:
        """The outputs whose answers a stream cannot give."""
        return [
            one.output
            for one in self._model.spec.decoding
            if isinstance(one, CtcDecoding)
            or (isinstance(one, TagDecoding) and one.crf is not None)
        ]

    def answer_of(self, output: str, values: AnyArray) -> Any:
        """Return the answer in one output of a stream.

        Args:
            output: The name of the output.
            values: `[classes]`, or `[steps, classes]` for tags.

        Returns:
            A dict, or one for each step; None if the output has no answer for a part of a
            sequence: it is the path of a CRF, characters, or has no names.
        """
        decoding = next((one for one in self._model.spec.decoding if one.output == output), None)
        if isinstance(decoding, LabelDecoding):
            (found,) = labels_of(values[np.newaxis], decoding, self._options)
            return self._object(output, found)
        if isinstance(decoding, TagDecoding) and decoding.crf is None:
            (tags,) = tags_of([values], None, self._options.applied(decoding))
            return [{"tag": one.tag, "score": _rounded(one.score)} for one in tags]
        return None

    def _json(self, row: dict[str, Any]) -> str:
        answers = {output: self._object(output, answer) for output, answer in row.items()}
        is_single = len(answers) == 1
        return json.dumps(next(iter(answers.values())) if is_single else answers) + "\n"

    def _object(self, output: str, answer: Sequence[Any]) -> dict[str, Any]:
        decoding = next(item for item in self._model.spec.decoding if item.output == output)
        if decoding.kind == "labels":
            items = [_members(item, ("start", "end")) for item in answer]
            is_single = getattr(decoding, "exclusive", True) and self._options.top_k is None
            return items[0] if is_single else {"labels": items}
        if decoding.kind == "ctc":
            texts = [
                {"text": item.text, "score": round(item.score, _DIGITS)}
                for item in answer
                if isinstance(item, Transcription)
            ]
            if self._options.top_k is not None:
                return {"texts": texts}
            return texts[0] if texts else {"text": None}
        name = "spans" if self._options.spans else "tags"
        return {name: [_members(item, ("token", "text")) for item in answer]}

    def _plain(self, row: dict[str, Any]) -> str:
        lines = []
        for output, answer in row.items():
            if len(row) > 1:
                lines.append(f"{_plain_name(output)}:")
            lines += [_shown(item) for item in answer] or ["(none)"]
        return "\n".join(lines) + "\n"


def _members(item: Any, optional: Sequence[str]) -> dict[str, Any]:
    """Return the members of an answer; those that may be absent are left out if they are None."""
    members = asdict(item)
    members["score"] = _rounded(members["score"])
    return {
        key: value
        for key, value in members.items()
        if value is not None or key not in (*optional, "score")
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, _DIGITS)


def _shown(item: Label | Tag | Span | Transcription) -> str:
    if isinstance(item, Transcription):
        return _plain_name(item.text)
    if isinstance(item, Label):
        label = _plain_name(item.label)
        return label if item.score is None else f"{label}\t{item.score:.3f}"
    if isinstance(item, Tag):
        name, value = item.token, item.tag
    else:
        name, value = item.text, item.label
    place = f"{item.start}-{item.end}" if name is None else _plain_name(name)
    return f"{place}\t{_plain_name(value)}"


def _plain_name(name: str) -> str:
    """Return a name that takes one cell of one line."""
    return printable(name.translate(_SEPARATORS))
