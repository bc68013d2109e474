"""The tokenizers that a user gives for a model that takes ids: read, and fitted to the inputs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np

from bilstm_exporter.errors import MissingLibraryError, OptionError
from bilstm_runtime.cli.arguments import did_you_mean
from bilstm_runtime.errors import BilstmRuntimeError, DataFileError, MissingPackageError
from bilstm_runtime.io.sources import read_list
from bilstm_runtime.preprocessing_spec import (
    Fit,
    TextEntry,
    TokenizerFilePreprocessing,
    TokenizerPreprocessing,
)
from bilstm_runtime.spec import InputSpec, ModelSpec, integer_limits
from bilstm_runtime.text.tokenizer_file import open_tokenizer

# The default of Keras's Tokenizer.
FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
SEPARATOR = " "
# What the field calls the tokens without a text of their own.
_PADDING = frozenset({"", "[PAD]", "<pad>", "<PAD>", "PAD", "__PAD__"})
_UNKNOWN = frozenset(
    {"[UNK]", "<unk>", "<UNK>", "UNK", "[OOV]", "<oov>", "<OOV>", "OOV", "__UNK__"}
)
_OTHERS = frozenset(
    {"[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<S>", "</S>", "<START>", "<start>", "<END>",
     "<end>", "<UNUSED>", "<mask>", "[BOS]", "[EOS]", "<bos>", "<eos>", "<BOS>", "<EOS>"}
)  # fmt: skip
_PICKLES = frozenset({".pickle", ".pkl", ".p", ".joblib"})


@dataclass(frozen=True)
class TokenTable:
    """A tokenizer that is a table of tokens, such as the `Tokenizer` of Keras.

    Attributes:
        origin: Its name in messages.
        ids: The id of each token.
        level: "word" or "character".
        lower: Whether text is lower-cased first.
        filters: The characters that separate words, beside `separator`.
        separator: The string between words.
        unknown_id: The id of every other token; None if other tokens are left out.
        padding_id: The id of padding.
    """

    origin: str
    ids: Mapping[str, int]
    level: str
    lower: bool
    filters: str
    separator: str
    unknown_id: int | None
    padding_id: int


@dataclass(frozen=True)
class TokenizerFile:
    """A `tokenizer.json` of the library `tokenizers`.

    Attributes:
        origin: Its name in messages.
        content: Its bytes.
        settings: Its content.
    """

    origin: str
    content: bytes
    settings: Mapping[str, Any] = field(repr=False)


Tokenizer: TypeAlias = TokenTable | TokenizerFile


@dataclass(frozen=True)
class Length:
    """How the user wants ids to be fitted to a length.

    Attributes:
        tokens: The number of ids; None for that of the model, or as many as there are.
        padding: "pre" or "post"; None for the default of the tokenizer.
        truncating: "pre" or "post"; None for the default of the tokenizer.
    """

    tokens: int | None = None
    padding: str | None = None
    truncating: str | None = None


def read_tokenizers(given: Any) -> dict[str | None, Tokenizer]:
    """Read the tokenizers of one input, or of several.

    Args:
        given: A path; a list of paths, each with `INPUT=` before it; a Keras or `tokenizers`
            Tokenizer; a dict of ids by token, or of any of these by input.

    Returns:
        The tokenizers by the name of the input; None for the only input.

    Raises:
        OptionError: One is not a tokenizer.
    """
    if _is_named(given):
        given = [given]
    if isinstance(given, Mapping) and given and not (_is_table(given) or _is_document(given)):
        return {
            None if name is None else str(name): read_tokenizer(one, str(name))
            for name, one in given.items()
        }
    if isinstance(given, (list, tuple)) and given and all(map(_is_path, given)):
        if len(given) == 1 and not _is_named(given[0]):
            return {None: read_tokenizer(given[0], "tokenizer")}
        for one in given:
            if not _is_named(one):
                message = f"tokenizer: several are given; write INPUT=FILE in place of {one!r:.60}"
                raise OptionError(message)
        pairs = [str(one).partition("=")[::2] for one in given]
        return {name: read_tokenizer(path, name) for name, path in pairs}
    return {None: read_tokenizer(given, "tokenizer")}


def _is_document(value: Mapping[Any, Any]) -> bool:
    return "class_name" in value or _is_library_file(value)


def _is_path(given: Any) -> bool:
    """Whether an item of a list is the path of a file, not a token."""
    return isinstance(given, os.PathLike) or (
        isinstance(given, str) and (_is_named(given) or bool(Path(given).suffix) or "/" in given)
    )


def _is_named(given: Any) -> bool:
    return isinstance(given, str) and "=" in given and not Path(given).exists()


def _is_table(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(
        isinstance(number, (int, np.integer)) and not isinstance(number, bool)
        for number in value.values()
    )


def read_tokenizer(given: Any, name: str) -> Tokenizer:
    """Read one tokenizer.

    Args:
        given: A path, a Keras or `tokenizers` Tokenizer, or ids by token.
        name: Its name in messages, if it is not a file.

    Raises:
        OptionError: It is not a tokenizer.
    """
    if isinstance(given, (TokenTable, TokenizerFile)):
        return given
    if isinstance(given, (str, os.PathLike)):
        return _read_file(Path(given))
    given = getattr(given, "backend_tokenizer", given)
    if hasattr(given, "to_str"):
        text = given.to_str()
        return TokenizerFile(name, text.encode(), json.loads(text))
    if hasattr(given, "to_json"):
        return _parsed(json.loads(given.to_json()), name)
    return _parsed(given, name)


def _read_file(path: Path) -> Tokenizer:
    try:
        content = read_list(path)
    except DataFileError as error:
        message = f"tokenizer: {error}"
        raise OptionError(message) from error
    if content.startswith(b"\x80") or path.suffix.lower() in _PICKLES:
        message = (
            f"tokenizer: {path} is a pickle, which can run any code when it is read; write it as "
            f"JSON where you trust it, with: "
            f"import pickle; tokenizer = pickle.load(open({path.name!r}, 'rb')); "
            f"open('tokenizer.json', 'w').write(tokenizer.to_json())"
        )
        raise OptionError(message)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"tokenizer: {path} is not UTF-8 text ({error})"
        raise OptionError(message) from error
    if path.suffix.lower() != ".json" and not text.lstrip().startswith(("{", '"{')):
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if lines and not lines[-1]:
            lines.pop()
        return _table_of_lines(lines, str(path))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"tokenizer: {path} is not valid JSON ({error})"
        raise OptionError(message) from error
    if isinstance(value, Mapping) and _is_library_file(value):
        return TokenizerFile(str(path), content, value)
    return _parsed(value, str(path))


def _is_library_file(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("model"), Mapping) and "pre_tokenizer" in value


def _parsed(value: Any, origin: str) -> Tokenizer:
    """Return the tokenizer that a JSON document, or a Python object like one, describes."""
    if isinstance(value, str):  # json.dump(tokenizer.to_json(), file) encodes twice
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            _refuse(origin)
    if isinstance(value, (list, tuple)):
        return _table_of_lines(value, origin)
    if not isinstance(value, Mapping):
        _refuse(origin)
    if value.get("class_name") == "Tokenizer" and isinstance(value.get("config"), Mapping):
        return _keras_tokenizer(value["config"], origin)
    if _is_library_file(value):
        return TokenizerFile(origin, json.dumps(value).encode(), value)
    if value and all(isinstance(token, str) for token in value.values()):  # index_word
        try:
            value = {token: int(number) for number, token in value.items()}
        except ValueError:
            _refuse(origin)
    if not _is_table(value):
        _refuse(origin)
    return _plain_table({str(token): int(number) for token, number in value.items()}, origin)


def _refuse(origin: str) -> NoReturn:
    message = (
        f"tokenizer: {origin} is not a tokenizer; give a tokenizer.json, the to_json() of Keras's "
        f"Tokenizer, an object of ids by token, or a text file of one token per line"
    )
    raise OptionError(message)


def _keras_tokenizer(config: Mapping[str, Any], origin: str) -> TokenTable:
    """Read the configuration of Keras's Tokenizer; its counts of documents are not needed."""
    try:
        index = config["word_index"]
        found = json.loads(index) if isinstance(index, str) else dict(index)
        table = {str(token): int(number) for token, number in found.items()}
        is_character, limit = bool(config.get("char_level")), int(config.get("num_words") or 0)
        lower, oov = bool(config.get("lower", True)), config.get("oov_token")
        filters = config.get("filters", FILTERS)
        filters = "" if filters is None or is_character else "".join(filters)
        separator = str(config.get("split", SEPARATOR))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        message = f"tokenizer: {origin} is not what Tokenizer.to_json() writes ({error!r:.80})"
        raise OptionError(message) from error
    if not separator:
        message = f"tokenizer: {origin} has an empty 'split', which separates nothing"
        raise OptionError(message)
    unknown = table.get(oov) if oov is not None else None
    if oov is not None and unknown is None:
        message = f"tokenizer: the oov_token {oov!r} of {origin} has no id in its word_index"
        raise OptionError(message)
    # A word that num_words excludes is treated as an unknown one.
    kept = {token: number for token, number in table.items() if not limit or number < limit}
    level = "character" if is_character else "word"
    return TokenTable(origin, kept, level, lower, filters, separator, unknown, 0)


def _table_of_lines(tokens: Sequence[Any], origin: str) -> TokenTable:
    table: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if not isinstance(token, str):
            _refuse(origin)
        if token in table:
            message = f"tokenizer: {origin} has the token {token!r:.60} twice"
            raise OptionError(message)
        table[token] = number
    if any(token.startswith("##") and len(token) > 2 for token in table):
        message = (
            f"tokenizer: {origin} has parts of words, such as '##s', and no rule that splits words "
            f"into them; give the tokenizer.json of this model"
        )
        raise OptionError(message)
    return _plain_table(table, origin)


def _plain_table(table: Mapping[str, int], origin: str) -> TokenTable:
    """Choose the settings for a table that has none, from its tokens.

    Words are split as Keras's Tokenizer does by default. Upper case in a token means that text is
    not lower-cased, and punctuation in one that words are separated by whitespace alone.
    """
    special = _PADDING | _UNKNOWN | _OTHERS
    words = [token for token in table if token not in special]
    if not words:
        message = f"tokenizer: {origin} has no tokens"
        raise OptionError(message)
    is_character = all(len(word) == 1 for word in words)
    has_punctuation = any(set(word) & set(FILTERS) for word in words)
    unknown = [table[token] for token in table if token in _UNKNOWN]
    padding = [table[token] for token in table if token in _PADDING]
    return TokenTable(
        origin,
        table,
        "character" if is_character else "word",
        all(word == word.lower() for word in words),
        "" if is_character else "\t\n\r" if has_punctuation else FILTERS,
        SEPARATOR,
        unknown[0] if unknown else None,
        padding[0] if padding else 0,
    )


def preprocessing_of(
    tokenizers: Mapping[str | None, Tokenizer], length: Length, spec: ModelSpec
) -> tuple[tuple[TextEntry, ...], dict[str, bytes]]:
    """Describe how text becomes the ids of the inputs.

    Args:
        tokenizers: The tokenizers by the name of the input.
        length: The length of the ids.
        spec: The model.

    Returns:
        The entries of the manifest, and the files that they name.

    Raises:
        OptionError: A tokenizer does not fit its input.
        MissingLibraryError: The library that reads a `tokenizer.json` is not installed.
    """
    inputs = {one.name: one for one in spec.inputs}
    chosen = {_input_of(name, inputs, tokenizers): one for name, one in tokenizers.items()}
    found: list[TextEntry] = []
    files: dict[str, bytes] = {}
    for name, tokenizer in chosen.items():
        fit = _fit(inputs[name], tokenizer, length)
        if isinstance(tokenizer, TokenizerFile):
            entry, content = _file_entry(inputs[name], tokenizer, fit, len(files))
            files[entry.file] = content
            found.append(entry)
        else:
            others = [one for other, one in chosen.items() if other != name]
            found.append(_table_entry(inputs[name], tokenizer, fit, others))
    return tuple(found), files


def _input_of(
    name: str | None, inputs: Mapping[str, InputSpec], tokenizers: Mapping[str | None, Tokenizer]
) -> str:
    takes_ids = [key for key, one in inputs.items() if _takes_ids(one)]
    if name is not None:
        if name not in inputs:
            shown = ", ".join(map(repr, inputs))
            near = did_you_mean(name, inputs)
            message = f"tokenizer: the model has no input {name!r}{near or f'; it has {shown}'}"
            raise OptionError(message)
        return name
    if len(takes_ids) != 1 or len(tokenizers) > 1:
        shown = ", ".join(map(repr, takes_ids))
        message = (
            f"tokenizer: the inputs that take ids are {shown}; name the one of this tokenizer: "
            f"--tokenizer INPUT=FILE"
            if takes_ids
            else "tokenizer: no input of the model takes ids, one number for each token"
        )
        raise OptionError(message)
    return takes_ids[0]


def _takes_ids(one: InputSpec) -> bool:
    is_integer = np.dtype(one.dtype).kind in "iu"
    return len(one.axes) in (2, 3) and (is_integer or one.range is not None)


def _fit(one: InputSpec, tokenizer: Tokenizer, length: Length) -> Fit:
    size = one.axes[1].size if len(one.axes) > 1 else None
    if length.tokens is not None and size is not None and length.tokens != size:
        message = (
            f"max_tokens: {length.tokens}; the input {one.name!r} takes exactly {size} tokens, "
            f"which is the default"
        )
        raise OptionError(message)
    if isinstance(tokenizer, TokenTable):
        default = Fit(padding_id=tokenizer.padding_id)
    else:
        default = Fit(
            padding=_side(tokenizer, "padding"),
            truncating=_side(tokenizer, "truncation"),
            padding_id=_file_padding(tokenizer),
        )
    return replace(
        default,
        length=length.tokens if size is None else size,
        padding=length.padding or default.padding,
        truncating=length.truncating or default.truncating,
    )


def _side(tokenizer: TokenizerFile, setting: str) -> str:
    """Return the side of padding or truncation in a `tokenizer.json`; its default is the right."""
    found = tokenizer.settings.get(setting)
    is_left = isinstance(found, Mapping) and str(found.get("direction")).lower() == "left"
    return "pre" if is_left else "post"


def _table_entry(
    one: InputSpec, table: TokenTable, fit: Fit, others: Iterable[Tokenizer]
) -> TokenizerPreprocessing:
    level, filters, separator, characters = table.level, table.filters, table.separator, None
    if len(one.axes) == 3:
        words = [item for item in others if isinstance(item, TokenTable) and item.level == "word"]
        if table.level != "character" or len(words) != 1:
            message = (
                f"tokenizer: the input {one.name!r} takes the characters of each word; give it a "
                f"table of characters, and another input a table of words, which says how text is "
                f"split into words"
            )
            raise OptionError(message)
        level, characters = "word_characters", one.axes[2].size
        filters, separator = words[0].filters, words[0].separator
    tokens = sorted(table.ids, key=lambda token: table.ids[token])
    ids = [table.ids[token] for token in tokens]
    first = ids[0] if ids else 1
    is_range = ids == list(range(first, first + len(ids)))
    entry = TokenizerPreprocessing(
        input=one.name,
        level=level,
        lower=table.lower,
        filters=filters,
        separator=separator,
        vocabulary=tuple(tokens),
        first_id=max(first, 0),
        ids=() if is_range else tuple(ids),
        unknown_id=table.unknown_id,
        characters=characters,
        fit=fit,
    )
    if ids and ids[0] < 0:
        message = f"tokenizer: {table.origin} has the id {ids[0]}; ids are whole numbers from 0"
        raise OptionError(message)
    _check_ids(one, table.origin, entry.largest_id, "num_words")
    return entry


def _check_ids(one: InputSpec, origin: str, largest: int, remedy: str) -> None:
    limit = integer_limits(one.dtype)[1] if one.range is None else one.range[1]
    if largest <= limit:
        return
    message = (
        f"tokenizer: {origin} has ids up to {largest}, and the input {one.name!r} takes ids up to "
        f"{limit:g}: it belongs to another model"
    )
    if remedy:
        message += f", or lacks the {remedy}={limit + 1:g} that it was used with"
    raise OptionError(message)


def _file_padding(tokenizer: TokenizerFile) -> int:
    padding = tokenizer.settings.get("padding")
    if isinstance(padding, Mapping) and isinstance(padding.get("pad_id"), int):
        return int(padding["pad_id"])
    ids = _file_ids(tokenizer)
    return next((ids[token] for token in ids if token in _PADDING), 0)


def _file_ids(tokenizer: TokenizerFile) -> dict[str, int]:
    """Return the ids of the tokens of a `tokenizer.json`.

    Raises:
        OptionError: It has none that can be read.
    """
    model = tokenizer.settings["model"]
    vocabulary = model.get("vocab", {})
    try:
        if isinstance(vocabulary, Mapping):
            ids = {str(token): int(number) for token, number in vocabulary.items()}
        else:  # a Unigram model lists tokens with their scores
            ids = {str(entry[0]): number for number, entry in enumerate(vocabulary)}
        for added in tokenizer.settings.get("added_tokens") or ():
            ids[str(added["content"])] = int(added["id"])
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        message = f"tokenizer: {tokenizer.origin} has no vocabulary that can be read ({error!r})"
        raise OptionError(message) from error
    return ids


def _file_entry(
    one: InputSpec, tokenizer: TokenizerFile, fit: Fit, number: int
) -> tuple[TokenizerFilePreprocessing, bytes]:
    if len(one.axes) != 2:
        message = (
            f"tokenizer: the input {one.name!r} has {len(one.axes)} axes; the ids of a "
            f"tokenizer.json have two, [batch, time]"
        )
        raise OptionError(message)
    ids = _file_ids(tokenizer).values()
    _check_ids(one, tokenizer.origin, max((*ids, fit.padding_id)), "")
    lowest = min((*ids, fit.padding_id))
    if lowest < 0:
        message = f"tokenizer: {tokenizer.origin} has the id {lowest}; ids are whole numbers from 0"
        raise OptionError(message)
    file = f"tokenizer{number or ''}.json"
    try:
        open_tokenizer(tokenizer.content, tokenizer.origin, fit)
    except MissingPackageError as error:
        raise MissingLibraryError(str(error)) from error
    except BilstmRuntimeError as error:
        message = f"tokenizer: {error}"
        raise OptionError(message) from error
    digest = hashlib.sha256(tokenizer.content).hexdigest()
    entry = TokenizerFilePreprocessing(
        input=one.name, file=file, bytes=len(tokenizer.content), sha256=digest, fit=fit
    )
    return entry, tokenizer.content
