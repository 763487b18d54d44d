"""The rank sweep: how good the policies of a population are at each rank, and the lowest rank that keeps what was learned.

All ranks of all members are played as one larger population, on the seeds of every other evaluation. Nothing is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.environments.base import Environment
from sparserl.fields import Count, OpenFraction
from sparserl.lowrank.accounting import VALUE_BYTES, DecomposedPolicy
from sparserl.lowrank.shrinking import Shrunken, shrink
from sparserl.lowrank.truncation import RankAssignment, as_matrix, break_even, ladder
from sparserl.population.members import Population
from sparserl.population.state import split
from sparserl.runs.files import joined
from sparserl.runs.schema import FORMS, MEASURES, Form, Rank, RankRow, SingularValue
from sparserl.training.evaluation import CONFIRMATION, EVALUATION, Evaluator, Policies, random_returns, rows_of
from sparserl.types import Layers, Weights

SUB_ENVIRONMENTS = 4096
"""At most so many play at once (or one network, if it has more episodes): that bounds the memory, and what stays in a cache
is played faster."""

Candidate: TypeAlias = tuple[int, Form, RankAssignment]
"""A member, the form of its policy, and what that is cut to."""


@dataclass(frozen=True)
class Scale:
    """What was learned, as a scale: 0 is the random policy's return, 1 that of the whole policy."""

    random: Float[Tensor, "_random"]
    full: Float[Tensor, "_full"]

    @property
    def learned(self) -> bool:
        """Whether the whole policy exceeds the random one by two standard errors of the difference of their means.

        Their episodes count as independent; with only one there is no error to go by, and nothing counts as learned.
        """
        variance = sum(
            float(returns.var()) / len(returns) if len(returns) > 1 else math.nan for returns in (self.random, self.full)
        )
        return float(self.full.mean() - self.random.mean()) > 2 * math.sqrt(variance)

    def retention(self, returns: Float[Tensor, "_episode"]) -> float | None:
        """Where the mean of ``returns`` lies on the scale; None where nothing was learned."""
        if not self.learned:
            return None
        random = self.random.mean()
        return float((returns.mean() - random) / (self.full.mean() - random))


def select(retentions: Mapping[Rank, float | None], retention: float) -> Rank | None:
    """Of ranks in increasing order, the first from which on all keep at least ``retention``.

    The last, ``full``, is chosen where no rank is good enough: it keeps all, but for the rounding of a network without its dead
    units. None where nothing was learned.
    """
    selected: Rank | None = None
    for rank, kept in reversed(list(retentions.items())):
        if kept is None or (rank != "full" and not kept >= retention):  # nan keeps nothing
            break
        selected = rank
    return selected


@dataclass(frozen=True)
class Selected:
    """The selected rank, and what it keeps on other seeds than it was selected by: being selected flatters a return."""

    rank: Rank
    compression: float
    return_lowrank: float
    retention: float | None


@dataclass(frozen=True)
class Swept:
    """What the sweep found of one member: of its policy, and of that without the units that do nothing.

    ``selected`` and ``shrunken`` are None where nothing was learned that a rank could keep.
    """

    rows: list[RankRow]
    spectrum: list[SingularValue]
    selected: Selected | None
    shrunken: Selected | None


@dataclass(frozen=True)
class Played:
    """What the episodes of one network gave."""

    returns: Float[Tensor, "episode"]
    measures: dict[str, float]
    """Their means."""


def decomposed(layers: Layers, shrunken: Shrunken) -> dict[Form, DecomposedPolicy]:
    """The forms of a policy of one member; without ``shrunken`` where no unit was removed, since the two are the same there."""
    forms: dict[Form, DecomposedPolicy] = {"plain": DecomposedPolicy(Shrunken(layers, {}, shrunken.structure))}
    return forms | ({"shrunken": DecomposedPolicy(shrunken)} if shrunken.changed else {})


@dataclass(frozen=True)
class RankEvaluator:
    """Where networks are played: the policies of a population, in their forms, cut."""

    environment: Environment
    algorithm: Algorithm
    weights: Weights
    policies: Sequence[Mapping[Form, DecomposedPolicy]]
    episodes: int
    check_interrupt: Callable[[], object]
    act: Policies | None = None
    """A faster form of ``algorithm.deterministic_action``."""

    def play(self, candidates: Iterable[Candidate], stream: str) -> dict[Candidate, Played]:
        """What each network gives on the episodes of ``stream``. Equal networks are played once."""
        distinct = list(dict.fromkeys(candidates))
        played: list[Played] = []
        size = max(1, SUB_ENVIRONMENTS // self.episodes)
        for start in range(0, len(distinct), size):
            played += self._play(distinct[start : start + size], stream)
        return dict(zip(distinct, played, strict=True))

    def _play(self, candidates: Sequence[Candidate], stream: str) -> list[Played]:
        """As one population, in which each network is a member."""
        device = next(iter(joined(self.weights, self.algorithm.policy).values())).device
        members = torch.tensor([member for member, *_ in candidates], device=device)
        weights = {c: {name: tensor[members] for name, tensor in layers.items()} for c, layers in self.weights.items()}
        layers = joined(weights, self.algorithm.policy)
        for row, (member, form, cut) in enumerate(candidates):
            for name, tensor in self.policies[member][form].layers(cut).items():
                layers[name][row] = tensor

        evaluator = Evaluator(self.environment, len(candidates), self.episodes, device, stream, self.check_interrupt)
        with closing(evaluator):
            act = self.act or self.algorithm.deterministic_action
            found = evaluator(lambda seen, rows: act(rows_of(weights, rows), seen))
        means = {name: values.mean(dim=1).tolist() for name, values in found.measures.items()}
        return [Played(returns, {name: its[row] for name, its in means.items()}) for row, returns in enumerate(found.returns)]


@dataclass(frozen=True)
class RankSweep:
    """Evaluates trained policies at ranks, and selects the lowest rank that keeps enough of the return.

    Keys (``make docs`` copies them from ``conf/lowrank/default.yaml``):
        ranks (``all``, ``ladder`` or list of: integer, at least 1): The ranks at which the trained policy is evaluated, beside
            the whole one: all (from 1 to the largest at which any layer becomes smaller), ladder (powers of two up to that one,
            and that one), or a list such as [1, 2, 8]; [] evaluates the whole one only.
        retention (number, above 0, at most 1): Share of what was learned (return above the random policy's), above 0 and at
            most 1, that the selected rank must keep.
        episodes (integer, at least 1): Episodes at each rank, on the same seeds as the evaluations of the whole policy.
    """

    ranks: Literal["all", "ladder"] | Sequence[Count]
    retention: OpenFraction
    episodes: Count

    def __call__(
        self,
        environment: Environment,
        algorithm: Algorithm,
        weights: Weights,
        check_interrupt: Callable[[], object],
        act: Policies | None = None,
    ) -> list[Swept]:
        """Evaluate the policy of every member at every rank.

        ``algorithm`` is bound, ``weights`` are the deployed components of all members. ``check_interrupt`` is called at every
        step of every evaluation; what it raises ends the sweep. ``act`` is a faster form of ``algorithm.deterministic_action``.
        """
        layers, structure = joined(weights, algorithm.policy), algorithm.policy_structure()
        size = len(next(iter(layers.values())))
        shrunken = [shrink(split(layers, member), structure) for member in range(size)]
        policies = [decomposed(split(layers, member), its) for member, its in enumerate(shrunken)]
        ranks: list[Rank] = [*self.numbers(policies[0]["plain"].largest_rank), "full"]
        evaluator = RankEvaluator(environment, algorithm, weights, policies, self.episodes, check_interrupt, act)

        def candidate(member: int, form: Form, rank: Rank) -> Candidate:
            known: Form = form if form in policies[member] else "plain"
            return member, known, policies[member][known].cut(rank)

        def scales(played: Mapping[Candidate, Played], stream: str) -> list[Scale]:
            random = random_returns(environment, self.episodes, stream, check_interrupt=check_interrupt)
            return [Scale(random, played[candidate(member, "plain", "full")].returns) for member in range(size)]

        # rank by rank, not member by member: low ranks fail early, and what plays together ends with its longest episode
        everything = [candidate(member, form, rank) for rank in ranks for form in FORMS for member in range(size)]
        played = evaluator.play(everything, EVALUATION)
        tables: list[list[RankRow]] = []
        selected: list[dict[Form, Rank | None]] = []
        for member, (forms, scale) in enumerate(zip(policies, scales(played, EVALUATION), strict=True)):
            # a rank at which every layer stays whole is "full" under another name
            distinct = [rank for rank in ranks if rank == "full" or forms["plain"].cut(rank) != forms["plain"].cut("full")]
            at = {form: {rank: played[candidate(member, form, rank)] for rank in distinct} for form in FORMS}
            kept = {form: {rank: scale.retention(its.returns) for rank, its in at[form].items()} for form in FORMS}
            tables.append(
                [
                    _row(rank, forms, at["plain"][rank], kept["plain"][rank], at["shrunken"][rank], kept["shrunken"][rank])
                    for rank in distinct
                ]
            )
            selected.append({form: select(kept[form], self.retention) for form in FORMS})

        def swept(member: int, found: Mapping[Form, Selected]) -> Swept:
            spectrum = policies[member]["plain"].spectrum(shrunken[member].alive)
            return Swept(tables[member], spectrum, found.get("plain"), found.get("shrunken"))

        if not any(rank for its in selected for rank in its.values()):
            return [swept(member, {}) for member in range(size)]
        wanted = {(member, form): rank for member, its in enumerate(selected) for form, rank in its.items() if rank}
        whole = [candidate(member, "plain", "full") for member in range(size)]
        again = evaluator.play([candidate(*place, rank) for place, rank in wanted.items()] + whole, CONFIRMATION)
        results = []
        for member, scale in enumerate(scales(again, CONFIRMATION)):
            confirmed: dict[Form, Selected] = {}
            for form in FORMS:
                if (rank := wanted.get((member, form))) is not None:
                    returns = again[candidate(member, form, rank)].returns
                    _, known, cut = candidate(member, form, rank)
                    cost = policies[member][known].cost(cut)
                    confirmed[form] = Selected(rank, cost.compression, float(returns.mean()), scale.retention(returns))
            results.append(swept(member, confirmed))
        return results

    def numbers(self, largest: int) -> list[int]:
        """The ranks but for ``full``, in increasing order; ``largest`` is the largest at which any layer becomes smaller."""
        if self.ranks == "all":
            return list(range(1, largest + 1))
        return ladder(largest) if self.ranks == "ladder" else sorted(set(self.ranks))

    def cost(self, environment: Environment, algorithm: Algorithm, total_steps: int) -> str:
        """How much the sweep takes of each run, in a sentence: at most, since an episode may end before its limit.

        Each rank is played twice where units do nothing, once without them; then the two that were selected and the whole
        policy on other episodes, and a random policy on both.
        """
        spec = environment.spec()
        ranks = len(self.numbers(max(break_even(*shape) for shape in self._shapes(algorithm.bind(spec))))) + 1
        sentence = f"at the end {ranks} ranks are evaluated in {self.episodes} episodes each"
        if spec.max_episode_steps is None:
            return sentence
        share = (2 * ranks + 5) * self.episodes * spec.max_episode_steps / total_steps
        return f"{sentence}: at most {share:.2g} times the environment steps of training"

    @staticmethod
    def _shapes(algorithm: Algorithm) -> list[tuple[int, int]]:
        """Of the matrices of a policy."""
        weights = joined(algorithm.init(Population((0,))), algorithm.policy)
        structure = algorithm.policy_structure()
        return [(len(matrix := as_matrix(weights[name][0], its)), matrix.shape[1]) for name, its in structure.items()]


def _row(
    rank: Rank,
    forms: Mapping[Form, DecomposedPolicy],
    plain: Played,
    retention: float | None,
    shrunken: Played,
    shrunken_retention: float | None,
) -> RankRow:
    """The line of lowrank.csv for a rank at which the two forms of a policy were played."""
    policies = [forms.get(form, forms["plain"]) for form in FORMS]
    cost, shrunken_cost = (policy.cost(policy.cut(rank)) for policy in policies)
    returns = plain.returns
    return RankRow(
        rank=rank,
        return_mean=float(returns.mean()),
        return_std=float(returns.std()) if len(returns) > 1 else None,
        **{name: plain.measures.get(name) for name in MEASURES},
        episodes=len(returns),
        retention=retention,
        compression=cost.compression,
        parameters=cost.parameters,
        bytes=cost.parameters * VALUE_BYTES,
        macs=cost.macs,
        csr_bytes=forms["plain"].csr_bytes,
        sparse_bytes=forms["plain"].sparse_bytes,
        energy=forms["plain"].energy(forms["plain"].cut(rank)),
        shrunken_return_mean=float(shrunken.returns.mean()),
        shrunken_retention=shrunken_retention,
        shrunken_compression=shrunken_cost.compression,
        shrunken_parameters=shrunken_cost.parameters,
        shrunken_macs=shrunken_cost.macs,
    )
