"""Operators in forms that the converters of both formats support."""
