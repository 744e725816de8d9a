"""How good a model is: its metrics beside its baselines on later data, with the noise of the difference."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from matplotlib.figure import Figure

__all__ = ["Evaluation", "Interval"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval around an estimate."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model judged on data later than anything it saw."""

    model: str
    headline: str
    """The metric the model is judged by; a larger value is better."""
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    """Metrics of each simpler way, fitted on the same data and judged on the same rows."""
    gains: dict[str, Interval]
    """Headline of the model minus that of a baseline, by baseline; resampled by person, paired."""
    rows: int
    """People (or rows) it was judged on."""
    notes: tuple[str, ...] = ()
    """What a reader must know to judge the figures."""
    plots: dict[str, Figure] = field(default_factory=dict, compare=False, repr=False)

    @property
    def beats_baselines(self) -> bool:
        """Better than every baseline beyond the noise: each interval of the gain lies above zero."""
        return all(gain.low > 0 for gain in self.gains.values())

    @property
    def trails(self) -> tuple[str, ...]:
        """Baselines that are better than the model beyond the noise."""
        return tuple(name for name, gain in self.gains.items() if gain.high < 0)

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence a baseline: how the model compares."""
        return tuple(self._compare(name, gain) for name, gain in self.gains.items())

    def _compare(self, name: str, gain: Interval) -> str:
        verdict = "Beats" if gain.low > 0 else "Trails" if gain.high < 0 else "Is within the noise of"
        ours, theirs = self.metrics[self.headline], self.baselines[name][self.headline]
        return (
            f"{verdict} {name} on {self.headline}: {ours:.4f} against {theirs:.4f}, "
            f"difference {gain.estimate:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the plots."""
        return {
            "model": self.model,
            "headline": self.headline,
            "metrics": self.metrics,
            "baselines": self.baselines,
            "gains": {name: asdict(gain) for name, gain in self.gains.items()},
            "rows": self.rows,
            "notes": list(self.notes),
            "beats_baselines": self.beats_baselines,
            "reasons": list(self.reasons),
        }
