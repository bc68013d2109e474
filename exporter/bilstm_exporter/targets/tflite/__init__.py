"""TFLite: recurrences as loops over builtin operators."""

from bilstm_exporter.targets.registry import register_target

register_target(
    "tflite", "bilstm_exporter.targets.tflite.target", "TfliteTarget", integer_activations=True
)
