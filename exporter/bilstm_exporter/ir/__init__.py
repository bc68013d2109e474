"""The description of a recurrence between front ends and targets."""
