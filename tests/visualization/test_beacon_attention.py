"""benchmarks/beacon_attention.py: what counts as the lamp, as a query and as chance."""

import pytest
import torch

from nlvideo.visualization import TopKeys, View
from nlvideo.visualization.grid import Grid


@pytest.fixture(scope="module")
def bench(load_tool):
    """The script as a module."""
    return load_tool("beacon_attention", "benchmarks")


# From 64 to 68 pixels and back to 64, as in quickstart.
VIEW = View(torch.zeros(3, 8, 64, 64, dtype=torch.uint8), tuple(range(8)), (68 / 64, 68 / 64), (2, 2))
KEYS = Grid((4, 8, 8), (2.0, 8.0, 8.0), (8, 64, 64))


def test_keys_of_the_lamp(bench):
    # The centre of the cell in row 2 and column 5 is (y 20, x 44) in the view: (20.7, 43.3) in the file.
    lamp = {"centre": [43.3, 20.7], "radius": 5.0, "frames": [0, 1]}
    assert bench.lamp_keys(lamp, VIEW, KEYS) == {(0, 2, 5)}
    # A larger disc reaches the centres of the four cells around, and glows for longer.
    assert bench.lamp_keys({**lamp, "radius": 8.0, "frames": [0, 2]}, VIEW, KEYS) == {
        (t, *place) for t in (0, 1) for place in [(2, 5), (1, 5), (3, 5), (2, 4), (2, 6)]
    }
    assert bench.lamp_keys({**lamp, "centre": [0.0, 0.0], "radius": 2.0}, VIEW, KEYS) == set()


def test_queries_on_an_agent(bench):
    boxes = [None, None, [20, 30, 30, 40], None, [-4, 0, 2, 10], [60, 60, 68, 68], [0, 0, 8, 8], [0, 0, 4, 4]]
    assert bench.agent_queries({"boxes": boxes}, VIEW) == [
        (2, pytest.approx(35 * 68 / 64 - 2), pytest.approx(25 * 68 / 64 - 2)), (6, 2.25, 2.25), (7, 0.125, 0.125),
    ]  # fmt: skip


def test_chance(bench):
    assert bench.chance(256, 1) == pytest.approx(20 / 256)
    assert bench.chance(256, 256) == 1 and bench.chance(4, 1) == 1
    assert bench.chance(40, 2) == pytest.approx(1 - (20 * 19) / (40 * 39))


def test_figures_of_a_query(bench):
    row = torch.zeros(4, 8, 8)
    row[0, 1, 1], row[0, 2, 2], row[3, 3, 3], row[1, 1, 1] = 0.75, 0.001, 0.249, -0.5
    cells = torch.tensor([[0, 1, 1], [3, 3, 3], [0, 2, 2]])
    found = TopKeys(cells, cells.float(), torch.tensor([0.75, 0.249, 0.001]), 1.0)
    hit = bench.measure_query(row, found, {(0, 1, 1), (0, 2, 2)})
    assert (hit["arrows"], hit["above_mean"], hit["weight"]) == (1, 1, pytest.approx(0.751))
    # Among the arrows, but below the mean of 1 / 512.
    weak = bench.measure_query(row, found, {(0, 2, 2)})
    assert (weak["arrows"], weak["above_mean"], weak["weight"]) == (1, 0, pytest.approx(0.001))
    miss = bench.measure_query(row, found, {(1, 1, 1)})
    assert (miss["arrows"], miss["above_mean"], miss["weight"]) == (0, 0, 0)


def test_the_table_shows_the_block_that_tells_them_apart(bench):
    def figures(arrows, above, weight):
        return {"arrows": arrows, "above_mean": above, "weight": weight, "chance": 15.6, "num_queries": 3}

    blocks = {"res2.0": {"chosen": figures(100.0, 50.0, 40.0), "other": figures(70.0, 45.0, 30.0)},
              "res3.0": {"chosen": figures(90.0, 45.0, 30.0), "other": figures(20.0, 5.0, 2.0)}}  # fmt: skip
    result = {"run": "a", "pairwise": "dot_product", "attend": "spacetime", "num_right": 7, "num_clips": 8,
              "blocks": blocks}  # fmt: skip
    assert bench.best_block(result) == "res3.0"
    assert bench.table([result]).splitlines()[2] == (
        "| a | dot product | spacetime | res3.0 | 7 of 8 | 90 / 20 % (16 %) | 45 / 5 % | 30 / 2 % |"
    )


def test_means_go_by_colour(bench):
    pairs = {("red", "red"): [{"arrows": 1.0}, {"arrows": 0.0}], ("red", "blue"): [{"arrows": 0.0}]}
    summary = bench.summarise(pairs)
    assert summary["chosen"] == {"arrows": 50.0, "num_queries": 2} and summary["other"]["arrows"] == 0
    assert set(summary["colours"]) == {"red lamp, red agent", "red lamp, blue agent"}
