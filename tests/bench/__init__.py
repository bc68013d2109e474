"""Tests of bench-bilstm, most of which need the runtime alone."""
