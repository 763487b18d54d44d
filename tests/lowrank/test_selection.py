"""What ranks by layer are evaluated as: the networks, episodes and numbers of the rank sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from test_sweep import ENVIRONMENT, EPISODES, POLICIES, algorithm, by_rank, swept

from sparserl.lowrank.selection import Selection
from sparserl.lowrank.truncation import cut_of, text_of
from sparserl.population.state import split
from sparserl.runs.schema import WAYS, Form, LayerRanks, Way
from sparserl.training.evaluation import EVALUATION, SELECTION

BUDGETS = {1: 50, 2: 96, 4: 156, 5: 178}
"""What uniform ranks store."""


def rows(member: int, form: Form = "plain", ways: Sequence[Way] = WAYS) -> dict[tuple[Way, int], LayerRanks]:
    selection = Selection(ENVIRONMENT, algorithm(), split(POLICIES, member), EPISODES, lambda: None)
    wanted = [(way, budget) for budget in BUDGETS.values() for way in ways]
    return {(row.way, row.budget): row for part in selection.rows(form, wanted) for row in part}


@pytest.mark.parametrize("member", [1, 2])
def test_at_uniform_ranks_a_row_is_that_of_the_rank_sweep(member: int) -> None:
    """Bit for bit, though other networks were played beside it: the same episodes, policies and counting."""
    sweep, chosen = by_rank(swept([*BUDGETS])[member]), rows(member, ways=["uniform", "energy"])
    for rank, budget in BUDGETS.items():
        found = chosen["uniform", budget]
        for field in ("return_mean", "return_std", "parameters", "compression", "macs", "energy", "episodes"):
            assert getattr(found, field) == getattr(sweep[rank], field), (rank, field)
    assert len({row.return_mean for row in chosen.values()}) > 1, "or this test sees nothing"


def test_a_shrunken_policy_is_that_of_the_rank_sweep_too() -> None:
    """Of member 0 two units of each layer are alive, and the first matrix has rank 1: 6 + 4 + 4 numbers, without a loss."""
    sweep = by_rank(swept([1])[0])[1]
    found = rows(0, "shrunken")["return", 50]
    assert found.form == "shrunken"
    assert (found.parameters, found.return_mean) == (sweep.shrunken_parameters, sweep.shrunken_return_mean) == (14, 60.0)
    # where no unit is dead it is the policy itself
    same, plain = (rows(1, form, ["uniform"]).values() for form in ("shrunken", "plain"))
    assert [replace(row, form="plain") for row in same] == [*plain]


def test_ranks_are_chosen_by_other_episodes_than_they_are_evaluated_on() -> None:
    streams: list[str] = []

    class Watched(Selection):
        def _play(self, form: Form, cuts: Any, stream: str) -> Any:
            streams.append(stream)
            return super()._play(form, cuts, stream)

    watched = Watched(ENVIRONMENT, algorithm(), split(POLICIES, 2), EPISODES, lambda: None)
    assert len([*watched.rows("plain", [(way, budget) for budget in (50, 156) for way in WAYS])]) == 3
    assert streams[0] == EVALUATION, "the ways that look at singular values only"
    assert streams[1:].count(EVALUATION) == 2, "once for each budget of the way return"
    assert streams.count(SELECTION) > 2


def test_ranks_are_written_as_they_are_read() -> None:
    assert text_of((4, 16, None)) == "4 16 full"
    assert cut_of("4 16 full") == (4, 16, None)
