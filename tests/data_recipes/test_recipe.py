"""Recipes: what ships, what a person may write, and what an error says."""

from __future__ import annotations

import pytest

from data_recipes.quotas import plan_parts
from data_recipes.recipe import Part, Quota, Recipe, list_recipes, load_recipe

KAGGLE = {"1": (8181, 6330), "2": (14830, 9506), "3": (7606, 5249)}


def test_the_published_recipe_asks_for_36000_tiles():
    recipe = load_recipe("edges_buckets_void")
    assert (recipe.tile, recipe.buckets, recipe.capacity) == (64, 10, 1000)
    assert [part.edge for part in recipe.parts.values()] == [4000, 4000, 6000, 6000, 4000]
    assert list(recipe.parts) == ["1", "2/top", "2/bottom", "3", "4"]
    assert sum(part.void for part in recipe.parts.values()) == 12_000


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_that_ships_loads_and_says_what_it_is(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.with_(tile=96, samples=2000).tile == 96


def test_named_parts_cover_their_fragment_without_overlap():
    planned, absent = plan_parts(KAGGLE, None, load_recipe("edges_buckets_void"))
    rects = {plan.name: plan.rects[0] for plan in planned}
    assert rects["2/top"].y1 == rects["2/bottom"].y0 == 7415
    assert rects["2/top"].area + rects["2/bottom"].area == 14830 * 9506
    assert [(report.part, report.short) for report in absent] == [("4", 6000)]


def test_a_total_keeps_the_proportions_of_the_parts_at_hand():
    planned, absent = plan_parts(KAGGLE, None, load_recipe("edges_buckets_void").with_(samples=300))
    assert [(plan.quota.edge, plan.quota.void) for plan in planned] == [(40, 20), (40, 20), (60, 30), (60, 30)]
    assert not absent


@pytest.mark.parametrize("samples", [1, 2, 7, 1999, 2000])
def test_other_fragments_share_a_total_equally_to_a_tile(samples):
    shapes = {"a": (100, 100), "b": (1000, 900), "c": (50, 50)}
    planned, absent = plan_parts(shapes, None, load_recipe("edges_buckets_void").with_(samples=samples))
    assert sum(plan.quota.edge + plan.quota.void for plan in planned) == samples
    edges = [plan.quota.edge for plan in planned]
    assert max(edges) - min(edges) <= 1
    assert abs(sum(edges) - samples * 2 / 3) <= 2
    assert not absent


def test_a_fragment_that_no_part_names_gets_the_common_quota():
    planned, absent = plan_parts({"mine": (500, 400)}, None, load_recipe("edges_buckets_void"))
    assert [(plan.name, plan.quota) for plan in planned] == [("mine", Quota(edge=4000, void=2000))]
    assert not absent


def test_a_fragment_outside_the_region_is_reported_not_made_up_for():
    from data_recipes.regions import Rect

    planned, absent = plan_parts(KAGGLE, {"2": (Rect(0, 700, 0, 800),)}, load_recipe("edges_buckets_void"))
    assert [(plan.name, plan.rects) for plan in planned] == [("2/top", (Rect(0, 700, 0, 800),)), ("2/bottom", ())]
    assert [report.part for report in absent] == ["1", "3", "4"]
    assert absent[0].kinds[0].reason == "fragment 1 is held out of the region"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("each: {edge: 5}\nbukets: 3", r"unknown key 'bukets'; nearest is 'buckets'"),
        ("each: {edges: 5}", r"unknown key 'each.edges'; nearest is 'edge'"),
        ("parts: {a/top: {edge: 5, row: [0, 1]}}", r"unknown key 'parts.a/top.row'; nearest is 'rows'"),
        ("tile: many\neach: {edge: 5}", r"tile: .*valid integer.*, got 'many'"),
        ("tile: 64", r"asks for no tile"),
        ("parts: {a: {edge: 5, rows: [0.5, 0.2]}}", r"rows runs from 0.5 to 0.2"),
        ("each: {grid: all, edge: 5}\nsamples: 10", r"samples cannot scale"),
        ("- 1\n- 2", r"expected lines of `key: value`, got list"),
        ("a: [", r"not readable as YAML"),
    ],
)
def test_a_faulty_recipe_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown recipe 'edge_bucket': nearest is 'edges_buckets_void'"):
        load_recipe("edge_bucket")
    with pytest.raises(FileNotFoundError, match=r"no recipe file at .*nowhere.yaml"):
        load_recipe("nowhere.yaml")


def test_a_recipe_of_ones_own_is_read_from_its_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("tile: 32\nparts:\n  a/left: {columns: [0, 0.25], edge: 10}\n")
    recipe = load_recipe(path)
    assert recipe == Recipe(name="mine", tile=32, parts={"a/left": Part(columns=(0, 0.25), edge=10)})
    with pytest.raises(ValueError, match="tile"):
        recipe.with_(tile=0)
