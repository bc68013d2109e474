"""Whether a bundle answers as tf_keras does, on inputs of the tests' own."""

import numpy as np
import tensorflow as tf
import tf_keras
from bilstm_exporter.verification.tolerance import TOLERANCE

import bilstm_runtime
from bilstm_exporter import export
from zoo.case import PADDINGS, keep_steps

SIZES = ((1, 5), (2, 1), (7, 9), (2, 12))


def answers(model, arrays):
    """Call a model of Keras 2 eagerly on flat inputs."""
    structure = getattr(model, "_nested_inputs", 0)
    if structure is None:
        structure = 0
    if not isinstance(structure, dict) and len(arrays) == 1:
        structure = 0
    packed = tf.nest.pack_sequence_as(structure, [tf.constant(a) for a in arrays])
    return [y.numpy() for y in tf.nest.flatten(model(packed, training=False))]


def inputs(model, rng, batch, time):
    """Arrays for every input, rows padded in all ways in turn; ids below the smallest table."""
    layers = model._flatten_layers()
    tables = [x.input_dim for x in layers if isinstance(x, tf_keras.layers.Embedding)]
    arrays = []
    kinds = [PADDINGS[(i + time) % len(PADDINGS)] for i in range(batch)]
    for spec in model.inputs or [tf.TensorSpec((None, None), tf.int32)]:
        shape = tuple(spec.shape)
        shape = (shape[0] or batch, *(time if n is None else n for n in shape[1:]))
        kind = np.dtype(spec.dtype.as_numpy_dtype)
        if kind.kind in "iu" or (tables and len(shape) == 2 and len(model.inputs) == 1):
            array = rng.integers(1, min(tables), shape)
        else:
            array = rng.normal(size=shape)
        if len(shape) > 1 and shape[1] == time:
            array[~keep_steps(rng, *shape[:2], kinds)] = 0
        arrays.append(array.astype(kind))
    return arrays


def check(model, path, out, *, sizes=SIZES, **options):
    """Export `path` in both formats, and compare with `model` at every size, twice."""
    probes = []
    rng = np.random.default_rng(3)
    for batch, time in sizes:
        arrays = inputs(model, rng, batch, time)
        try:
            probes.append((arrays, answers(model, arrays)))
        except (ValueError, tf.errors.OpError):
            continue  # too short for this model
    assert probes
    report = export(path, out, overwrite=True, **options)
    for format_name in options.get("formats", ("onnx", "tflite")):
        backend = {"onnx": "onnx", "tflite": "litert"}[format_name]
        loaded = bilstm_runtime.load(out, backend=backend)
        for arrays, wanted in (*probes, *reversed(probes)):
            found = loaded.predict(list(arrays) if len(arrays) > 1 else arrays[0])
            found = list(found.values()) if isinstance(found, dict) else found
            found = found if isinstance(found, (list, tuple)) else [found]
            for a, b in zip(found, wanted, strict=True):
                assert a.shape == b.shape
                assert a.dtype == b.dtype
                np.testing.assert_allclose(a, b, TOLERANCE.relative, TOLERANCE.absolute)
    return report
