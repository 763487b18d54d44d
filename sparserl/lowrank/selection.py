"""Selection of ranks by layer for one trained policy: what each way keeps within each budget, played like the rank sweep.

Returns are of the episodes that the rank sweep plays. The way ``return`` chooses by others, since being chosen by a return
flatters it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from sparserl.algorithms.base import Algorithm
from sparserl.environments.base import Environment
from sparserl.lowrank import allocation
from sparserl.lowrank.accounting import DecomposedPolicy
from sparserl.lowrank.allocation import Choices
from sparserl.lowrank.shrinking import shrink
from sparserl.lowrank.sweep import Played, RankEvaluator, decomposed
from sparserl.lowrank.truncation import RankAssignment, text_of
from sparserl.population.state import stack
from sparserl.runs.files import joined
from sparserl.runs.schema import MEASURES, Form, LayerRanks, Way
from sparserl.training.evaluation import EVALUATION, SELECTION
from sparserl.types import Weights

Wanted: TypeAlias = tuple[Way, int]
"""A way and a budget."""

BY_SPECTRUM: Mapping[Way, Callable[[list[Choices], int], RankAssignment]] = {
    "uniform": allocation.uniform,
    "energy": allocation.by_energy,
    "budget": allocation.by_budget,
}
"""The ways that need no episodes."""


@dataclass(frozen=True)
class Selection:
    """Of the policy of one run: ``weights`` are its deployed components, without the member axis, ``algorithm`` is bound.

    ``check_interrupt`` is called at every step of every evaluation; what it raises ends the selection.
    """

    environment: Environment
    algorithm: Algorithm
    weights: Weights
    episodes: int
    check_interrupt: Callable[[], object]

    @cached_property
    def policies(self) -> dict[Form, DecomposedPolicy]:
        """Without ``shrunken`` where no unit does nothing, as ``sweep.decomposed`` gives them."""
        layers = joined(self.weights, self.algorithm.policy)
        return decomposed(layers, shrink(layers, self.algorithm.policy_structure()))

    def layers(self, form: Form) -> list[Choices]:
        """What the layers can be cut to."""
        return [Choices.of(its) for its in self._policy(form)[1].decompositions]

    def budgets(self) -> list[int]:
        """What uniform ranks of the ladder store in a network of these shapes: the same for all policies of one network."""
        return allocation.ladder_budgets(its.shape for its in self.policies["plain"].decompositions)

    def rows(self, form: Form, wanted: Iterable[Wanted], start: RankAssignment | None = None) -> Iterator[list[LayerRanks]]:
        """The rows of a form of the policy, in parts as they are known.

        ``start`` is what greedy by return begins with, as in ``allocation.by_return``. Raises ValueError where a budget is
        below what rank 1 stores.
        """
        layers, wanted = self.layers(form), list(wanted)
        cuts = {(way, budget): BY_SPECTRUM[way](layers, budget) for way, budget in wanted if way in BY_SPECTRUM}
        if cuts:
            yield self._rows(form, cuts)
        budgets = [budget for way, budget in wanted if way == "return"]
        for budget, cut in allocation.by_return(layers, budgets, lambda its: self._returns(form, its), start):
            yield self._rows(form, {("return", budget): cut})

    def _returns(self, form: Form, cuts: Iterable[RankAssignment]) -> list[float]:
        cuts = list(cuts)
        played = self._play(form, cuts, SELECTION)
        return [float(played[cut].returns.mean()) for cut in cuts]

    def _rows(self, form: Form, cuts: Mapping[Wanted, RankAssignment]) -> list[LayerRanks]:
        played = self._play(form, cuts.values(), EVALUATION)
        return [self._row(form, way, budget, cut, played[cut]) for (way, budget), cut in cuts.items()]

    def _row(self, form: Form, way: Way, budget: int, cut: RankAssignment, played: Played) -> LayerRanks:
        _, policy = self._policy(form)
        cost, returns = policy.cost(cut), played.returns
        return LayerRanks(
            form=form,
            way=way,
            budget=budget,
            ranks=text_of(cut),
            parameters=cost.parameters,
            compression=cost.compression,
            macs=cost.macs,
            energy=policy.energy(cut),
            return_mean=float(returns.mean()),
            return_std=float(returns.std()) if len(returns) > 1 else None,
            **{name: played.measures.get(name) for name in MEASURES},
            episodes=len(returns),
        )

    def _policy(self, form: Form) -> tuple[Form, DecomposedPolicy]:
        """A form of the policy and its name among ``policies``."""
        known: Form = form if form in self.policies else "plain"
        return known, self.policies[known]

    def _play(self, form: Form, cuts: Iterable[RankAssignment], stream: str) -> dict[RankAssignment, Played]:
        known, _ = self._policy(form)
        played = self._evaluator.play([(0, known, cut) for cut in cuts], stream)
        return {cut: its for (_, _, cut), its in played.items()}

    @cached_property
    def _evaluator(self) -> RankEvaluator:
        one = stack([self.weights])
        return RankEvaluator(self.environment, self.algorithm, one, [self.policies], self.episodes, self.check_interrupt)
