"""ONNX: recurrences as LSTM, GRU and RNN operators, or as a Scan of one step."""
