"""Keras's own outputs: eager calls, equal compiled calls, calls off by roundings."""
