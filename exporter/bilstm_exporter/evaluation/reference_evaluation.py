"""Keras's answers on the data, and with them an opinion on any artifact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.evaluation.dataset import Dataset, dataset_of_probes
from bilstm_exporter.evaluation.evaluator import Judge, Verdict
from bilstm_exporter.evaluation.predictions import ask, keras_answers
from bilstm_exporter.evaluation.task import parse_metrics
from bilstm_exporter.inspection.probes import ProbeSet
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.progress import Stages
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.spec import Axis, ModelSpec


@dataclass(frozen=True)
class Opinion:
    """What artifacts are judged by.

    Attributes:
        dataset: What is asked.
        judge: Keras's answers to it.
        on_data: Whether the examples are the user's own, or else those of the probes.
    """

    dataset: Dataset
    judge: Judge
    on_data: bool

    def of(self, model: Predictor) -> Verdict:
        """Judge an artifact."""
        return self.judge.compare(ask(model, self.dataset))

    @property
    def drop_unit(self) -> str:
        """What a drop is counted in."""
        return "points" if self.judge.resolution else "%"


def form_opinion(
    loaded: LoadedModel, probes: ProbeSet, data: Any, metric: str | None, stages: Stages
) -> Opinion:
    """Read the data and call Keras on it.

    Raises:
        DataError: The data cannot be used.
        OptionError: A metric is unknown.
    """
    spec = loaded.spec
    metrics = parse_metrics(metric, [output.name for output in spec.outputs])
    with stages.stage("reading the data"):
        dataset = dataset_of_probes(probes.probes, spec) if data is None else read_data(data, spec)
    with stages.stage("calling Keras on the data"):
        answers = keras_answers(loaded.keras, _of_any_batch(loaded), dataset)
    judge = Judge(spec, dataset, answers, metrics)
    return Opinion(dataset, judge, data is not None)


def _of_any_batch(loaded: LoadedModel) -> ModelSpec:
    """Keras takes many examples at once also where the artifacts take a fixed number."""
    spec = loaded.spec
    if spec.states or any(declared.shape[0] for declared in loaded.keras.inputs):
        return spec
    free = Axis(spec.batch.name, None)
    return replace(
        spec,
        inputs=tuple(replace(one, axes=(free, *one.axes[1:])) for one in spec.inputs),
        outputs=tuple(replace(one, axes=(free, *one.axes[1:])) for one in spec.outputs),
    )
