"""Plans: from the fastest to the leanest."""

from __future__ import annotations

from itertools import pairwise

from glc.runtime.tile_layout import TileLevel
from glc.runtime.tile_plan import Kept, TilePlan, graph_runs, memory_bytes, plans

NATURAL = (TileLevel(3, 128), TileLevel(3, 256), TileLevel(3, 256), TileLevel(3, 512))


def work(plan: TilePlan) -> float:
    return float(sum(runs / 4**level for level, runs in enumerate(graph_runs(plan, NATURAL))))


def test_plans_get_slower_and_the_last_takes_the_least_memory() -> None:
    made = list(plans(len(NATURAL)))
    assert made[0].storage == "float32"
    assert all(kept is Kept.ALL for kept in made[0].kept)
    assert all(work(a) <= work(b) for a, b in pairwise(made))
    assert len({(plan.kept, plan.storage, plan.strip_bytes) for plan in made}) == len(made)
    memory = [memory_bytes(plan, NATURAL, 4352, 7680) for plan in made]
    assert min(memory) == memory[-1]
    assert memory[-1] < memory[0] / 5


def test_only_the_finest_level_is_ever_computed_anew() -> None:
    assert all(Kept.NOTHING not in plan.kept[1:] for plan in plans(len(NATURAL)))


def test_strips_have_rows_whatever_the_width() -> None:
    for plan in plans(len(NATURAL)):
        assert plan.strip_rows(NATURAL[0], 1 << 20) >= 8
        assert plan.strip_rows(NATURAL[0], 64) * 64 * 128 * 4 <= plan.strip_bytes
