"""Finding out what a model file is, and reading it without running its code."""
