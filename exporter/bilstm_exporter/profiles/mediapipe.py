"""MediaPipe Tasks, whose TextClassifier classifies texts with a TFLite file and no other."""

from bilstm_exporter.profiles.base import Profile
from bilstm_exporter.profiles.registry import register
from bilstm_exporter.targets.operators import Form
from bilstm_exporter.targets.tflite.text_classifier import misfit

# It refuses a file with more than one subgraph, which every loop and condition adds.
register(
    Profile(
        "mediapipe",
        "MediaPipe's TextClassifier",
        "tflite",
        "1.2.3",
        kernels={"WHILE": (), "IF": (), "STABLEHLO_WHILE": ()},
        lists_all=False,
        recipes=("float32", "float16", "int8", "int4"),
        forms=frozenset({Form.NO_LOOPS}),
        fixed={"batch": 1, "time": None},
        misfit=misfit,
    )
)
