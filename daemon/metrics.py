"""What Prometheus reads: the counters of a snapshot and the stages' histograms, as text."""

from collections.abc import Iterator

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon.series import SERIES, Series
from daemon.snapshot import Snapshot
from pipeline.stages import STAGES, Stages

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(now: Snapshot, stages: Stages) -> bytes:
    return generate_latest(_Metrics(now, stages))


class _Metrics(Collector):
    def __init__(self, now: Snapshot, stages: Stages) -> None:
        self._now = now
        self._stages = stages

    def collect(self) -> Iterator[Metric]:
        for series in SERIES:
            yield _family(series, self._now)
        for histogram in self._stages.registry.collect():
            histogram.samples = [sample for sample in histogram.samples if not sample.name.endswith("_created")]
            yield histogram


def _family(series: Series, now: Snapshot) -> Metric:
    make = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    family = make(series.name, series.meaning, labels=series.reading.labels)
    for labels, value in series.reading.values(now):
        family.add_metric(labels, float(value))
    return family


def table() -> str:
    """Every series for a person, as README has it."""
    rows = [_row(series.name, series.kind, series.reading.labels, series.meaning) for series in SERIES]
    rows += [_row(stage.name, "histogram", stage.labels, stage.meaning) for stage in STAGES]
    return "\n".join(["| series | type | labels | meaning |", "|---|---|---|---|", *rows])


def _row(name: str, kind: str, labels: tuple[str, ...], meaning: str) -> str:
    return f"| `{name}` | {kind} | {', '.join(labels)} | {meaning} |"
