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
from sparserl.lowrank.accounting import Cut, DecomposedPolicy
from sparserl.lowrank.truncation import as_matrix, break_even
from sparserl.population.members import Population
from sparserl.population.state import split
from sparserl.runs.schema import Rank, RankRow, SingularValue
from sparserl.training.evaluation import CONFIRMATION, EVALUATION, Evaluator, random_returns, rows_of
from sparserl.training.metrics import joined
from sparserl.types import Weights

SUB_ENVIRONMENTS = 4096
"""At most so many play at once (or one network, if it has more episodes): that bounds the memory, and what stays in a cache
is played faster."""

Candidate: TypeAlias = tuple[int, Cut]
"""A member and what its policy is cut to."""


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


def select(rows: Sequence[RankRow], retention: float) -> RankRow | None:
    """Of rows in increasing order of rank, the first from which on all keep at least ``retention``.

    The last, ``full``, keeps all, so it is chosen where no rank is good enough. None where nothing was learned.
    """
    selected = None
    for row in reversed(rows):
        if row.retention is None or not row.retention >= retention:  # nan keeps nothing
            break
        selected = row
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
    """What the sweep found of one member. ``selected`` is None where nothing was learned that a rank could keep."""

    rows: list[RankRow]
    spectrum: list[SingularValue]
    selected: Selected | None


@dataclass(frozen=True)
class Played:
    """What the episodes of one network gave."""

    returns: Float[Tensor, "episode"]
    success_rate: float | None


@dataclass(frozen=True)
class Stage:
    """Where networks are played: the policies of a population, cut."""

    environment: Environment
    algorithm: Algorithm
    weights: Weights
    policies: Sequence[DecomposedPolicy]
    episodes: int
    check_interrupt: Callable[[], object]

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
        members = torch.tensor([member for member, _ in candidates], device=device)
        weights = {c: {name: tensor[members] for name, tensor in layers.items()} for c, layers in self.weights.items()}
        layers = joined(weights, self.algorithm.policy)
        for row, (member, cut) in enumerate(candidates):
            for name, truncated in self.policies[member].truncated(cut).items():
                layers[name][row] = truncated

        evaluator = Evaluator(self.environment, len(candidates), self.episodes, device, stream, self.check_interrupt)
        with closing(evaluator):
            found = evaluator(lambda seen, rows: self.algorithm.deterministic_action(rows_of(weights, rows), seen))
        rates = [None] * len(candidates) if found.successes is None else found.successes.mean(dim=1).tolist()
        return [Played(returns, rate) for returns, rate in zip(found.returns, rates, strict=True)]


@dataclass(frozen=True)
class Sweep:
    """The keys are described in ``conf/lowrank/default.yaml``."""

    ranks: Literal["all", "ladder"] | Sequence[Count]
    retention: OpenFraction
    episodes: Count

    def __call__(
        self, environment: Environment, algorithm: Algorithm, weights: Weights, check_interrupt: Callable[[], object]
    ) -> list[Swept]:
        """Evaluate the policy of every member at every rank.

        ``algorithm`` is bound, ``weights`` are the deployed components of all members. ``check_interrupt`` is called at every
        step of every evaluation; what it raises ends the sweep.
        """
        layers, structure = joined(weights, algorithm.policy), algorithm.policy_structure()
        size = len(next(iter(layers.values())))
        policies = [DecomposedPolicy(split(layers, member), structure) for member in range(size)]
        ranks: list[Rank] = [*self.numbers(policies[0].largest_rank), "full"]
        stage = Stage(environment, algorithm, weights, policies, self.episodes, check_interrupt)

        def candidate(member: int, rank: Rank) -> Candidate:
            return member, policies[member].cut(rank)

        def scales(played: Mapping[Candidate, Played], stream: str) -> list[Scale]:
            random = random_returns(environment, self.episodes, stream, check_interrupt=check_interrupt)
            return [Scale(random, played[candidate(member, "full")].returns) for member in range(size)]

        # rank by rank, not member by member: low ranks fail early, and what plays together ends with its longest episode
        played = stage.play([candidate(member, rank) for rank in ranks for member in range(size)], EVALUATION)
        tables: list[list[RankRow]] = []
        for member, (policy, scale) in enumerate(zip(policies, scales(played, EVALUATION), strict=True)):
            # a rank at which every layer stays whole is "full" under another name
            distinct = [rank for rank in ranks if rank == "full" or policy.cut(rank) != policy.cut("full")]
            its = {rank: played[candidate(member, rank)] for rank in distinct}
            tables.append([policy.row(k, at.returns, at.success_rate, scale.retention(at.returns)) for k, at in its.items()])

        chosen = [select(rows, self.retention) for rows in tables]
        if not any(chosen):
            return [Swept(rows, policy.spectrum(), None) for rows, policy in zip(tables, policies, strict=True)]
        wanted: dict[int, Sequence[Rank]] = {member: (row.rank, "full") for member, row in enumerate(chosen) if row}
        again = stage.play(
            [candidate(member, rank) for member in range(size) for rank in wanted.get(member, ("full",))], CONFIRMATION
        )
        swept = []
        for member, (row, scale) in enumerate(zip(chosen, scales(again, CONFIRMATION), strict=True)):
            selected = None
            if row:
                confirmed = again[candidate(member, row.rank)].returns
                selected = Selected(row.rank, row.compression, float(confirmed.mean()), scale.retention(confirmed))
            swept.append(Swept(tables[member], policies[member].spectrum(), selected))
        return swept

    def numbers(self, largest: int) -> list[int]:
        """The ranks but for ``full``, in increasing order; ``largest`` is the largest at which any layer becomes smaller."""
        if self.ranks == "all":
            return list(range(1, largest + 1))
        if self.ranks == "ladder":
            return sorted({*(2**power for power in range(largest.bit_length())), largest} - {0})
        return sorted(set(self.ranks))

    def cost(self, environment: Environment, algorithm: Algorithm, total_steps: int) -> str:
        """How much the sweep takes of each run, in a sentence: at most, since an episode may end before its limit."""
        spec = environment.spec()
        ranks = len(self.numbers(max(break_even(*shape) for shape in self._shapes(algorithm.bind(spec))))) + 1
        sentence = f"at the end {ranks} ranks are evaluated in {self.episodes} episodes each"
        if spec.max_episode_steps is None:
            return sentence
        share = ranks * self.episodes * spec.max_episode_steps / total_steps
        return f"{sentence}: at most {share:.2g} times the environment steps of training"

    @staticmethod
    def _shapes(algorithm: Algorithm) -> list[tuple[int, int]]:
        """Of the matrices of a policy."""
        weights = joined(algorithm.init(Population((0,))), algorithm.policy)
        structure = algorithm.policy_structure()
        return [(len(matrix := as_matrix(weights[name][0], its)), matrix.shape[1]) for name, its in structure.items()]
