"""Reading and writing the entries of `preprocessing` in manifest.json."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bilstm_runtime.spec import KINDS, MAX_AXIS, SPLITS, STANDARDIZATIONS, TextPreprocessing

if TYPE_CHECKING:
    from bilstm_runtime.bundle.json_fields import Field


def preprocessing_from(item: Field) -> TextPreprocessing:
    """Read one entry of `preprocessing`; raises `ManifestError`."""
    standardize, split = item.optional("standardize"), item.optional("split")
    found = TextPreprocessing(
        input=item.get("input").text(),
        kind=item.get("kind").text(among=KINDS),
        standardize=None if standardize is None else standardize.text(among=STANDARDIZATIONS),
        split=None if split is None else split.text(among=SPLITS),
        output_sequence_length=_whole(item.optional("output_sequence_length"), low=1),
        vocabulary=_vocabulary(item.get("vocabulary")),
        first_id=item.get("first_id").integer(low=0, high=MAX_AXIS),
        mask_token=_token(item.optional("mask_token")),
        padding_id=_whole(item.optional("padding_id"), low=0),
        unknown_id=_whole(item.optional("unknown_id"), low=0),
    )
    padded = found.mask_token is not None or found.output_sequence_length is not None
    if padded and found.padding_id is None:
        item.refuse("a 'padding_id' beside 'mask_token' or 'output_sequence_length'")
    return found


def preprocessing_json(preprocessing: TextPreprocessing) -> dict[str, object]:
    """Write one entry of `preprocessing`."""
    return {**dataclasses.asdict(preprocessing), "vocabulary": list(preprocessing.vocabulary)}


def _whole(item: Field | None, *, low: int) -> int | None:
    return None if item is None else item.integer(low=low, high=MAX_AXIS)


def _token(item: Field | None) -> str | None:
    """A token, which may be empty."""
    if item is None:
        return None
    if not isinstance(item.value, str) or not _is_unicode(item.value):
        item.refuse("a string of whole Unicode characters")
    return item.value


def _vocabulary(item: Field) -> tuple[str, ...]:
    words = item.value
    if not isinstance(words, list) or not words or len(words) > MAX_AXIS:
        item.refuse("a list of one or more tokens")
    if not all(isinstance(word, str) for word in words) or not _is_unicode("".join(words)):
        for word in item.items():  # only to say which
            _token(word)
    if len(set(words)) < len(words):
        item.refuse("a list that has no token twice")
    return tuple(words)


def _is_unicode(text: str) -> bool:
    """Whether this is text that UTF-8 can write: JSON can name half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
