"""Loads, calls and traces models of both generations of Keras."""
