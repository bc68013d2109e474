"""The command export-bilstm."""
