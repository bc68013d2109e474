"""ONNX: recurrences as LSTM, GRU and RNN operators, or as a Scan over the cell's step."""

from bilstm_exporter.targets.registry import register_target

register_target("onnx", "bilstm_exporter.targets.onnx.target", "OnnxTarget")
