"""Predicts with a model on any session, with the arguments and return values of Keras."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bilstm_runtime.backends import SizedSession
from bilstm_runtime.batching import BatchRunner
from bilstm_runtime.decoding.labels import labels_of
from bilstm_runtime.decoding.options import (
    DecodingOptions,
    check_has_decoding,
    find_decoding,
    words_of,
)
from bilstm_runtime.decoding.tags import spans_of, tags_of
from bilstm_runtime.decoding.transcriptions import transcriptions_of
from bilstm_runtime.decoding_spec import CtcDecoding, LabelDecoding, TagDecoding
from bilstm_runtime.errors import InputError, InputTypeError, OptionError
from bilstm_runtime.inputs import InputReader, Values
from bilstm_runtime.spec import AnyArray, InputSpec
from bilstm_runtime.values import ValueRule
from bilstm_runtime.windows import sliding_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bilstm_runtime.backends import Session
    from bilstm_runtime.batching import Progress
    from bilstm_runtime.decoding.ctc import Scorer
    from bilstm_runtime.decoding.results import Label, Span, Tag, Transcription
    from bilstm_runtime.decoding.tags import TokenSequence
    from bilstm_runtime.decoding_spec import Decoding
    from bilstm_runtime.preprocessing_spec import TokenizerFilePreprocessing
    from bilstm_runtime.spec import ModelSpec, OutputSpec, StateSpec

Output: TypeAlias = AnyArray | list[AnyArray]
"""One output: an array with a batch axis, or one array per example."""

Outputs: TypeAlias = Any
"""All outputs, in the structure of the Keras model: an `Output`, or a list or dict of those.

The structure is known only at run time. With `Any`, callers need not narrow a union.
"""


class Predictor:
    """Predicts with a model that runs on a session.

    Attributes:
        spec: The description of the model.
        inputs: The inputs of `spec`.
        outputs: The outputs of `spec`.
        output_structure: The structure of the outputs: "single", "list" or "dict".
        is_stateful: Whether a prediction depends on earlier ones since the last `reset`.
    """

    spec: ModelSpec
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    output_structure: str
    is_stateful: bool

    def __init__(
        self,
        spec: ModelSpec,
        session: Session,
        *,
        label: str,
        read_file: Callable[[TokenizerFilePreprocessing], bytes] | None = None,
    ) -> None:
        """Predict on an open session.

        Args:
            spec: The description of the model.
            session: Takes one array per file input of `spec`, and returns one per file output.
            label: The model's name in messages, such as its file name.
            read_file: Reads a tokenizer's file from the bundle.
        """
        self.spec = spec
        self.inputs = spec.inputs
        self.outputs = spec.outputs
        self.output_structure = spec.output_structure
        self.is_stateful = bool(spec.states)
        self._label = label
        self._session = _StateSession(session, spec.states) if spec.states else session
        self._reader = InputReader(spec, read_file)
        self._runner = BatchRunner(
            spec,
            self._session.run,
            label,
            session.row_bytes if isinstance(session, SizedSession) else None,
        )

    def __repr__(self) -> str:
        """Name and label."""
        return f"<{type(self).__name__} {self.spec.name!r} of {self._label}>"

    def reset(self) -> None:
        """Set the states of a stateful model to zeros; does nothing for any other model."""
        if isinstance(self._session, _StateSession):
            self._session.reset()

    @property
    def states(self) -> list[AnyArray]:
        """Copies of the states of a stateful model, one array each; empty for any other model.

        They can be set, to those of another run. Setting raises `InputError` for other shapes and
        for values that are not finite.
        """
        session = self._session
        return [s.copy() for s in session.states] if isinstance(session, _StateSession) else []

    @states.setter
    def states(self, values: Sequence[AnyArray]) -> None:
        specs = self.spec.states
        if not isinstance(values, (list, tuple)) or len(values) != len(specs):
            found = len(values) if isinstance(values, (list, tuple)) else type(values).__name__
            message = f"states takes a list of {len(specs)} arrays for this model; found {found}"
            raise InputError(message)
        self._restore([_state(*pair) for pair in zip(values, specs, strict=True)])

    def _restore(self, states: Sequence[AnyArray]) -> None:
        """Set states that were read from this model, which may hold NaN."""
        if isinstance(self._session, _StateSession):
            self._session.states = [state.copy() for state in states]

    def predict(
        self, x: Values, *, batch_size: int | None = None, progress: Progress | None = None
    ) -> Outputs:
        """Predict for a batch of examples.

        A model with one input takes

        - an array with a batch axis, such as `[batch, time, features]`;
        - a list or tuple, always read as a list of examples: numbers, lists or arrays without a
          batch axis, whose lengths may differ;
        - a dict with its one input.

        A model with several inputs takes a dict by input name, or a list or tuple in the order
        of `inputs`, of any of these.

        A frame of pandas or polars takes the place of a dict: its columns that are named after the
        inputs are read, with one example per row; others are ignored. A cell holds a number, a
        text, or the list or array of an example. Nulls are errors.

        An input that starts with a text layer in the Keras model takes a list or array of `str`
        instead, one text per example, or the ids of that layer.

        Values are converted if no information is lost (integers that fit; floats to the
        precision of the model; whole floats to ids). Other values raise an error.

        Sequences of different lengths run in groups of similar length, padded on the right with
        the mask value, if padding changes no output of this model; if it does, in groups of equal
        length. Sequences shorter than a fixed time axis are padded under the same condition, or
        raise an error.

        Args:
            x: The examples.
            batch_size: The maximum number of examples in one run. By default a large array runs in
                parts if the rows of a batch do not affect each other, and sequences of different
                lengths run 16 at a time.
            progress: Called after each run with the number of examples so far, and of all.

        Returns:
            An array, a list of arrays or a dict of arrays by output name, as the Keras model
            would return; `[batch, ...]`, in the given order and owned by the caller. If the
            sequences differ in length, an output that keeps the time axis (or another axis of
            free size) is a list of one array per example, each trimmed to its own length.

        Raises:
            InputError: The examples are not valid for the model.
            OptionError: The batch size is impossible.
            BackendRunError: The backend failed.
        """
        ready = self._reader.ready(x) if batch_size is None else None
        outputs: Sequence[Output]
        if ready is not None and progress is None and self._runner.is_one_run(ready):
            outputs = self._runner.run(ready)
        else:
            request = self._reader.read(x) if ready is None else self._reader.request(ready)
            outputs = self._runner.run_request(request, batch_size, progress)
        return self.spec.pack_outputs(outputs)

    def classify(
        self,
        x: Values,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        output: str | None = None,
        batch_size: int | None = None,
    ) -> list[list[Label]]:
        """Predict the classes of a batch of examples.

        The labels come from the export: `export(..., labels=[...])` or `--labels`.

        Args:
            x: The examples, as for `predict`.
            top_k: The largest number of labels of an example. By default the best one if classes
                are exclusive, and all whose score is at least the threshold if they are not.
            threshold: The lowest score of a class, in place of the one in the bundle, if classes
                are not exclusive; the lowest score of the second label of a model with two labels
                and one value.
            output: The name of the output; needed if several outputs have labels.
            batch_size: As for `predict`.

        Returns:
            For each example its labels, the best first.

        Raises:
            InputError: The examples are not valid for the model.
            OptionError: No output has labels for examples, or an option is impossible.
            BackendRunError: The backend failed.
        """
        decoding = find_decoding(self.spec, LabelDecoding, output)
        options = DecodingOptions(top_k=top_k, threshold=threshold)
        (labels,) = self._decoded(x, [decoding], options, batch_size)
        return labels

    def classify_windows(
        self,
        recording: Any,
        *,
        window: int | None = None,
        hop: int | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
    ) -> list[list[Label]]:
        """Predict the classes of each window of a long recording.

        Args:
            recording: `[time, ...]`, the steps of one recording, without a batch axis.
            window: The number of steps of a window; by default that of the bundle
                (`export(..., window=, hop=)`), or else the fixed length of the model.
            hop: The number of steps from one window to the next; by default that of the bundle, or
                else the length of a window.
            top_k: As for `classify`.
            threshold: As for `classify`.

        Returns:
            For each window its labels, with its first step in `start` and the step after its last
            one in `end`.

        Raises:
            InputError: The recording is not valid for the model, or shorter than a window.
            OptionError: No output has labels, or an option is impossible.
            BackendRunError: The backend failed.
        """
        windows, starts = sliding_windows(recording, self.spec, window, hop)
        found = self.classify(windows, top_k=top_k, threshold=threshold)
        length = windows.shape[1]
        return [
            [replace(label, start=start, end=start + length) for label in labels]
            for labels, start in zip(found, starts, strict=True)
        ]

    def tag(
        self,
        x: Values,
        *,
        marginals: bool = False,
        output: str | None = None,
        batch_size: int | None = None,
    ) -> list[list[Tag]]:
        """Predict the tag of each token, or of each step.

        The tags of a CRF are those of the best path.

        Args:
            x: The examples, as for `predict`.
            marginals: Whether the tags of a CRF have scores: the probability of the tag at its
                step, over all paths. Computing them takes about ten times as long as the path.
            output: The name of the output; needed if several outputs have tags.
            batch_size: As for `predict`.

        Returns:
            For each example the tags of its tokens, without padding.

        Raises:
            InputError: The examples are not valid for the model.
            OptionError: No output has tags.
            BackendRunError: The backend failed.
        """
        decoding = find_decoding(self.spec, TagDecoding, output)
        options = DecodingOptions(marginals=marginals)
        (tags,) = self._decoded(x, [decoding], options, batch_size)
        return tags

    def transcribe(  # noqa: PLR0913
        self,
        x: Values,
        *,
        beam_width: int | None = None,
        top_k: int | None = None,
        words: Iterable[str] | None = None,
        scorer: Scorer | None = None,
        output: str | None = None,
        batch_size: int | None = None,
    ) -> list[list[Transcription]]:
        """Predict the text of each example, for a model that was trained with a CTC loss.

        The characters come from the export: `export(..., ctc="blank=last", labels=[...])`.

        Args:
            x: The examples, as for `predict`.
            beam_width: The number of prefixes that a beam search keeps; 1 takes the best class of
                each step. By default that of the bundle, or 100 with `words` or a `scorer`.
            top_k: The largest number of texts of an example; 1 by default.
            words: The only words that texts may have, with spaces between them if one of the
                classes is a space.
            scorer: What else a beam search knows of the language, such as
                `bilstm_runtime.decoding.scorers.CharacterNgrams`.
            output: The name of the output; needed if several outputs have characters.
            batch_size: As for `predict`.

        Returns:
            For each example its texts, the best first. With words or a scorer there may be none.

        Raises:
            InputError: The examples are not valid for the model.
            OptionError: No output has characters, or an option is impossible.
            BackendRunError: The backend failed.
        """
        decoding = find_decoding(self.spec, CtcDecoding, output)
        if words is not None and scorer is not None:
            message = "words and scorer are both given; give one of them"
            raise OptionError(message)
        options = DecodingOptions(
            top_k=top_k,
            beam_width=beam_width,
            scorer=scorer if words is None else words_of(words),
        )
        (texts,) = self._decoded(x, [decoding], options, batch_size)
        return texts

    def spans(
        self, x: Values, *, output: str | None = None, batch_size: int | None = None
    ) -> list[list[Span]]:
        """Predict the spans that tags such as `B-PER`, `I-PER` and `O` form.

        Args:
            x: The examples, as for `predict`.
            output: The name of the output; needed if several outputs have tags.
            batch_size: As for `predict`.

        Returns:
            For each example its spans in the order of the text.

        Raises:
            InputError: The examples are not valid for the model.
            OptionError: No output has tags, or they form no spans.
            BackendRunError: The backend failed.
        """
        decoding = find_decoding(self.spec, TagDecoding, output)
        (spans,) = self._decoded(x, [decoding], DecodingOptions(spans=True), batch_size)
        return spans

    def decode(  # noqa: PLR0913
        self,
        x: Values,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        spans: bool = False,
        beam_width: int | None = None,
        words: Iterable[str] | None = None,
        batch_size: int | None = None,
    ) -> dict[str, list[Any]]:
        """Predict, and decode every output that has labels.

        Args:
            x: The examples, as for `predict`.
            top_k: As for `classify`.
            threshold: As for `classify`; for tags of two labels and one value also.
            spans: Whether to return spans for tags, as `spans` does.
            beam_width: As for `transcribe`.
            words: As for `transcribe`.
            batch_size: As for `predict`.

        Returns:
            By the name of the output, what `classify`, `tag`, `spans` or `transcribe` returns.

        Raises:
            InputError: The examples are not valid for the model.
            OptionError: No output has labels, or an option is impossible.
            BackendRunError: The backend failed.
        """
        check_has_decoding(self.spec)
        options = DecodingOptions(
            top_k=top_k,
            threshold=threshold,
            spans=spans,
            beam_width=beam_width,
            scorer=None if words is None else words_of(words),
        )
        found = self._decoded(x, self.spec.decoding, options, batch_size)
        names = [item.output for item in self.spec.decoding]
        return dict(zip(names, found, strict=True))

    def _decoded(
        self,
        x: Values,
        decodings: Sequence[Decoding],
        options: DecodingOptions,
        batch_size: int | None,
    ) -> list[list[Any]]:
        """Predict once; return the answers of each decoding, one for each example."""
        options.check(decodings)
        outputs = self.spec.flatten_outputs(self.predict(x, batch_size=batch_size))
        return [self._answers(x, outputs, decoding, options) for decoding in decodings]

    def answers(self, x: Values, outputs: Sequence[Output], decoding: Decoding) -> list[Any]:
        """Decode outputs that were predicted before, with the options of the bundle.

        Args:
            x: The examples, as for `predict`.
            outputs: One for each output, in the order of `outputs`.
            decoding: One of the entries of `spec.decoding`.

        Returns:
            What `classify`, `tag` or `transcribe` returns for the examples.

        Raises:
            InputError: An example cannot be decoded.
            BackendRunError: The outputs contradict the manifest.
        """
        return self._answers(x, outputs, decoding, DecodingOptions())

    def _answers(
        self, x: Values, outputs: Sequence[Output], decoding: Decoding, options: DecodingOptions
    ) -> list[Any]:
        number = next(n for n, spec in enumerate(self.outputs) if spec.name == decoding.output)
        if isinstance(decoding, LabelDecoding):
            return labels_of(np.asarray(outputs[number]), decoding, options)
        rows = list(outputs[number])
        sequences = self._sequences(x, self.outputs[number])
        if isinstance(decoding, CtcDecoding):
            return transcriptions_of(rows, sequences, decoding, options)
        rule = options.applied(decoding)
        tags = tags_of(rows, sequences, rule, marginals=options.marginals)
        if not options.spans:
            return tags
        texts = [None] * len(tags) if sequences is None else [s.text for s in sequences]
        return [spans_of(*one) for one in zip(tags, texts, strict=True)]

    def _sequences(self, x: Values, output: OutputSpec) -> list[TokenSequence] | None:
        """Return the tokens or steps of each example; None if the output has its own steps."""
        found = output.axes[1]
        for axis in (one for spec in self.inputs for one in spec.axes[1:2]):
            # The axes of an output have no names where all sizes are fixed.
            is_same = found.name == axis.name or (found.name is None and found.size == axis.size)
            if axis.name is not None and is_same and found.size == axis.size:
                return self._reader.tokens(x, axis.name)
        return None

    def run_case(self, inputs: Sequence[AnyArray]) -> list[AnyArray]:
        """Reset the model and run one case.

        Args:
            inputs: One array per input, in the order of `inputs`.

        Returns:
            One array per output, in the order of `outputs`.

        Raises:
            InputError: The arrays are not valid for the model.
            BackendRunError: The backend failed.
        """
        self.reset()
        names = [spec.name for spec in self.inputs]
        outputs = self.predict(dict(zip(names, inputs, strict=True)))
        return self.spec.flatten_outputs(outputs)


def _state(value: Any, spec: StateSpec) -> AnyArray:
    """Return a state that the caller gives, in its dtype; raises `InputError`."""
    label, shape = f"state {spec.name!r}", [axis.size for axis in spec.axes]
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        message = f"{label} cannot be read as an array ({error})"
        raise InputTypeError(message) from error
    if list(array.shape) != shape:
        message = f"{label} has the shape {list(array.shape)}; expected {shape}"
        raise InputError(message)
    return ValueRule(InputSpec(spec.name, spec.dtype, spec.axes)).convert(array, label)


class RecordingSession:
    """A `Session` that records copies of the arrays it is given.

    Attributes:
        runs: For each run, one array per file input.
    """

    def __init__(self, session: Session) -> None:
        """Forward all runs to this session."""
        self._session = session
        self.runs: list[list[AnyArray]] = []

    def run(self, arrays: Sequence[AnyArray]) -> list[Any]:
        """Record copies of the arrays and run; see `Session.run`."""
        self.runs.append([array.copy() for array in arrays])
        return self._session.run(arrays)


class _StateSession:
    """A `Session` whose last outputs become the last inputs of its next run.

    The model files of a stateful Keras model have its states as inputs and outputs; this session
    makes the model stateful again. Like a stateful Keras model, it is not thread-safe.

    Attributes:
        states: The current states, one array each.
    """

    states: list[AnyArray]

    def __init__(self, session: Session, states: Sequence[StateSpec]) -> None:
        """Start from zeros.

        Args:
            session: An open model whose last inputs and outputs are the states.
            states: Their names, dtypes and shapes.
        """
        self._session = session
        self._specs = tuple(states)
        self.reset()

    def reset(self) -> None:
        """Set all states to zeros, as when the model was loaded."""
        self.states = [
            np.zeros([axis.size or 1 for axis in spec.axes], spec.dtype) for spec in self._specs
        ]

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once and keep its states; see `Session.run`."""
        outputs = self._session.run([*arrays, *self.states])
        count = len(outputs) - len(self._specs)
        self.states = outputs[count:]
        return outputs[:count]
