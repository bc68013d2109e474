"""Loops that layers run in their own code: one function per API or kind of loop.

Each takes ``x [batch, time, FEATURES]``, a kernel ``[FEATURES, FEATURES]`` and, as the layer's
mask, ``x[:, :, 0] > 0``.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras
from keras import ops

FEATURES = 4
LOOPS = {}
NOT_INFERRED = {"ops_associative_scan", "ops_associative_scan_reverse", "ops_scan_with_a_mask"}
"""Loops of a shape that Keras cannot infer for a free time axis; it equals that of the input."""


def loop(function):
    """Add a loop, in functions of TensorFlow or of keras.ops."""
    LOOPS[function.__name__] = function
    return function


def steps_first(x):
    return tf.transpose(x, [1, 0, 2])


@loop
def scan(x, w):
    start = tf.zeros_like(x[:, 0])
    return steps_first(tf.scan(lambda h, s: tf.tanh(s + h @ w), steps_first(x), start))


@loop
def scan_of_all_but_the_first(x, w):
    """Over no steps where the input has one; the batch must not be lost then."""
    rows = steps_first(x)
    states = tf.scan(lambda h, s: tf.tanh(s + h @ w), rows[1:], rows[0])
    lengths = tf.fill([tf.shape(x)[0]], tf.shape(states)[0])
    return tf.reverse_sequence(steps_first(states), lengths, seq_axis=1)


@loop
def scan_reverse(x, w):
    start = tf.zeros_like(x[:, 0])
    step = lambda h, s: tf.tanh(s + h @ w)  # noqa: E731
    return steps_first(tf.scan(step, steps_first(x), start, reverse=True))


@loop
def scan_of_pairs(x, w):
    rows = steps_first(x)
    start = (tf.zeros_like(x[:, 0]), tf.zeros_like(x[:, 0, 0], tf.int32))

    def step(carry, pair):
        h, count = carry
        row, valid = pair
        new = tf.where(valid[:, None], tf.tanh(row + h @ w), h)
        return new, count + tf.cast(valid, tf.int32)

    h, count = tf.scan(step, (rows, rows[:, :, 0] > 0), start)
    return steps_first(h) + tf.cast(tf.transpose(count), tf.float32)[:, :, None]


@loop
def map_fn(x, w):
    return tf.map_fn(lambda row: tf.nn.softmax(row @ w) * tf.reduce_max(row), x)


@loop
def map_fn_over_time(x, w):
    return steps_first(tf.map_fn(lambda row: tf.cumsum(row @ w, 1), steps_first(x)))


@loop
def map_fn_other_type(x, w):
    best = tf.map_fn(
        lambda row: tf.argmax(row @ w, -1, output_type=tf.int32), x, fn_output_signature=tf.int32
    )
    return tf.one_hot(best, FEATURES)


@loop
def while_loop(x, w):
    """Without lists."""
    n = tf.shape(x)[1]

    def body(i, h):
        return i + 1, tf.tanh(tf.gather(x, i, axis=1) + h @ w)

    return tf.while_loop(lambda i, h: i < n, body, (0, tf.zeros_like(x[:, 0])))[1]


@loop
def while_loop_fixed(x, w):
    body = lambda i, h: (i + 1, tf.tanh(h @ w))  # noqa: E731
    return tf.while_loop(lambda i, h: i < 5, body, (0, x[:, 0]))[1]


@loop
def while_loop_of_values(x, w):
    """Goes on until a value of the data is reached."""
    body = lambda i, h: (i + 1, h * 1.5 + tf.abs(h @ w))  # noqa: E731
    condition = lambda i, h: tf.logical_and(tf.reduce_max(h) < 20.0, i < 30)  # noqa: E731
    count, h = tf.while_loop(condition, body, (0, tf.abs(x[:, 0])))
    return h + tf.cast(count, tf.float32)


@loop
def while_loop_of_values_with_list(x, w):
    """Fills part of a list, and leaves zeros."""
    rows = steps_first(x)
    n = tf.shape(rows)[0]
    array = tf.TensorArray(tf.float32, n, element_shape=(None, FEATURES))

    def body(i, h, array):
        h = tf.tanh(rows[i] + h @ w)
        return i + 1, h, array.write(i, h)

    def condition(i, h, array):
        return tf.logical_and(i < n, tf.reduce_sum(h) < 1.0)

    _, h, array = tf.while_loop(condition, body, (0, tf.zeros_like(rows[0]), array))
    return steps_first(array.stack()) + h[:, None]


@loop
def variables_that_change_places(x, w):
    """As in Fibonacci's numbers, and two that are exchanged."""

    def body(i, a, b, c, d):
        return i + 1, tf.tanh(a @ w + b), a, d, tf.reshape(c, tf.shape(c))

    start = (0, x[:, 0], x[:, 0] * 0.5, x[:, 0] > 0, x[:, 0] < 1.0)
    _, a, b, c, d = tf.while_loop(lambda i, *_: i < 3, body, start)
    return tf.concat([a, b, tf.cast(c, tf.float32), 2.0 * tf.cast(d, tf.float32)], -1)


@loop
def maximum_iterations(x, w):
    body = lambda h: (tf.tanh(h @ w + x[:, 0]),)  # noqa: E731
    (h,) = tf.while_loop(lambda h: True, body, (x[:, 0],), maximum_iterations=3)
    return h


@loop
def array_backwards(x, w):
    rows = steps_first(x)
    n = tf.shape(rows)[0]
    array = tf.TensorArray(tf.float32, n)

    def body(i, h, array):
        h = tf.tanh(rows[i] + h @ w)
        return i - 1, h, array.write(i, h)

    start = (n - 1, tf.zeros_like(rows[0]), array)
    return steps_first(tf.while_loop(lambda i, *_: i >= 0, body, start)[2].stack())


@loop
def array_backwards_from_the_front(x, w):
    """Counts up, writes down, and makes elements that are no state."""
    rows = steps_first(x)
    n = tf.shape(rows)[0]
    array = tf.TensorArray(tf.float32, n)

    def body(i, h, array):
        h = tf.tanh(rows[i] + h @ w)
        return i + 1, h, array.write(n - 1 - i, tf.concat([h, rows[i]], -1))

    start = (0, tf.zeros_like(rows[0]), array)
    return steps_first(tf.while_loop(lambda i, *_: i < n, body, start)[2].stack())


@loop
def array_read_at_computed_positions(x, w):
    """Reads what the same loop wrote before, and every second input."""
    rows = steps_first(x)
    n = tf.shape(rows)[0]
    source = tf.TensorArray(tf.float32, n, clear_after_read=False).unstack(rows)
    array = tf.TensorArray(tf.float32, n, clear_after_read=False, element_shape=(None, FEATURES))
    array = array.write(0, rows[0])

    def body(i, array):
        before = array.read(i // 2)
        return i + 1, array.write(i, tf.tanh(source.read((2 * i) % n) + before @ w))

    return steps_first(tf.while_loop(lambda i, _: i < n, body, (1, array))[1].stack())


@loop
def array_of_the_step_before(x, w):
    """Reads what the two iterations before wrote, and the element after the own one."""
    rows = steps_first(x)
    n = tf.shape(rows)[0]
    array = tf.TensorArray(
        tf.float32, n + 3, clear_after_read=False, element_shape=(None, FEATURES)
    )
    array = array.unstack(tf.concat([rows, tf.tile(rows[:1], [3, 1, 1])], 0))

    def body(i, array):
        before = array.read(i - 1) @ w + array.read(i - 2)
        h = tf.tanh(before + array.read(i) - array.read(i + 1))
        array = array.write(i, h)
        return i + 1, array.write(i, array.read(i) * 0.9)

    return steps_first(tf.while_loop(lambda i, _: i < n + 2, body, (2, array))[1].stack())


@loop
def array_backwards_of_the_step_after(x, w):
    """As in backward algorithms; the list starts as zeros, but for its last element."""
    rows = steps_first(x)
    n = tf.shape(rows)[0]
    array = tf.TensorArray(tf.float32, n, clear_after_read=False)
    array = array.write(n - 1, rows[n - 1])

    def body(i, array):
        k = n - 1 - i
        return i + 1, array.write(k, tf.tanh(array.read(k + 1) @ w + rows[k]))

    return steps_first(tf.while_loop(lambda i, _: i < n, body, (1, array))[1].stack())


@loop
def array_that_grows_from_its_last(x, w):
    """As in decoders: the first element is written before, each other one from the one before."""
    rows = steps_first(x)
    array = tf.TensorArray(tf.float32, 0, dynamic_size=True, clear_after_read=False)
    array = array.write(0, rows[0])

    def body(i, array):
        return i + 1, array.write(i, tf.tanh(array.read(i - 1) @ w + rows[i]))

    n = tf.shape(rows)[0]
    return steps_first(tf.while_loop(lambda i, _: i < n, body, (1, array))[1].stack())


@loop
def autograph_that_writes_some(x, w):
    """Leaves zeros, or the element of the step before, where a condition does not hold."""

    @tf.function
    def run(x):
        n = tf.shape(x)[1]
        h = tf.zeros_like(x[:, 0])
        some = tf.TensorArray(tf.float32, n)
        held = tf.TensorArray(tf.float32, n, clear_after_read=False)
        for t in tf.range(n):
            h = tf.tanh(x[:, t] + h @ w)
            if tf.reduce_max(h) > 0.7:
                some = some.write(t, h)
                held = held.write(t, h * 2.0)
            elif t > 0:
                held = held.write(t, held.read(t - 1) + tf.cast(held.size(), tf.float32))
        return steps_first(some.stack() + held.stack())

    return run(x)


@loop
def array_that_grows(x, w):
    rows = steps_first(x)
    n = tf.shape(rows)[0]
    array = tf.TensorArray(tf.float32, 0, dynamic_size=True)

    def body(i, h, array):
        h = tf.tanh(rows[i] + h @ w)
        return i + 1, h, array.write(i, h)

    start = (0, tf.zeros_like(rows[0]), array)
    return steps_first(tf.while_loop(lambda i, *_: i < n, body, start)[2].stack())


@loop
def array_that_grows_by_its_size(x, w):
    """Appends: each element is written after the last one."""
    rows = steps_first(x)
    array = tf.TensorArray(tf.float32, 0, dynamic_size=True)

    def body(i, h, array):
        h = tf.tanh(rows[i] + h @ w)
        return i + 1, h, array.write(array.size(), h)

    start = (0, tf.zeros_like(rows[0]), array)
    n = tf.shape(rows)[0]
    return steps_first(tf.while_loop(lambda i, *_: i < n, body, start)[2].stack())


@loop
def array_that_reads_its_size(x, w):
    """The size counts the elements, and is a value too."""
    rows = steps_first(x)
    array = tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=(None, FEATURES))

    def body(i, array):
        size = array.size()
        return i + 1, array.write(size, rows[i] @ w * tf.cast(size, tf.float32))

    n = tf.shape(rows)[0]
    return steps_first(tf.while_loop(lambda i, *_: i < n, body, (0, array))[1].stack())


@loop
def array_concat_and_gather(x, w):
    array = tf.TensorArray(tf.float32, 3, element_shape=(None, FEATURES), infer_shape=False)
    for i in range(3):
        array = array.write(i, x[:, 0] @ w + float(i))
    return tf.concat([array.concat(), array.gather([2, 0])[0]], 0)[: tf.shape(x)[0]]


@loop
def nested(x, w):
    """A scan over time in a map over the batch."""

    def one(row):
        return tf.scan(lambda h, s: tf.tanh(s + tf.linalg.matvec(w, h)), row, tf.zeros(FEATURES))

    return tf.map_fn(one, x)


@loop
def cases_with_loops(x, w):
    """A case chooses between loops, and another one between the steps of a loop."""
    state = lambda: tf.zeros_like(x[:, 0])  # noqa: E731

    def step(h, s):
        which = tf.cast(tf.reduce_sum(s) > 0, tf.int32)
        return tf.switch_case(which, [lambda: tf.tanh(s + h @ w), lambda: h - s])

    def forward():
        return steps_first(tf.scan(step, steps_first(x), state()))

    def backward():
        return steps_first(tf.scan(step, steps_first(x), state(), reverse=True))

    which = tf.cast(tf.reduce_sum(x) > 0, tf.int32) + tf.cast(tf.reduce_max(x) > 2.0, tf.int32)
    return tf.switch_case(which, [forward, lambda: x @ w, backward])


@loop
def condition_of_loops(x, w):
    def scan():
        step = lambda h, s: tf.tanh(s + h @ w)  # noqa: E731
        return steps_first(tf.scan(step, steps_first(x), tf.zeros_like(x[:, 0])))

    return tf.cond(tf.reduce_sum(x) > 0, scan, lambda: 2.0 * scan())


@loop
def nested_whiles(x, w):
    """Both loops write one list."""
    rows = steps_first(x)
    n = tf.shape(rows)[0]
    array = tf.TensorArray(tf.float32, 3 * n, element_shape=(None, FEATURES))

    def outer(i, h, array):
        def inner(j, h, array):
            h = tf.tanh(rows[i] + h @ w)
            return j + 1, h, array.write(3 * i + j, h)

        _, h, array = tf.while_loop(lambda j, *_: j < 3, inner, (0, h, array))
        return i + 1, h, array

    start = (0, tf.zeros_like(rows[0]), array)
    return steps_first(tf.while_loop(lambda i, *_: i < n, outer, start)[2].stack())


@loop
def autograph(x, w):
    @tf.function
    def run(x):
        h = tf.zeros_like(x[:, 0])
        outputs = tf.TensorArray(tf.float32, tf.shape(x)[1])
        for t in tf.range(tf.shape(x)[1]):
            h = tf.tanh(x[:, t] + h @ w)
            if tf.reduce_max(h) > 0.9:
                h = h * 0.5
            outputs = outputs.write(t, h)
        return steps_first(outputs.stack())

    return run(x)


@loop
def autograph_over_rows(x, w):
    @tf.function
    def run(x):
        h = tf.zeros_like(x[:, 0])
        for row in steps_first(x):
            h = tf.tanh(row + h @ w)
        return h

    return run(x)


@loop
def autograph_with_break(x, w):
    @tf.function
    def run(x):
        h = tf.zeros_like(x[:, 0])
        for t in tf.range(tf.shape(x)[1]):
            h = tf.tanh(x[:, t] + h @ w)
            if tf.reduce_max(h) > 0.8:
                break
        return h

    return run(x)


@loop
def viterbi_one_hot(x, w):
    """As layers of a CRF have it: tf.scan forwards, then backwards through the best tags."""
    rows = steps_first(x)

    def step(carry, row):
        total = carry[0][:, :, None] + tf.expand_dims(w, 0)
        best = tf.argmax(total, axis=1, output_type=tf.int32)
        return tf.reduce_max(total, axis=1) + row, best

    zero = tf.zeros_like(rows[0], dtype=tf.int32)
    scores, backs = tf.scan(step, rows[1:], (rows[0], zero))
    last = tf.argmax(tf.concat([rows[:1], scores], 0)[-1], axis=-1, output_type=tf.int32)

    def walk(tag, back):
        return tf.gather(back, tag, axis=1, batch_dims=1)

    path = tf.concat([tf.scan(walk, backs, last, reverse=True), tf.expand_dims(last, 0)], 0)
    return tf.one_hot(tf.transpose(path), FEATURES)


@loop
def viterbi_masked(x, w):
    """A masked step keeps the scores, and each tag is its own predecessor."""
    rows = steps_first(x)
    valid = rows[:, :, 0] > -0.5

    def step(carry, item):
        row, is_valid = item
        total = carry[0][:, :, None] + tf.expand_dims(w, 0)
        best = tf.argmax(total, axis=1, output_type=tf.int32)
        same = tf.tile(tf.range(FEATURES)[None], [tf.shape(row)[0], 1])
        score = tf.reduce_max(total, axis=1) + row
        return (
            tf.where(is_valid[:, None], score, carry[0]),
            tf.where(is_valid[:, None], best, same),
        )

    start = (rows[0], tf.zeros_like(rows[0], tf.int32))
    scores, backs = tf.scan(step, (rows[1:], valid[1:]), start)
    last = tf.argmax(tf.concat([rows[:1], scores], 0)[-1], axis=-1, output_type=tf.int32)

    def walk(tag, back):
        return tf.gather(back, tag, axis=1, batch_dims=1)

    path = tf.concat([tf.scan(walk, backs, last, reverse=True), tf.expand_dims(last, 0)], 0)
    return tf.one_hot(tf.transpose(path), FEATURES)


@loop
def viterbi_keras_contrib(x, w):
    """As in keras-contrib: K.rnn with energies and integer positions, then K.rnn backwards."""
    backend = tf_keras.backend

    def step(energy, states):
        table = states[0][:, :, None] + tf.expand_dims(w, 0)
        best = tf.cast(tf.argmax(table, 1), tf.float32)
        return best, [energy + tf.reduce_max(table, 1)]

    _, table, (score,) = backend.rnn(step, x[:, 1:], [x[:, 0]])
    last = tf.argmax(score, -1, output_type=tf.int32)

    def walk(row, states):
        tag = tf.gather(tf.cast(row, tf.int32), states[0][:, 0], axis=1, batch_dims=1)
        return tf.cast(tag[:, None], tf.float32), [tag[:, None]]

    _, path, _ = backend.rnn(walk, table, [last[:, None]], go_backwards=True)
    path = tf.reverse(tf.cast(path[:, :, 0], tf.int32), [1])
    return tf.one_hot(tf.concat([path, last[:, None]], 1), FEATURES)


@loop
def autoregressive(x, w):
    """Feeds the best class of a step to the next one, for a fixed number of steps."""
    outputs = tf.TensorArray(tf.float32, 6)

    def body(i, token, h, outputs):
        weights = tf.nn.softmax(tf.einsum("bf,btf->bt", h, x))
        h = tf.tanh(tf.einsum("bt,btf->bf", weights, x) + tf.gather(w, token) + h @ w)
        return i + 1, tf.argmax(h, -1, output_type=tf.int32), h, outputs.write(i, h)

    first = tf.zeros_like(x[:, 0, 0], dtype=tf.int32)
    start = (0, first, tf.reduce_mean(x, 1), outputs)
    return steps_first(tf.while_loop(lambda i, *_: i < 6, body, start)[3].stack())


@loop
def transposes_in_a_loop(x, w):
    """Moves axes inside and outside of loops, next to functions that the TFLite converter moves."""
    swap = lambda y: tf.transpose(y, [1, 0, 2])  # noqa: E731

    def inner(i, y):
        return i + 1, swap(tf.nn.relu(swap(y)) + 0.1)

    def body(i, y):
        y = swap(tf.tanh(swap(y)) @ w)
        return i + 1, tf.while_loop(lambda i, _: i < 2, inner, (0, y))[1]

    return swap(tf.while_loop(lambda i, _: i < 3, body, (0, swap(x)))[1])


@loop
def grows_a_tensor(x, w):
    """Each iteration reads all tokens before, and appends one."""

    def body(i, tokens):
        logits = tf.reduce_sum(tf.gather(w, tokens), 1) + x[:, 0]
        token = tf.argmax(logits, -1, output_type=tf.int32)
        return i + 1, tf.concat([tokens, token[:, None]], 1)

    first = tf.zeros_like(x[:, :1, 0], dtype=tf.int32)
    shapes = (tf.TensorShape([]), tf.TensorShape([None, None]))
    tokens = tf.while_loop(lambda i, _: i < 4, body, (0, first), shape_invariants=shapes)[1]
    return tf.one_hot(tokens, FEATURES)


@loop
def k_rnn_with_attention(x, w):
    """A step that reads the whole sequence, as attention decoders of Keras 2 do."""

    def step(inputs, states):
        (h,) = states
        weights = tf.nn.softmax(tf.einsum("bf,btf->bt", h @ w, x))
        h = tf.tanh(tf.einsum("bt,btf->bf", weights, x) + inputs)
        return h, [h]

    return tf_keras.backend.rnn(step, x, [tf.zeros_like(x[:, 0])])[1]


@loop
def k_rnn_of_pairs(x, w):
    def step(inputs, states):
        first, second = inputs
        h = tf.tanh(first + second[:, :4] + states[0] @ w)
        return h, [h]

    mask = x[:, :, 0] > 0
    start = [tf.zeros_like(x[:, 0])]
    return tf_keras.backend.rnn(step, (x, x * 2.0), start, mask=mask, go_backwards=True)[1]


@loop
def ops_scan(x, w):
    def step(carry, row):
        h = ops.tanh(row + ops.matmul(carry, w))
        return h, h

    last, outputs = ops.scan(step, ops.zeros_like(x[:, 0]), ops.transpose(x, (1, 0, 2)))
    return ops.transpose(outputs, (1, 0, 2)) + last[:, None]


@loop
def ops_scan_reverse(x, w):
    def step(carry, row):
        h = ops.tanh(row + ops.matmul(carry, w))
        return h, h

    rows = ops.transpose(x, (1, 0, 2))
    return ops.transpose(ops.scan(step, ops.zeros_like(x[:, 0]), rows, reverse=True)[1], (1, 0, 2))


@loop
def ops_scan_with_a_mask(x, w):
    """Over two tensors; Keras itself traces that for a fixed length only."""

    def step(carry, pair):
        row, valid = pair
        h = ops.where(valid[:, None], ops.tanh(row + ops.matmul(carry, w)), carry)
        return h, h

    rows = (ops.transpose(x, (1, 0, 2)), ops.transpose(x[:, :, 0] > 0))
    return ops.transpose(ops.scan(step, ops.zeros_like(x[:, 0]), rows, reverse=True)[1], (1, 0, 2))


@loop
def ops_scan_length(x, w):
    step = lambda h, _: (ops.tanh(ops.matmul(h, w)), h)  # noqa: E731
    return ops.transpose(ops.scan(step, x[:, 0], length=5)[1], (1, 0, 2))


@loop
def ops_while_loop(x, w):
    n = ops.shape(x)[1]
    body = lambda i, h: (i + 1, ops.tanh(ops.take(x, i, axis=1) + ops.matmul(h, w)))  # noqa: E731
    return ops.while_loop(lambda i, h: i < n, body, (0, ops.zeros_like(x[:, 0])))[1]


@loop
def ops_fori_loop(x, w):
    body = lambda i, h: ops.tanh(ops.matmul(h, w) + ops.cast(i, "float32"))  # noqa: E731
    return ops.fori_loop(0, 5, body, x[:, 0])


@loop
def ops_fori_loop_slice_update(x, w):
    def body(i, y):
        row = ops.tanh(ops.matmul(y[i], w) + y[i - 1])
        return ops.slice_update(y, [i, 0, 0], row[None])

    rows = ops.transpose(x, (1, 0, 2))
    return ops.transpose(ops.fori_loop(1, ops.shape(rows)[0], body, rows), (1, 0, 2))


def linear_recurrence(one, other):
    """Combines two steps ``(a, b)`` of ``h = a * h + b``."""
    return one[0] * other[0], one[1] * other[0] + other[1]


@loop
def ops_associative_scan(x, w):
    gates = ops.sigmoid(ops.matmul(x, w))
    return ops.associative_scan(linear_recurrence, (gates, x), axis=1)[1]


@loop
def ops_associative_scan_reverse(x, w):
    """Over the first axis; the order of the factors matters."""
    gates = ops.softmax(ops.matmul(ops.transpose(x, (1, 0, 2)), w))[..., None] * w
    products = ops.associative_scan(ops.matmul, gates, reverse=True)
    return ops.transpose(ops.sum(products, -1), (1, 0, 2))


@loop
def ops_map(x, w):
    return ops.map(lambda row: ops.softmax(ops.matmul(row, w)), x)


@loop
def ops_vectorized_map(x, w):
    return ops.vectorized_map(lambda row: ops.tanh(ops.matmul(row, w)), x)


@loop
def lstm_in_a_map(x, w):
    """A recurrent layer in a loop."""
    return ops.map(lambda row: LAYERS["lstm"](row[None])[0], ops.matmul(x, w))


LAYERS = {}


def make_layer(library, name):
    """A layer of Keras 2 or Keras 3 that runs one of the loops."""

    class OwnLoop(library.layers.Layer):
        def build(self, shape):
            del shape
            if name == "lstm_in_a_map":
                self.lstm = LAYERS["lstm"] = library.layers.LSTM(3, return_sequences=True)
                self.lstm.build((None, None, FEATURES))
            values = np.random.default_rng(5).normal(size=(FEATURES, FEATURES)) * 0.7
            self.kernel = self.add_weight(
                shape=(FEATURES, FEATURES),
                initializer=library.initializers.Constant(values.astype(np.float32)),
                name="kernel",
            )
            self.built = True

        def call(self, x):
            return LOOPS[name](x, tf.convert_to_tensor(self.kernel))

    if name in NOT_INFERRED:
        OwnLoop.compute_output_shape = lambda _self, shape: shape
    return OwnLoop(name="own_loop")


def make_model(library, name, shape=(None, FEATURES)):
    """A model that is this layer."""
    x = library.Input(shape, name="x")
    return library.Model(x, make_layer(library, name)(x))
