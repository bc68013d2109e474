"""Evaluating artifacts on the user's data, and searching for the best one within limits."""
