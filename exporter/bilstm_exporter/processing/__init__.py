"""What the options say of texts, sound and labels, checked and stored in the ModelSpec."""
