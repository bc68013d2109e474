"""Computes answers from outputs: labels, tags and spans, as `decoding` in the manifest says."""
