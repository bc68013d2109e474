"""Files of examples and of predictions."""
