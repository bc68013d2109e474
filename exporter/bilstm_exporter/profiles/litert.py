"""LiteRT's interpreter, the default for TFLite files."""

from bilstm_exporter.profiles.base import Profile
from bilstm_exporter.profiles.registry import register

register(Profile("litert", "LiteRT", "tflite", "2.3", backend="litert"))
