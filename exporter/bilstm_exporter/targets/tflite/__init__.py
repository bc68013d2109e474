"""TFLite: recurrences as loops over builtin operators."""
