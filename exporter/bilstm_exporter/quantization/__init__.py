"""Storing weights in fewer bits: what both formats share."""
