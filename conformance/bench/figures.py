"""The arithmetic: medians, ratios against targets; and the table."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """One measured value; with `target` it is judged. `value` None: not available, `note` says why."""

    name: str
    value: float | None
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    low: float | None = None
    high: float | None = None
    samples: int = 0
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a value."""
        if self.value is None or self.at_most is self.at_least is None:
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def verdict(self) -> str:
        """The target and whether it is met, in words; by how much not."""
        limit = self.at_most if self.at_most is not None else self.at_least
        if limit is None:
            return ""
        wanted = f"{'≤' if self.at_most is not None else '≥'} {limit:g} {self.unit}"
        if self.value is None:
            return f"{wanted}: not available"
        if self.met:
            return f"{wanted}: met"
        off = abs(self.value - limit) / limit
        return f"{wanted}: MISSED by {off:.0%}"


def median(name: str, unit: str, samples: Sequence[float], *, note: str = "") -> Figure:
    """The median of samples, with the smallest and the largest."""
    if not samples:
        return Figure(name, None, unit, note=note or "no samples")
    return Figure(
        name, statistics.median(samples), unit, low=min(samples), high=max(samples), samples=len(samples), note=note
    )


def ratio(
    name: str,
    above: Figure,
    below: Figure,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """One figure as a multiple of another of the same run."""
    value = above.value / below.value if above.value is not None and below.value else None
    note = "" if value is not None else above.note or below.note
    return Figure(name, value, "×", at_most=at_most, at_least=at_least, note=note)


def paired(
    name: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """The median of ratios, each of two samples that were taken one right after the other."""
    found = median(name, "×", [one / other for one, other in zip(above, below, strict=True)])
    return msgspec.structs.replace(found, at_most=at_most, at_least=at_least)


def table(groups: Mapping[str, Iterable[Figure]]) -> str:
    """All figures as lines of text, one group after the other."""
    lines = []
    for title, figures in groups.items():
        lines.append(f"\n{title}")
        for figure in figures:
            value = (
                "-"
                if figure.value is None
                else f"{figure.value:,.3g}"
                if figure.value < 100
                else f"{figure.value:,.0f}"
            )
            spread = f" ({figure.low:.3g} … {figure.high:.3g})" if figure.low is not None else ""
            words = "; ".join(filter(None, (figure.verdict, figure.note)))
            lines.append(f"  {figure.name:<58} {value:>8} {figure.unit:<12}{spread:<20} {words}".rstrip())
    return "\n".join(lines).lstrip("\n")
