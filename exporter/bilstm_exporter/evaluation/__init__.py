"""Evaluates artifacts on the user's data, and searches for the best one within limits."""
