"""Dtype policies by the path of a layer, matched in linear time.

A file gives regular expressions as paths, and layers the names that are compared with them. Python
can take forever for a match; RE2, which TensorFlow uses, never takes more than linear time.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf


class LinearDTypePolicyMap(keras.dtype_policies.DTypePolicyMap):  # type: ignore[misc] # no types
    """A `DTypePolicyMap` of a file that is not trusted."""

    def __getitem__(self, key: str) -> Any:
        """Return the policy of a path, as Keras does.

        Raises:
            ValueError: Several expressions match, or one is not of RE2.
        """
        if key in self._policy_map:
            return self._policy_map[key]
        matching = [pattern for pattern in self._policy_map if _matches(pattern, key)]
        if len(matching) > 1:
            message = f"the path {key!r} matches several keys of a DTypePolicyMap: {matching}"
            raise ValueError(message)
        return self._policy_map[matching[0]] if matching else self.default_policy


# Serialized as the class of Keras.
LinearDTypePolicyMap.__name__ = keras.dtype_policies.DTypePolicyMap.__name__
LinearDTypePolicyMap.__module__ = keras.dtype_policies.DTypePolicyMap.__module__


@functools.lru_cache(maxsize=4096)
def _matches(pattern: str, path: str) -> bool:
    """Whether a regular expression matches a whole path.

    Raises:
        ValueError: RE2 does not have the expression, or may differ from Python.
    """
    if not (pattern + path).isascii() and ("\\" in pattern or "(?" in pattern):
        # The classes of characters are those of ASCII in RE2, those of Unicode in Python.
        message = f"the key {pattern!r} of a DTypePolicyMap has classes of characters"
        raise ValueError(message)
    try:
        with tf.init_scope():
            return bool(tf.strings.regex_full_match(path, pattern))
    except (tf.errors.InvalidArgumentError, UnicodeEncodeError) as error:
        message = f"the key {pattern!r:.200} of a DTypePolicyMap cannot be matched: {error!s:.200}"
        raise ValueError(message) from error
