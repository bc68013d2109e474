"""Keras's answers on the data, and with them an opinion on any artifact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.evaluation.dataset import Dataset, dataset_of_probes
from bilstm_exporter.evaluation.evaluator import Judge, Verdict
from bilstm_exporter.evaluation.predictions import ask, keras_answers
from bilstm_exporter.evaluation.task import parse_metrics
from bilstm_exporter.inspection.prepared import Prepared
from bilstm_exporter.progress import Stages
from bilstm_runtime.bundle.manifest import Manifest
from bilstm_runtime.model import Model
from bilstm_runtime.spec import Axis


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

    def of(self, model: Model) -> Verdict:
        """Judge an artifact."""
        return self.judge.compare(ask(model, self.dataset))

    @property
    def drop_unit(self) -> str:
        """What a drop is counted in."""
        return "points" if self.judge.resolution else "%"


def form_opinion(
    prepared: Prepared, manifest: Manifest, data: Any, metric: str | None, stages: Stages
) -> Opinion:
    """Read the data and let Keras answer it.

    Args:
        prepared: The model.
        manifest: What it takes and answers.
        data: As `read_data` takes it; None stands for the probes.
        metric: As `parse_metrics` takes it.
        stages: Told what is done.

    Raises:
        DataError: The data cannot be used.
        OptionError: A metric is unknown.
    """
    metrics = parse_metrics(metric, [spec.name for spec in manifest.outputs])
    with stages.stage("reading the data"):
        if data is None:
            dataset = dataset_of_probes(prepared.probes.probes, manifest)
        else:
            dataset = read_data(data, manifest)
    with stages.stage("asking Keras about the data"):
        answers = keras_answers(prepared.source, _of_any_batch(prepared, manifest), dataset)
    judge = Judge(manifest, dataset, answers, metrics)
    return Opinion(dataset, judge, data is not None)


def _of_any_batch(prepared: Prepared, manifest: Manifest) -> Manifest:
    """Keras answers many examples at once also where the artifacts take a fixed number."""
    if manifest.states or any(declared.shape[0] for declared in prepared.source.inputs):
        return manifest
    free = Axis(manifest.batch.name, None)
    spec = replace(
        manifest.spec,
        inputs=tuple(replace(one, axes=(free, *one.axes[1:])) for one in manifest.inputs),
        outputs=tuple(replace(one, axes=(free, *one.axes[1:])) for one in manifest.outputs),
    )
    return replace(manifest, spec=spec)
