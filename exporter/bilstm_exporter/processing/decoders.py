"""The options --crf and --ctc: reads them and describes the decoders of a model's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm_exporter.errors import OptionError
from bilstm_exporter.processing.labels import Labels, Names
from bilstm_runtime.decoding.tags import scheme_of
from bilstm_runtime.decoding_spec import (
    MAX_BEAM,
    MAX_CRF_TAGS,
    CrfWeights,
    CtcDecoding,
    TagDecoding,
)
from bilstm_runtime.spec import ModelSpec, OutputSpec

_LOWEST = float(np.finfo(np.float32).min)
_SUM_ERROR = 1e-3
"""The largest difference of a sum of probabilities from 1: float32 sums of some thousand values."""

_CRF_HELP = "--crf transitions=LAYER[/WEIGHT][,start=LAYER/WEIGHT][,end=LAYER/WEIGHT][,constrain]"
_CTC_HELP = "--ctc blank=last or --ctc blank=0, and ,beam=N for a beam search"


@dataclass(frozen=True)
class CrfOption:
    """The weights of a CRF, by the names of their layers.

    Attributes:
        transitions: ``LAYER``, or ``LAYER/WEIGHT``.
        start: The same, or None.
        end: The same, or None.
        constrain: Whether paths that break the scheme of the tags are excluded.
    """

    transitions: str
    start: str | None = None
    end: str | None = None
    constrain: bool = False


@dataclass(frozen=True)
class CtcOption:
    """How the outputs of a CTC model become text.

    Attributes:
        blank: The number of the blank; -1 for the last class.
        beam: The number of prefixes of a beam search; 1 for greedy decoding.
    """

    blank: int
    beam: int = 1


def parse_crf(text: str) -> CrfOption:
    """Read the option ``--crf``.

    Raises:
        OptionError: It is not as described in the help.
    """
    items = _items(text, ("transitions", "start", "end"), ("constrain",), "crf", _CRF_HELP)
    if "transitions" not in items:
        message = f"crf: {text!r} names no transitions; write {_CRF_HELP}"
        raise OptionError(message)
    return CrfOption(
        items["transitions"], items.get("start"), items.get("end"), "constrain" in items
    )


def parse_ctc(text: str) -> CtcOption:
    """Read the option ``--ctc``.

    Raises:
        OptionError: It is not as described in the help.
    """
    items = _items(text, ("blank", "beam"), (), "ctc", _CTC_HELP)
    blank, beam = items.get("blank", "last"), items.get("beam", "1")
    if blank != "last" and not blank.isdecimal():
        message = f"ctc: blank={blank}; it is the number of the blank, or last. Write {_CTC_HELP}"
        raise OptionError(message)
    if not beam.isdecimal() or not 1 <= int(beam) <= MAX_BEAM:
        message = f"ctc: beam={beam}; it is a whole number from 1 to {MAX_BEAM}"
        raise OptionError(message)
    return CtcOption(-1 if blank == "last" else int(blank), int(beam))


def _items(
    text: str, keys: Sequence[str], flags: Sequence[str], option: str, usage: str
) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in text.split(","):
        key, equals, value = (part.strip() for part in item.partition("="))
        known = key in keys and equals and value
        if (not known and (key not in flags or equals)) or key in found:
            message = f"{option}: {item.strip()!r} cannot be read; write {usage}"
            raise OptionError(message)
        found[key] = value
    return found


def crf_decoding(
    option: CrfOption,
    labels: Labels | None,
    spec: ModelSpec,
    weights: Mapping[str, np.ndarray],
) -> TagDecoding:
    """Describe the decoding of an output by a CRF.

    Args:
        option: Where its weights are.
        labels: The names of the tags; their numbers by default.
        spec: The model.
        weights: Every weight of the whole model by ``LAYER/WEIGHT``.

    Raises:
        OptionError: A weight is missing or has a wrong shape, or no output has its tags.
    """
    transitions = _weight(option.transitions, 2, weights, "transitions")
    tags = len(transitions)
    if transitions.shape != (tags, tags):
        message = (
            f"crf: the transitions {option.transitions!r} have the shape "
            f"{list(transitions.shape)}; expected [tags, tags]"
        )
        raise OptionError(message)
    if tags > MAX_CRF_TAGS:
        message = f"crf: the transitions have {tags} tags; at most {MAX_CRF_TAGS} are supported"
        raise OptionError(message)
    ends = {}
    for name in ("start", "end"):
        place = getattr(option, name)
        if place is None:
            continue
        values = _weight(place, 1, weights, name)
        if values.shape != (tags,):
            message = (
                f"crf: {name}={place} has the shape {list(values.shape)}; expected [{tags}], one "
                f"value for each tag of the transitions"
            )
            raise OptionError(message)
        ends[name] = values
    output, names = _output_of(labels, tags, spec, "crf", f"transitions of {tags} tags")
    names = names or tuple(map(str, range(tags)))
    if len(names) != tags:
        message = (
            f"crf: there are {len(names)} labels, and the transitions have {tags} tags; give one "
            f"label for each tag"
        )
        raise OptionError(message)
    scheme = scheme_of(names)
    if option.constrain and scheme is None:
        message = (
            "crf: constrain needs labels such as B-PER, I-PER and O, whose order it checks; give "
            "them with --labels"
        )
        raise OptionError(message)
    crf = CrfWeights(
        transitions=tuple(_numbers(row, option.transitions) for row in transitions),
        start=_numbers(ends["start"], str(option.start)) if "start" in ends else None,
        end=_numbers(ends["end"], str(option.end)) if "end" in ends else None,
        constrained=option.constrain,
    )
    return TagDecoding(output=output.name, labels=names, scheme=scheme, crf=crf)


def _weight(place: str, rank: int, weights: Mapping[str, np.ndarray], what: str) -> np.ndarray:
    """Find a weight by ``LAYER/WEIGHT``, or by ``LAYER`` if one of its weights has the rank."""
    ranked = {
        name: value
        for name, value in weights.items()
        if value.ndim == rank and len(set(value.shape)) == 1  # transitions are square
    }
    found = [name for name in weights if name == place or name.endswith(f"/{place}")]
    found = found or [
        name for name in ranked if f"/{name}".rpartition("/")[0].endswith(f"/{place}")
    ]
    if len(found) == 1:
        return np.asarray(weights[found[0]])
    problem = f"is not one weight: {', '.join(found)}" if found else "is not a weight of the model"
    advice = "name one as LAYER/WEIGHT"
    if not found:
        shown = ", ".join(list(ranked)[:20])
        advice = f"{advice}, such as: {shown}" if shown else "it has none of a fitting shape"
    message = f"crf: {what}={place} {problem}; {advice}"
    raise OptionError(message)


def _numbers(values: np.ndarray, name: str) -> tuple[float, ...]:
    """Return the shortest decimal numbers that are these float32 values; -inf as the lowest."""
    single = np.asarray(values, np.float32)
    single = np.where(np.isneginf(single), np.float32(_LOWEST), single)
    if not np.isfinite(single).all():
        message = f"crf: {name} holds a value that is NaN or infinite; train the model again"
        raise OptionError(message)
    return tuple(float(str(value)) for value in single)


def ctc_decoding(
    option: CtcOption,
    labels: Labels | None,
    spec: ModelSpec,
    outputs: Sequence[Sequence[np.ndarray]],
) -> CtcDecoding:
    """Describe the decoding of an output by CTC.

    Args:
        option: Where the blank is, and the width of the beam.
        labels: The characters of the classes, with or without one for the blank.
        spec: The model.
        outputs: For each output, its values in calls of Keras.

    Raises:
        OptionError: There are no labels, or they do not fit an output.
    """
    if labels is None:
        message = (
            "ctc: it needs the characters of the classes, in their order and without the blank; "
            "give them with --labels"
        )
        raise OptionError(message)
    given = labels if not isinstance(labels, Mapping) else next(iter(labels.values()))
    output, names = _output_of(labels, None, spec, "ctc", f"{len(given)} labels and the blank")
    names = names or given
    classes = int(output.axes[2].size or 0)
    blank = classes - 1 if option.blank < 0 else option.blank
    if blank >= classes or len(names) not in (classes, classes - 1):
        message = (
            f"ctc: there are {len(names)} labels, blank={blank}, and the output {output.name!r} "
            f"has {classes} classes; give {classes - 1} labels, without the blank"
        )
        raise OptionError(message)
    if len(names) == classes:
        names = (*names[:blank], "", *names[blank + 1 :])
    else:
        names = (*names[:blank], "", *names[blank:])
    values = outputs[[one.name for one in spec.outputs].index(output.name)]
    activation = None if _are_probabilities(values) else "softmax"
    return CtcDecoding(
        output=output.name,
        labels=names,
        blank=blank,
        activation=activation,
        beam_width=option.beam,
    )


def _are_probabilities(values: Sequence[np.ndarray]) -> bool:
    for array in values:
        rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
        rows = rows[np.isfinite(rows).all(axis=-1) & rows.any(axis=-1)]
        if (rows < 0).any() or (np.abs(rows.sum(axis=-1) - 1) > _SUM_ERROR).any():
            return False
    return True


def _output_of(
    labels: Labels | None, classes: int | None, spec: ModelSpec, option: str, what: str
) -> tuple[OutputSpec, Names | None]:
    """Find the output that a decoder reads, and the names that are given for it."""
    if isinstance(labels, Mapping) and len(labels) != 1:
        message = f"{option}: give the labels of one output, that of the decoder"
        raise OptionError(message)
    (name, names) = next(iter(labels.items())) if isinstance(labels, Mapping) else (None, labels)
    fitting = [
        one
        for one in spec.outputs
        if one.has_rows
        and len(one.axes) == 3
        and np.dtype(one.dtype).kind == "f"
        and one.axes[2].size is not None
        and classes in (None, one.axes[2].size)
        and name in (None, one.name)
    ]
    if len(fitting) > 1 and names is not None:
        sizes = (len(names), len(names) + 1) if option == "ctc" else (len(names),)
        fitting = [one for one in fitting if one.axes[2].size in sizes] or fitting
    if len(fitting) == 1:
        return fitting[0], names
    shown = "; ".join(_described(one) for one in spec.outputs)
    problem = "several outputs fit" if fitting else "no output fits"
    advice = (
        'give the labels by output in a JSON file: {"output": ["name", ...]}'
        if fitting
        else "export the layer whose output is [batch, time, classes] with --outputs LAYER"
    )
    message = f"{option}: {problem} {what}: {shown}; {advice}"
    raise OptionError(message)


def _described(output: OutputSpec) -> str:
    sizes = ", ".join(str(axis.size or axis.name or "?") for axis in output.axes)
    return f"{output.name!r} is [{sizes}] {output.dtype}"


def check_alone(crf: Any, ctc: Any, threshold: float | None) -> None:
    """Check that options do not contradict each other.

    Raises:
        OptionError: They do.
    """
    if crf is not None and ctc is not None:
        message = "crf and ctc are both given; an output has one decoder"
        raise OptionError(message)
    if threshold is not None and (crf is not None or ctc is not None):
        message = "threshold: a path of tags or characters has none; leave it out"
        raise OptionError(message)
