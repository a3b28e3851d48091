"""How one step of the comparison went."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(slots=True)
class Comparison:
    """One step of the comparison."""

    name: str
    worst: float = 0.0
    share: float = 0.0
    """Of what the tolerance allows."""
    where: str = ""
    compared: int = 0
    problems: list[str] = field(default_factory=list)

    def close(self, where: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
        self.compared += 1
        if ours.shape != theirs.shape:
            self.problems.append(f"{where}: shape {list(ours.shape)}, expected {list(theirs.shape)}")
            return
        worst = float((ours.double() - theirs.double()).abs().max()) if ours.numel() else 0.0
        if not worst <= self.worst:
            self.worst, self.where = worst, where
        self.share = max(self.share, worst / tolerance)
        if not worst <= tolerance:
            self.problems.append(f"{where}: differs by {worst:.3g}, allowed is {tolerance:g}")

    def same(self, where: str, ours: object, theirs: object) -> None:
        self.compared += 1
        if ours != theirs:
            self.problems.append(f"{where}: {ours!r}, expected {theirs!r}")

    def line(self) -> str:
        worst = f"largest difference {self.worst:.2g} ({self.share:.0%} of what is allowed; {self.where})"
        return f"{self.name}: {self.compared} compared, {worst if self.where else 'all discrete'}"
