"""The formats that a model is exported to: one folder per format."""

from bilstm_exporter.targets.registry import find_targets

find_targets(__path__)
