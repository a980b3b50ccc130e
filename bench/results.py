"""What was measured, as it is kept in a file between the measurement and the report."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(slots=True)
class Results:
    """Everything of one run.

    Attributes:
        about: the run in words, such as versions.
        samples: of the consume rates, see `consume.Sample`.
        figures: everything else by name, each a list of repetitions.
    """

    about: dict[str, str] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        """Write all into a file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote."""
        return cls(**json.loads(file.read_text()))

    def of(self, system: str, **cell: Any) -> Iterator[dict[str, Any]]:
        """The samples of a system in a cell."""
        wanted = {"system": system, **cell}
        return (one for one in self.samples if all(one[key] == value for key, value in wanted.items()))

    def ratios(self, system: str, other: str, **cell: Any) -> list[float]:
        """The rate of one against the other's in the same window of a cell."""
        others = {(one["round"], one["window"]): one["rate"] for one in self.of(other, **cell)}
        turns = ((one["rate"], others.get((one["round"], one["window"]))) for one in self.of(system, **cell))
        return [rate / other for rate, other in turns if other is not None]

    def median(self, name: str) -> float | None:
        """The median of a figure; None when it was not measured."""
        return statistics.median(self.figures[name]) if self.figures.get(name) else None


def row(*words: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(words)} |"
