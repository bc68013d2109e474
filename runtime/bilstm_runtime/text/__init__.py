"""Converts texts to ids, as `preprocessing` in the manifest says.

docs/manifest.md describes the algorithms for runtimes in other languages.
"""

from bilstm_runtime.text.reader import TextReader, are_texts, make_encoder
from bilstm_runtime.text.vectorization import TextEncoder

__all__ = ["TextEncoder", "TextReader", "are_texts", "make_encoder"]
