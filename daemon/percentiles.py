"""What the stages' histograms say in a few numbers."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.samples import Sample

from pipeline.stages import Stages

Label = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Of one stage since the start, by its label if it has one. Percentiles are read off the buckets between which
    they lie."""

    name: str
    labels: Mapping[str, str]
    count: int
    mean_s: float
    p50_s: float
    p95_s: float


def figures(stages: Stages) -> tuple[StageFigures, ...]:
    """Of every stage that was gone through at least once."""
    return tuple(each for metric in stages.registry.collect() for each in _figures(metric))


def _figures(metric: Metric) -> Iterator[StageFigures]:
    by_label: dict[Label, list[Sample]] = {}
    for sample in metric.samples:
        label = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        by_label.setdefault(label, []).append(sample)
    for label, samples in by_label.items():
        value_of = {sample.name.removeprefix(metric.name): sample.value for sample in samples}
        if count := int(value_of["_count"]):
            buckets = [(float(one.labels["le"]), one.value) for one in samples if one.name.endswith("_bucket")]
            p50_s, p95_s = (_percentile(buckets, share * count) for share in (0.5, 0.95))
            yield StageFigures(metric.name, dict(label), count, value_of["_sum"] / count, p50_s, p95_s)


def _percentile(buckets: Iterable[tuple[float, float]], rank: float) -> float:
    """`buckets` are (upper bound, how many up to there). Beyond the last bound nothing is known but that bound."""
    low_s, below = 0.0, 0.0
    for high_s, up_to in buckets:
        if up_to >= rank and up_to > below:
            return low_s if high_s == float("inf") else low_s + (high_s - low_s) * (rank - below) / (up_to - below)
        low_s, below = high_s, up_to
    return low_s
