"""Comparing artifacts with Keras."""
