"""LiteRT.js, which runs TFLite files in a browser through LiteRT's CompiledModel."""

from bilstm_exporter.profiles.base import Profile
from bilstm_exporter.profiles.registry import register

# A CompiledModel ends its process on a file whose inner shapes are known only as it runs, and it
# cannot resize. LiteRT.js passes float32 tensors only.
register(
    Profile(
        "litert-js",
        "LiteRT.js",
        "tflite",
        "2.3",
        recipes=("float32", "float16", "int8", "int4"),
        fixed={"batch": 1, "time": None},
        dtypes=frozenset({"float32"}),
    )
)
