"""The bundle folder, its manifest and its tuning."""
