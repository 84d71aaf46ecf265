"""What a recipe got and why any quota fell short."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from data_recipes.recipe import Quota, Recipe


@dataclass(frozen=True)
class KindReport:
    """One kind of tile in one part: asked, got, how many windows there were to choose from, and why too few.

    For edges also a bucket each: windows `available` and `taken`, the pixels of the edge, and the bucket's capacity.
    """

    kind: str
    asked: int
    got: int
    candidates: int
    available: tuple[int, ...] = ()
    taken: tuple[int, ...] = ()
    edge_px: int = 0
    capacity: int = 0
    reason: str = ""

    def because(self, reason: str) -> KindReport:
        """The same with another reason, if it fell short."""
        return replace(self, reason=reason) if self.got < self.asked else self

    def explained(self) -> KindReport:
        """An edge report with its reason spelt out from the buckets."""
        if not self.edge_px:
            return self.because("the label has no ink edge here")
        names = _intervals(len(self.available))
        full = [name for name, n in zip(names, self.available, strict=True) if n >= self.capacity]
        poor = [f"{name}: {n}" for name, n in zip(names, self.available, strict=True) if n < self.capacity]
        reasons = [f"too few windows by ink ratio ({', '.join(poor)})"] if poor else []
        if full:
            reasons.append(f"{'all' if not poor else len(full)} buckets are full at {self.capacity}")
        return self.because("; ".join(reasons))


@dataclass(frozen=True)
class PartReport:
    """What one named part was asked for and gave."""

    part: str
    fragment: str
    kinds: tuple[KindReport, ...]

    @property
    def short(self) -> int:
        return sum(kind.asked - kind.got for kind in self.kinds)


@dataclass(frozen=True)
class Report:
    """Every part of a recipe, those that were not given included."""

    recipe: Recipe
    parts: tuple[PartReport, ...]

    @property
    def asked(self) -> int:
        return sum(kind.asked for part in self.parts for kind in part.kinds)

    @property
    def got(self) -> int:
        return sum(kind.got for part in self.parts for kind in part.kinds)

    @property
    def shortfalls(self) -> list[str]:
        """One sentence for each quota that was not met."""
        return [
            f"{part.part} {kind.kind}: {kind.asked - kind.got} of {kind.asked} missing: {kind.reason}"
            for part in self.parts
            for kind in part.kinds
            if kind.got < kind.asked
        ]

    def table(self) -> RenderableType:
        """For a rich console: asked and got of every part, tiles a bucket, and below it why any fell short."""
        buckets = self.recipe.buckets if any(k.taken for p in self.parts for k in p.kinds) else 0
        shown = buckets if buckets <= 12 else 0
        title = f"{self.recipe.name}, {self.recipe.tile}-px tiles: {self.got:,} of {self.asked:,}"
        table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)
        table.add_column("part", overflow="fold")  # the one that gives way in a narrow terminal
        table.add_column("kind", no_wrap=True, min_width=max(len(kind) for kind in Quota.model_fields))
        for heading in ("asked", "got", *(f"≥{i / buckets:.2g}" for i in range(shown))):
            table.add_column(heading, justify="right", no_wrap=True, min_width=max(len(heading), 4))
        for part in self.parts:
            for kind in part.kinds:
                cells = [str(n) for n in kind.taken[:shown]]
                style = "yellow" if kind.got < kind.asked else ""
                table.add_row(escape(part.part), kind.kind, f"{kind.asked}", f"{kind.got}", *cells, style=style)
        lines = [f"[yellow]short[/] {escape(line)}" for line in self.shortfalls] or ["every quota is met"]
        available = [kind.available for part in self.parts for kind in part.kinds if kind.available]
        found = [any(counts) for counts in zip(*available, strict=True)]
        if empty := [name for name, any_at_all in zip(_intervals(len(found)), found, strict=True) if not any_at_all]:
            lines.append(f"no candidate window has an ink ratio of {', '.join(empty)}")
        return Group(table, *lines)


def _intervals(buckets: int) -> list[str]:
    """The ink ratios of each bucket."""
    return [f"{i / buckets:.2g}–{(i + 1) / buckets:.2g}" for i in range(buckets)]
