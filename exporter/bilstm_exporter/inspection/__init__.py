"""Finds the inputs, outputs and properties of a model by calling and tracing it."""
