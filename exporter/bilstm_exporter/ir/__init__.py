"""The description of recurrences that front ends produce and targets read."""
