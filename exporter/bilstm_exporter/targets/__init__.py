"""Export formats, one folder per format."""

from bilstm_exporter.targets.registry import find_targets

find_targets(__path__)
