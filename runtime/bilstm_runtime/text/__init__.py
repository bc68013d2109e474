"""Converts texts to ids, as `preprocessing` in the manifest says.

docs/manifest.md describes the algorithms for runtimes in other languages.
"""

from bilstm_runtime.text.reader import RawValue, TextReader, are_texts, holds_text, make_encoder
from bilstm_runtime.text.vectorization import TextEncoder

__all__ = [
    "RawValue",
    "TextEncoder",
    "TextReader",
    "are_texts",
    "holds_text",
    "make_encoder",
]
