"""Stream artifacts: the model as a step over a chunk of time, with its states outside."""
