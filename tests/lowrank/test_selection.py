"""What ranks by layer are evaluated as: the networks, episodes and numbers of the rank sweep."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from test_sweep import ENVIRONMENT, EPISODES, POLICIES, algorithm, by_rank, swept

from sparserl.lowrank.selection import Selection, cut_of, text_of
from sparserl.population.state import split
from sparserl.runs.schema import FORMS, WAYS, Form, LayerRanks, Way
from sparserl.training.evaluation import EVALUATION, SELECTION

WANTED = [(way, budget) for budget in (50, 96, 130, 156, 178) for way in WAYS]


def selection(member: int) -> Selection:
    return Selection(ENVIRONMENT, algorithm(), split(POLICIES, member), EPISODES, lambda: None)


@cache
def rows(member: int, form: Form = "plain") -> dict[tuple[Way, int], LayerRanks]:
    found = [row for part in selection(member).rows(form, WANTED) for row in part]
    return {(row.way, row.budget): row for row in found}


@pytest.mark.parametrize("member", [1, 2])
def test_at_uniform_ranks_a_row_is_that_of_the_rank_sweep(member: int) -> None:
    """Bit for bit, though other networks were played beside it: the same episodes, policies and counting."""
    sweep = by_rank(swept("all")[member])
    for rank, budget in {1: 50, 2: 96, 4: 156, 5: 178}.items():
        found = rows(member)["uniform", budget]
        for field in ("return_mean", "return_std", "parameters", "compression", "macs", "energy", "episodes"):
            assert getattr(found, field) == getattr(sweep[rank], field), (rank, field)
    differing = {row.return_mean for row in rows(member).values()}
    assert len(differing) > (4 if member == 2 else 1), "or this test sees nothing"


@pytest.mark.parametrize("form", FORMS)
def test_a_shrunken_policy_is_that_of_the_rank_sweep_too(form: Form) -> None:
    """Of member 0 two units of each layer are alive, and the first matrix has rank 1: 6 + 4 + 4 numbers, without a loss."""
    assert {row.form for row in rows(0, form).values()} == {form}
    sweep = by_rank(swept([1])[0])[1]
    found = rows(0, "shrunken")["return", 50]
    assert (found.parameters, found.return_mean) == (sweep.shrunken_parameters, sweep.shrunken_return_mean) == (14, 60.0)
    # where no unit is dead it is the policy itself
    assert [vars(row) | {"form": "plain"} for row in rows(1, "shrunken").values()] == [vars(row) for row in rows(1).values()]


def test_ranks_are_chosen_by_other_episodes_than_they_are_evaluated_on() -> None:
    streams: list[str] = []

    class Watched(Selection):
        def _play(self, form: Form, cuts: Any, stream: str) -> Any:
            streams.append(stream)
            return super()._play(form, cuts, stream)

    watched = Watched(ENVIRONMENT, algorithm(), split(POLICIES, 2), EPISODES, lambda: None)
    assert [row for part in watched.rows("plain", WANTED) for row in part] == [*rows(2).values()]
    assert streams[0] == EVALUATION, "the ways that look at singular values only"
    assert streams[1:].count(EVALUATION) == 5, "once for each budget of the way return"
    assert streams.count(SELECTION) > 5


def test_ranks_are_written_as_they_are_read() -> None:
    assert text_of((4, 16, None)) == "4 16 full"
    assert cut_of("4 16 full") == (4, 16, None)
