"""The options of an export."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from bilstm_exporter.errors import OptionError
from bilstm_exporter.evaluation.selection import parse_budget
from bilstm_exporter.evaluation.task import check_metrics
from bilstm_exporter.processing.decoders import check_alone, parse_crf, parse_ctc
from bilstm_exporter.processing.labels import read_labels
from bilstm_exporter.processing.tokenizers import read_tokenizers
from bilstm_exporter.profiles import Profile, default_profiles, parse_targets
from bilstm_exporter.quantization.recipes import ALL, FLOAT32, RECIPES, parse_recipes
from bilstm_exporter.targets.registry import TARGETS, default_formats
from bilstm_runtime.preprocessing_spec import MAX_STEPS, SIDES

# From opset 13, in which Squeeze and ReduceSum take their axes as inputs, to the last that
# tf2onnx writes.
OPSETS = range(13, 19)
DEFAULT_OPSET = 18
# The largest size of a fixed axis: Keras runs the probes at this size, step by step.
MAX_SIZE = 100_000
# Far above any sound card's rate.
MAX_SAMPLE_RATE = 10_000_000


class ExportSettings(TypedDict, total=False):
    """The keyword arguments of `bilstm_exporter.export`; see `ExportOptions`."""

    formats: Sequence[str] | str
    target: Sequence[str] | str | None
    recipes: Sequence[str] | str
    data: Any
    metric: str | None
    max_drop: str | float | None
    max_kb: str | float | None
    max_ms: str | float | None
    batch: int | None
    time: int | None
    opset: int
    custom_objects: Mapping[str, Any]
    trust_code: bool
    weights: str | os.PathLike[str] | None
    builder: str | None
    outputs: Sequence[str] | str | None
    labels: Any
    threshold: float | None
    crf: str | None
    ctc: str | None
    sample_rate: int | None
    window: int | None
    hop: int | None
    tokenizer: Any
    max_tokens: int | None
    padding: str | None
    truncating: str | None
    streaming: bool
    chunk: int | None
    lookahead: int | None
    overwrite: bool


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export, checked.

    Attributes:
        formats: Which artifacts to write: a sequence of names, or one string with commas.
        target: The runtimes to write the artifacts for: a sequence of names, or one string with
            commas. Every artifact is then run in each of them, or compared with its table of
            operators. By default those of the formats, onnxruntime and LiteRT.
        recipes: How the numbers of the artifacts are stored: a sequence of names, one string
            with commas, or ``"all"``.
        data: Examples to evaluate the artifacts on, and to calibrate with: a file (.npz, .npy,
            .csv, .jsonl) or arrays; see ``bilstm_exporter.evaluation.data.read_data``.
        metric: The metric, such as ``"f1"`` or ``"tags=f1,score=mae"``; chosen from the
            outputs and labels by default.
        max_drop: The largest drop of the metric, such as ``"0.5%"``. Any of the three limits
            starts a search over the recipes and mixes of them.
        max_kb: The largest file, such as ``"800"`` or ``"1.5mb"``.
        max_ms: The longest median time for one example on this machine, such as ``"5"``.
        batch: Fix the batch axis at this size; free by default.
        time: Fix the time axes at this size; free by default.
        opset: The ONNX opset.
        custom_objects: Layers and functions that the model file names, by name.
        trust_code: Whether Python code inside the model file may run.
        weights: A file of weights, for an architecture in JSON or a builder.
        builder: ``module:function``, which builds the model; then no model file is given.
        outputs: The layers whose outputs are exported, instead of those of the model: a sequence
            of names, or one string with commas. ``"encoder/lstm"`` is a layer of a submodel.
        labels: The name of each class, for ``Model.classify`` and ``Model.tag`` on the device: a
            list, a file with one name per line or of JSON, an object with ``classes_`` such as
            scikit-learn's LabelEncoder, or a dict of lists by output.
        threshold: The lowest score, from 0 to 1, of a class that an example belongs to: for one
            value between two classes, and for classes that are not exclusive. Given for logits,
            their scores are those of a sigmoid. 0.5 by default, where there is any.
        crf: ``"transitions=LAYER[/WEIGHT][,start=LAYER/WEIGHT][,end=LAYER/WEIGHT][,constrain]"``:
            the weights of a CRF over an output, whose best path ``Model.tag`` then returns.
            ``constrain`` excludes paths in which tags such as ``B-PER`` and ``I-PER`` do not
            follow each other.
        ctc: ``"blank=last"`` or ``"blank=0"``, and ``",beam=N"`` for a beam search: an output
            holds the characters of a text with blanks; ``labels`` are the characters.
            ``Model.transcribe`` then returns texts.
        sample_rate: The number of samples per second of the sound that the model takes, so that
            ``run-bilstm`` takes WAV files; by default that of a MelSpectrogram layer.
        window: The number of steps of the windows into which ``run-bilstm`` and
            ``Model.classify_windows`` cut a recording that is longer; the fixed length of the model
            if only ``hop`` is given.
        hop: The number of steps from the start of one window to that of the next; by default the
            length of a window.
        tokenizer: How text becomes the ids that the model takes: a file (``tokenizer.json``, the
            ``to_json()`` of Keras's ``Tokenizer``, an object of ids by token, or one token per
            line), such an object in Python, or a dict of these by input.
        max_tokens: The number of ids of a text; by default that of the model, or as many as there
            are.
        padding: The side on which fewer ids are padded, ``"pre"`` or ``"post"``, as in Keras's
            ``pad_sequences``; by default ``"pre"`` as there, or that of the ``tokenizer.json``.
        truncating: The side on which more ids are cut, in the same way.
        streaming: Whether stream files are written, which compute a sequence chunk by chunk.
        chunk: How many steps a stream computes at once by default; 40 if not given. With 1, the
            files of a model without backward layers take exactly one step.
        lookahead: How many steps after a chunk its outputs may depend on by default; 20 if not
            given, or the smallest within ``max_drop``.
        overwrite: Whether an existing bundle may be replaced.

    Raises:
        OptionError: A value cannot be used.
    """

    formats: Sequence[str] | str = default_formats()
    target: Sequence[str] | str | None = None
    recipes: Sequence[str] | str = FLOAT32
    data: Any = None
    metric: str | None = None
    max_drop: str | float | None = None
    max_kb: str | float | None = None
    max_ms: str | float | None = None
    batch: int | None = None
    time: int | None = None
    opset: int = DEFAULT_OPSET
    custom_objects: Mapping[str, Any] = field(default_factory=dict)
    trust_code: bool = False
    weights: str | os.PathLike[str] | None = None
    builder: str | None = None
    outputs: Sequence[str] | str | None = None
    labels: Any = None
    threshold: float | None = None
    crf: str | None = None
    ctc: str | None = None
    sample_rate: int | None = None
    window: int | None = None
    hop: int | None = None
    tokenizer: Any = None
    max_tokens: int | None = None
    padding: str | None = None
    truncating: str | None = None
    streaming: bool = False
    chunk: int | None = None
    lookahead: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the values, as far as that is possible without a model."""
        if isinstance(self.formats, str):
            names = [name.strip() for name in self.formats.split(",")]
            object.__setattr__(self, "formats", tuple(name for name in names if name))
        unknown = [name for name in self.formats if name not in TARGETS]
        if unknown or not self.formats:
            message = (
                f"formats: {', '.join(unknown) or 'none given'}; choose from {', '.join(TARGETS)}"
            )
            raise OptionError(message)
        if len(set(self.formats)) < len(self.formats):
            message = f"formats: {', '.join(self.formats)} contains a format twice"
            raise OptionError(message)
        self._check_target()
        self._check_reading()
        budget = parse_budget(self.max_drop, self.max_kb, self.max_ms)
        if self.recipes == FLOAT32 and not budget.is_unlimited:
            object.__setattr__(self, "recipes", ALL)  # a limit needs recipes to choose from
        parse_recipes(self.recipes)
        self._check_labels()
        self._check_decoders()
        self._check_tokenizer()
        check_metrics(self.metric)
        if self.metric is not None and self.data is None:
            message = f"metric: {self.metric!r} needs examples with labels; give them with --data"
            raise OptionError(message)
        for name in ("batch", "time"):
            size = getattr(self, name)
            if size is not None and not 1 <= size <= MAX_SIZE:
                message = f"{name}: {size}; it must be at least 1 and at most {MAX_SIZE}"
                raise OptionError(message)
        self._check_streaming()
        if self.opset not in OPSETS:
            message = f"opset: {self.opset}; supported are {OPSETS.start} to {OPSETS.stop - 1}"
            raise OptionError(message)

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The runtimes that the artifacts are written for."""
        if self.target is None:
            return default_profiles(self.formats)
        return parse_targets(self.target)

    def _check_reading(self) -> None:
        """Check how the model is read, and which part of it."""
        if not isinstance(self.custom_objects, Mapping) or not all(
            isinstance(name, str) for name in self.custom_objects
        ):
            message = (
                f"custom_objects: {self.custom_objects!r:.60}; give a dict of classes and functions"
                f' by their names, such as {{"MyLayer": MyLayer}}'
            )
            raise OptionError(message)
        if isinstance(self.outputs, str):
            layers = tuple(name.strip() for name in self.outputs.split(",") if name.strip())
            object.__setattr__(self, "outputs", layers)
        if self.outputs is not None and (
            not self.outputs or len(set(self.outputs)) < len(self.outputs)
        ):
            message = "outputs: give the names of one or more layers, each once"
            raise OptionError(message)

    def _check_labels(self) -> None:
        if self.labels is not None:
            object.__setattr__(self, "labels", read_labels(self.labels))
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            message = f"threshold: {self.threshold}; it must be a score from 0 to 1"
            raise OptionError(message)
        if self.threshold is not None and self.labels is None:
            message = "threshold: it applies to labels; give their names with --labels"
            raise OptionError(message)

    def _check_decoders(self) -> None:
        if self.sample_rate is not None and not 1 <= self.sample_rate <= MAX_SAMPLE_RATE:
            message = (
                f"sample_rate: {self.sample_rate}; it is the number of samples per second, from 1 "
                f"to {MAX_SAMPLE_RATE}"
            )
            raise OptionError(message)
        for name in ("window", "hop"):
            steps = getattr(self, name)
            if steps is not None and not 1 <= steps <= MAX_STEPS:
                message = f"{name}: {steps}; it is a number of steps, from 1 to {MAX_STEPS}"
                raise OptionError(message)
        check_alone(self.crf, self.ctc, self.threshold)
        if self.crf is not None:
            parse_crf(self.crf)
        if self.ctc is not None:
            parse_ctc(self.ctc)

    def _check_tokenizer(self) -> None:
        for name in ("padding", "truncating"):
            if getattr(self, name) not in (None, *SIDES):
                message = f"{name}: {getattr(self, name)!r}; choose from {', '.join(SIDES)}"
                raise OptionError(message)
        if self.max_tokens is not None and not 1 <= self.max_tokens <= MAX_SIZE:
            message = f"max_tokens: {self.max_tokens}; it must be at least 1 and at most {MAX_SIZE}"
            raise OptionError(message)
        if self.tokenizer is not None:
            object.__setattr__(self, "tokenizer", read_tokenizers(self.tokenizer))
        elif (self.max_tokens, self.padding, self.truncating) != (None, None, None):
            message = "max_tokens, padding, truncating: they apply to a tokenizer; give --tokenizer"
            raise OptionError(message)

    def _check_target(self) -> None:
        """Take the formats, and fixed axes that the user leaves open, from the target."""
        if self.target is None:
            return
        profiles = parse_targets(self.target)
        object.__setattr__(self, "target", tuple(profile.name for profile in profiles))
        needed = tuple(name for name in TARGETS if name in {one.format for one in profiles})
        if tuple(self.formats) == default_formats():
            object.__setattr__(self, "formats", needed)
        for profile in profiles:
            if profile.format not in self.formats:
                message = (
                    f"target: {profile.name} runs {profile.format} files, and formats is "
                    f"{', '.join(self.formats)}; leave formats out, or add {profile.format}"
                )
                raise OptionError(message)
        without = [name for name in self.formats if name not in needed]
        if without:
            message = (
                f"formats: no target runs {', '.join(without)}; leave formats out, or add a "
                f"target of that format"
            )
            raise OptionError(message)
        default_recipes = {name for one in profiles for name in one.default_recipes}
        if self.recipes == FLOAT32 and self.data is not None and default_recipes:
            recipes = tuple(name for name in RECIPES if name in default_recipes)
            object.__setattr__(self, "recipes", recipes)
        for profile in profiles:
            for axis, size in profile.fixed.items():
                if getattr(self, axis) is None and size is not None:
                    object.__setattr__(self, axis, size)

    def _check_streaming(self) -> None:
        for name, low in (("chunk", 1), ("lookahead", 0)):
            steps = getattr(self, name)
            if steps is not None and not self.streaming:
                message = f"{name}: it is for stream files; add --streaming"
                raise OptionError(message)
            if steps is not None and not low <= steps <= MAX_SIZE:
                message = f"{name}: {steps}; it must be at least {low} and at most {MAX_SIZE}"
                raise OptionError(message)
