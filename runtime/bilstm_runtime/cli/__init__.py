"""The commands run-bilstm and check-bilstm."""
