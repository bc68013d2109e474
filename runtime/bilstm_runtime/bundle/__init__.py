"""The bundle folder: its manifest, its golden cases and its tuning."""
