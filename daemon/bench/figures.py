"""A measured figure, and the table of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` in `unit` against `bound`; `at_most` says on which side of the bound it should lie."""

    name: str
    value: float
    unit: str
    bound: float | None
    at_most: bool
    detail: str

    @property
    def reached(self) -> bool | None:
        if self.bound is None:
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"reached": self.reached}


def at_least(name: str, value: float, bound: float | None, detail: str, unit: str = "ratio") -> Figure:
    return Figure(name, round(value, 3), unit, bound, False, detail)


def at_most(name: str, value: float, bound: float | None, detail: str, unit: str = "ratio") -> Figure:
    return Figure(name, round(value, 3), unit, bound, True, detail)


def in_turn(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Each measure `rounds` times, in turn, so that a machine that changes its speed changes it for all."""
    results: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for measure, values in zip(measures, results, strict=True):
            values.append(measure())
    return results


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of neighbouring runs."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def print_table(figures: Sequence[Figure]) -> None:
    table = Table(title="lva bench")
    for title in ("what", "measured", "wanted", "reached", "how"):
        table.add_column(title, justify="right" if title in ("measured", "wanted") else "left")
    for figure in figures:
        sign = "≤" if figure.at_most else "≥"
        wanted = f"{sign} {figure.bound:g}" if figure.bound is not None else ""
        reached = {True: "[green]yes", False: "[red]no", None: ""}[figure.reached]
        table.add_row(figure.name, f"{figure.value:g} {figure.unit}", wanted, reached, figure.detail)
    Console().print(table)
