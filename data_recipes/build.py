"""`python -m data_recipes build`: a recipe over fragments, as a CSV of tiles and a report of what each bucket got."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from data_recipes.files import check_file, whole_file
from data_recipes.recipe import Recipe, load_recipe
from data_recipes.report import Report
from data_recipes.table import SampleTable


def build(
    recipe: str,
    data: list[str],
    out: Path,
    *,
    seed: int = 0,
    tile: int | None = None,
    samples: int | None = None,
    console: Console | None = None,
) -> SampleTable:
    """Write the tiles of a recipe over the fragments at `data` to the CSV `out`, and print what each part got.

    recipe: a name (`edges_buckets_void`, `grid`, `random`) or a YAML file; `tile` px and the total `samples` override
    it. The file appears whole or not at all. Raises ValueError, FileNotFoundError or OSError with what to do.
    """
    # all that can be wrong with the command is found before minutes of reading
    chosen = adapted(recipe, tile, samples)
    out = Path(out).expanduser()
    check_file(out)
    table, report = tiles_of(chosen, data, seed)
    with whole_file(out) as partial:
        table.to_csv(partial)
    console = console or Console()
    console.print(report.table())
    console.print(f"{len(table):,} tiles written to {out}", markup=False, highlight=False, soft_wrap=True)
    return table


def adapted(recipe: str, tile: int | None, samples: int | None) -> Recipe:
    """The named recipe with what the command line overrides."""
    return load_recipe(recipe).with_(tile=tile, samples=samples)


def tiles_of(recipe: Recipe, data: list[str], seed: int) -> tuple[SampleTable, Report]:
    """The recipe over the fragments at the given paths."""
    from data_recipes.fragment import open_fragments
    from data_recipes.sampling import build_table

    return build_table(open_fragments(data), None, recipe, seed=seed)
