"""Compares artifacts with Keras."""
