"""Files are read as they were saved, and bundles reproduce tf_keras, on inputs of the tests."""

import numpy as np
import tensorflow as tf
import tf_keras

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.frontends.loading import read
from bilstm_exporter.keras_model import TOLERANCE
from zoo.case import PADDINGS, keep_steps

SIZES = ((1, 5), (2, 1), (7, 9), (2, 12))
READ_SIZES = ((6, 7),)  # rows of every padding; what was read runs in Keras itself


def tf_keras_outputs(model, arrays):
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


def cases(model, sizes):
    """Inputs of every size that the model takes, with its outputs."""
    rng = np.random.default_rng(3)
    found = []
    for batch, time in sizes:
        arrays = inputs(model, rng, batch, time)
        try:
            found.append((arrays, tf_keras_outputs(model, arrays)))
        except (ValueError, tf.errors.OpError):
            continue  # too short for this model
    assert found
    return found


def check_read(model, path, *, sizes=READ_SIZES, **options):
    """Read `path`, and compare the outputs of what was read with `model` at every size."""
    found, origin = read(path, **options)
    for arrays, wanted in cases(model, sizes):
        for a, b in zip(found.reference(arrays), wanted, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(a, b, 1e-6, 1e-6)
    return found, origin


def check(model, path, out, *, sizes=SIZES, **options):
    """Export `path` in both formats, and compare with `model` at every size, twice."""
    replayed = cases(model, sizes)
    report = export(path, out, overwrite=True, **options)
    for format_name in options.get("formats", ("onnx", "tflite")):
        backend = {"onnx": "onnx", "tflite": "litert"}[format_name]
        loaded = bilstm_runtime.load(out, backend=backend)
        for arrays, wanted in (*replayed, *reversed(replayed)):
            found = loaded.predict(list(arrays) if len(arrays) > 1 else arrays[0])
            found = list(found.values()) if isinstance(found, dict) else found
            found = found if isinstance(found, (list, tuple)) else [found]
            for a, b in zip(found, wanted, strict=True):
                assert a.shape == b.shape
                assert a.dtype == b.dtype
                np.testing.assert_allclose(a, b, TOLERANCE.relative, TOLERANCE.absolute)
    return report
