"""Reads the value of an input that takes text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bilstm_runtime.errors import InputError, InputTypeError
from bilstm_runtime.preprocessing_spec import (
    TextPreprocessing,
    TokenizerFilePreprocessing,
    TokenizerPreprocessing,
)
from bilstm_runtime.text.checked import shown
from bilstm_runtime.text.tokenizer import KerasTokenizer
from bilstm_runtime.text.tokenizer_file import FileTokenizer
from bilstm_runtime.text.vectorization import TextEncoder
from bilstm_runtime.values import ValueRule, ragged_place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_runtime.decoding.tags import TokenSequence
    from bilstm_runtime.preprocessing_spec import TextEntry
    from bilstm_runtime.spec import AnyArray, InputSpec

_TEXT_KINDS: Final = "UST"


@dataclass(frozen=True)
class RawValue:
    """Integers from which ids are computed; an array without this class around it holds ids.

    Attributes:
        value: An array, or lists of integers or arrays.
    """

    value: Any


def make_encoder(
    preprocessing: TextEntry,
    read_file: Callable[[TokenizerFilePreprocessing], bytes] | None = None,
) -> TextEncoder | KerasTokenizer | FileTokenizer:
    """Return what computes the ids of one entry of `preprocessing`.

    Args:
        preprocessing: The entry.
        read_file: Reads the file of a tokenizer from the bundle; None if there is no bundle.
    """
    if isinstance(preprocessing, TokenizerPreprocessing):
        return KerasTokenizer(preprocessing)
    if isinstance(preprocessing, TokenizerFilePreprocessing):
        return FileTokenizer(preprocessing, read_file)
    return TextEncoder(preprocessing)


class TextReader:
    """Reads the value of one text input, if it is text.

    Attributes:
        fits: Whether the model takes every id that a text can get.
    """

    def __init__(
        self,
        preprocessing: TextEntry,
        spec: InputSpec,
        *,
        can_pad: bool,
        read_file: Callable[[TokenizerFilePreprocessing], bytes] | None = None,
    ) -> None:
        """Derive the expected form of the texts.

        Args:
            preprocessing: How strings become ids.
            spec: The input that takes the ids.
            can_pad: Whether sequences may be padded on the right.
            read_file: Reads a tokenizer's file from the bundle.
        """
        self._encoder = make_encoder(preprocessing, read_file)
        source = preprocessing.source if isinstance(preprocessing, TextPreprocessing) else None
        self._label = f"input {spec.name if source is None else source!r}"
        self._rank = len(spec.axes) - 1
        # No id of a manifest, and of a tokenizer's file, needs more than 32 bits.
        dtype = np.dtype(spec.dtype)
        self._dtype = dtype if dtype.kind == "i" and dtype.itemsize >= 4 else None
        largest = self._encoder.largest_id
        self.fits = largest is not None and (spec.range is None or largest <= spec.range[1])
        # An empty text becomes one id of padding, if padding changes no output.
        padding: int | None
        if isinstance(preprocessing, TextPreprocessing):
            padding, neutral = preprocessing.padding_id, spec.mask_value
        else:
            padding = preprocessing.fit.padding_id
            neutral = 0 if spec.mask_value is None else spec.mask_value
        self._empty_id = padding if can_pad and neutral == padding else None
        integers = getattr(preprocessing, "integers", None)
        self._integers = None if integers is None else _integer_rule(spec, integers)
        # The layer takes one string per example, in an axis of size 1.
        self._one_per_example = (
            isinstance(preprocessing, TextPreprocessing)
            and self._rank == 1
            and preprocessing.split is None
            and (preprocessing.kind == "text_vectorization" or spec.axes[1].size == 1)
        )

    def read(self, value: Any) -> list[AnyArray] | None:
        """Return the ids, one array per example; None if the value is not text.

        Raises:
            InputError: The texts are not valid for the model.
        """
        if isinstance(value, RawValue):
            return self._examples(self._decimals(value.value))
        if self._integers is not None or not holds_text(value):
            return None
        if isinstance(value, (str, bytes)):
            text = value if isinstance(value, str) else value.decode(errors="replace")
            message = (
                f"{self._label} is a single text; give a list of texts, such as [{text!r:.40}]"
            )
            raise InputTypeError(message)
        examples = value if isinstance(value, (list, tuple)) else np.asarray(value).tolist()
        return self._examples(examples)

    def _examples(self, examples: Sequence[Any]) -> list[AnyArray]:
        return [
            self._example(item, f"{self._label}, example {i}") for i, item in enumerate(examples)
        ]

    def single(self, text: Any) -> AnyArray | None:
        """Return the ids of one text with a batch axis, in the dtype of the model.

        Args:
            text: The only example.

        Returns:
            `[1, ...]`; None if the example is not a `str`, or the dtype may not hold every id.

        Raises:
            InputError: The text is not valid for the model.
        """
        if type(text) is not str or self._integers is not None:
            return None
        dtype = self._dtype
        if dtype is not None and self._rank == 1:
            quick = self._encoder.ids(text)
            if quick:
                return np.array([quick], dtype)
        ids = self._example(text, f"{self._label}, example 0")
        if dtype is not None and ids.dtype.kind == "i":
            return ids.astype(dtype, copy=False)[None]
        return ids[None]

    def tokens(self, value: Any) -> list[TokenSequence] | None:
        """Return the tokens of each example; None if the value is not text."""
        examples: Any
        if isinstance(value, RawValue):
            examples = self._decimals(value.value)
        elif self._integers is None and holds_text(value):
            examples = value if isinstance(value, (list, tuple)) else np.asarray(value).tolist()
        else:
            return None
        return [
            self._encoder.tokens(item, f"{self._label}, example {i}")
            for i, item in enumerate(examples)
        ]

    def _decimals(self, value: Any) -> list[Any]:
        """Return the decimal forms of the integers of each example, in nested lists.

        Raises:
            InputError: A value is no integer of the dtype that the model takes.
            InputTypeError: It has a type that is never converted.
        """
        if self._integers is None:
            return list(value)
        if isinstance(value, (list, tuple)):
            labels = [f"{self._label}, example {i}" for i in range(len(value))]
            arrays = [_integers(*one) for one in zip(value, labels, strict=True)]
        else:
            labels, arrays = [self._label], [_integers(value, self._label)]
        for array, label in zip(arrays, labels, strict=True):
            if not array.size:
                message = f"{label} is empty"
                raise InputError(message)
        converted = [
            self._integers.convert(array, label).astype(str).tolist()
            for array, label in zip(arrays, labels, strict=True)
        ]
        if isinstance(value, (list, tuple)):
            return converted
        if isinstance(converted[0], str):
            message = f"{self._label} is a single number; give a list of examples"
            raise InputTypeError(message)
        return list(converted[0])

    def _example(self, example: Any, label: str) -> AnyArray:
        if isinstance(example, np.ndarray):
            example = example.tolist()
        if self._one_per_example and isinstance(example, str):
            example = [example]
        ids = self._encoder.encode(example, label)
        if ids.ndim != self._rank:
            message = (
                f"{label} holds {'one string' if ids.ndim == 0 else f'strings in {ids.ndim} axes'};"
                f" the model takes {'one string' if self._rank == 0 else 'a list of strings'} per "
                "example. A list is read as a list of examples: put a single example in a list"
            )
            raise InputError(message)
        if ids.ndim and not len(ids):
            if self._empty_id is None:
                message = (
                    f"{label}: {shown(example)} has no tokens, and padding changes the outputs of "
                    "this model; give it a text of at least one token"
                )
                raise InputError(message)
            ids = np.full((1, *ids.shape[1:]), self._empty_id, dtype=np.int64)
        return ids


def _integer_rule(spec: InputSpec, dtype: str) -> ValueRule:
    return ValueRule(replace(spec, dtype=dtype, range=None, mask_value=None))


def _integers(value: Any, label: str) -> AnyArray:
    """Return a value as an array.

    Raises:
        InputTypeError: It cannot be one.
    """
    problem = ragged_place(value)
    if not problem and not isinstance(value, np.ma.MaskedArray):
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            return array
        problem = f"it has {array.dtype} values"
    message = f"{label} cannot be read as integers ({problem or 'it is a masked array'})"
    raise InputTypeError(message)


def are_texts(value: Any) -> bool:
    """Whether a value is a text, or a list or array of nothing but texts."""
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.ndim == 1 else ()
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(isinstance(one, (str, bytes)) for one in value)
    return isinstance(value, (str, bytes))


def holds_text(value: Any) -> bool:
    """Whether the first item in a value that is not empty is text."""
    return _first_item_is_text(value) is True


def _first_item_is_text(value: Any) -> bool | None:
    """Whether the first item in a value is text; None for an empty value."""
    if isinstance(value, (str, bytes)):
        return True
    if isinstance(value, (list, tuple)):
        found = (_first_item_is_text(item) for item in value)
        return next((is_text for is_text in found if is_text is not None), None)
    if value is None or isinstance(value, np.ma.MaskedArray):
        return None
    if isinstance(value, (bool, int, float, dict)):
        return False
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if array.dtype.kind == "O" and array.ndim:
        return _first_item_is_text(array.tolist())
    return array.dtype.kind in _TEXT_KINDS
