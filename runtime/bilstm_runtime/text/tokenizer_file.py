"""Converts texts to ids with a `tokenizer.json` of the library `tokenizers`."""

from __future__ import annotations

import json
import math
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bilstm_runtime.decoding.tags import Token, TokenSequence
from bilstm_runtime.errors import BundleError, InputError, MissingPackageError
from bilstm_runtime.preprocessing_spec import MAX_TEXT
from bilstm_runtime.text.checked import checked_text, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from bilstm_runtime.preprocessing_spec import Fit, TokenizerFilePreprocessing
    from bilstm_runtime.spec import AnyArray

_INTERRUPTS: Final = (KeyboardInterrupt, SystemExit)
"""All else that comes out of the library is its error: a panic in Rust, such as that of a regular
expression that takes too many steps, is not a subclass of `Exception`."""

_MAX_GROWTH: Final = 256
"""By how many times the normalizers of a file may make a text longer."""


class FileTokenizer:
    """Converts texts to ids, as an entry of the kind "tokenizer_file" describes.

    The file is read when the first text comes, so that ids need no library.
    """

    def __init__(
        self,
        preprocessing: TokenizerFilePreprocessing,
        read_file: Callable[[TokenizerFilePreprocessing], bytes] | None,
    ) -> None:
        """Keep what is needed to read the file.

        Args:
            preprocessing: The entry.
            read_file: Reads the file from the bundle; None if there is no bundle.
        """
        self._item = preprocessing
        self._read_file = read_file
        self._tokenizer: Any = None
        self._lock = threading.Lock()
        self.largest_id: int | None = None  # known when the file is read

    def ids(self, _text: str) -> list[int] | None:
        """Return None: `encode` finds them."""
        return None

    def encode(self, example: Any, label: str) -> AnyArray:
        """Return the ids of one text, `[tokens] int64`.

        Raises:
            InputError: The text is not Unicode, or the library fails on it.
            InputTypeError: The example is not text.
            MissingPackageError: The library is not installed.
            BundleError: The library cannot read the file.
        """
        return np.array(self._encoding(example, label).ids, dtype=np.int64)

    def tokens(self, example: Any, label: str) -> TokenSequence:
        """Return the words of one text, each with the step of its first subword.

        Raises:
            InputError: As for `encode`.
        """
        found = self._encoding(example, label)
        is_used = [
            bool(attended) and not special
            for attended, special in zip(
                found.attention_mask, found.special_tokens_mask, strict=True
            )
        ]
        words: list[list[int]] = []
        last: int | None = None
        for step, word in enumerate(found.word_ids):
            if not is_used[step]:
                continue
            if word is None or word != last:
                words.append([])
            words[-1].append(step)
            last = word
        text = str(example)
        tokens = []
        for steps in words:
            start = min(found.offsets[step][0] for step in steps)
            end = max(found.offsets[step][1] for step in steps)
            tokens.append(Token(text[start:end], start, end, steps[0]))
        return TokenSequence(text, tokens)

    def _encoding(self, example: Any, label: str) -> Any:
        if isinstance(example, (list, tuple)) and len(example) == 1:
            example = example[0]
        text, tokenizer = checked_text(example, label), self._loaded()
        try:
            return tokenizer.encode(text)
        except _INTERRUPTS:
            raise
        except BaseException as error:
            message = (
                f"{label}: {shown(text)} cannot be tokenized by {self._item.file}: {error!s:.200}"
            )
            raise InputError(message) from error

    def _loaded(self) -> Any:
        with self._lock:
            if self._tokenizer is None:
                content = b"" if self._read_file is None else self._read_file(self._item)
                self._tokenizer = open_tokenizer(content, self._item.file, self._item.fit)
        return self._tokenizer


def open_tokenizer(content: bytes, file: str, fit: Fit) -> Any:
    """Open a `tokenizer.json`, and let it fit ids to a length.

    Args:
        content: The bytes of the file.
        file: Its name in messages.
        fit: How ids get the length that the model takes.

    Raises:
        MissingPackageError: The library is not installed.
        BundleError: The library cannot read the file, or the file breaks a limit.
    """
    try:
        library = import_module("tokenizers")
    except ImportError as error:
        message = (
            f"texts for this model need the package tokenizers, which reads {file}; install it: "
            'pip install "bilstm-edge[text]"'
        )
        raise MissingPackageError(message) from error
    try:
        text = content.decode("utf-8")
        _check_limits(json.loads(text))
        tokenizer = library.Tokenizer.from_str(text)
    except _INTERRUPTS:
        raise
    except BaseException as error:
        message = f"{file} cannot be read by tokenizers {library.__version__}: {error!s:.200}"
        raise BundleError(message) from error
    sides = {"pre": "left", "post": "right"}
    if fit.length is None:  # the file may have a length of its own
        return tokenizer
    tokenizer.enable_truncation(fit.length, direction=sides[fit.truncating])
    pad_token = tokenizer.id_to_token(fit.padding_id) or "[PAD]"
    tokenizer.enable_padding(
        direction=sides[fit.padding],
        pad_id=fit.padding_id,
        pad_token=pad_token,
        length=fit.length,
    )
    return tokenizer


def _check_limits(root: Any) -> None:
    """Check what the library would allocate without a limit, which ends the process.

    Raises:
        ValueError: Texts are padded to too many tokens, or normalizers make them too long.
    """
    padding = root.get("padding") or {}
    strategy = padding.get("strategy")
    fixed = strategy.get("Fixed") if isinstance(strategy, dict) else 0
    length = max(fixed or 0, padding.get("pad_to_multiple_of") or 0)
    if length > MAX_TEXT:
        message = f"it pads texts to {length} tokens; at most {MAX_TEXT} are allowed"
        raise ValueError(message)
    growth = _growth(root.get("normalizer") or {})
    if growth > _MAX_GROWTH:
        message = f"its normalizers make a text {growth} times as long; {_MAX_GROWTH} are allowed"
        raise ValueError(message)


def _growth(normalizer: Any) -> int:
    """Return by how many times a normalizer can make a text longer, at most."""
    if normalizer.get("type") == "Sequence":
        return math.prod(map(_growth, normalizer["normalizers"]))
    if normalizer.get("type") != "Replace":
        return 1
    found, content = normalizer["pattern"].get("String"), normalizer["content"]
    if found:
        return max(1, -(-len(content) // len(found)))
    return len(content) + 1  # a regular expression can match between all characters
