"""What a recipe does to the answers on the user's own data."""
