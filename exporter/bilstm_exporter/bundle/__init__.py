"""Writing a bundle: golden cases, manifest, and the folder itself."""
