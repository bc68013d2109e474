"""What a model takes and returns, found by calling and tracing it."""
