"""Readers for files of examples, and writers for files of predictions."""
