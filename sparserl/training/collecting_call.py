"""Acting and the environment as one program: some steps of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import gymnasium
import torch
from jaxtyping import Shaped
from torch import Tensor

from sparserl.environments.base import Environment, FunctionalEnvironment
from sparserl.population.random import MemberRng
from sparserl.training.calls import ActingCall
from sparserl.training.compiled import RecordedDraws
from sparserl.training.guards import TracedNumber
from sparserl.training.inputs import PartInputs
from sparserl.training.learner_state import LearnerState
from sparserl.training.step import GradientStep
from sparserl.types import Action, Rollout, Transition, Weights

Act: TypeAlias = Callable[[Tensor, int], Action]


@dataclass
class EpisodesUnderWay:
    """Those under way in the environment of some members."""

    recipe: Environment
    environment: FunctionalEnvironment
    state: dict[str, Tensor]
    """A snapshot. A program changes it in place."""
    observation: Shaped[Tensor, "member env *obs"]
    """To act on next."""

    def of(self, members: slice) -> EpisodesUnderWay:
        """Those of some members."""
        its = {name: tensor[members] for name, tensor in self.state.items()}
        return EpisodesUnderWay(self.recipe, self.environment, its, self.observation[members])

    @property
    def envs(self) -> int:
        """Sub-environments of each member."""
        return self.observation.shape[1]


class CollectingCall(ActingCall):
    """Some steps of acting and of the environment."""

    what = "acting and the environment"

    def __init__(
        self,
        step: GradientStep,
        inputs: PartInputs,
        state: LearnerState,
        running: Weights | None,
        episodes: EpisodesUnderWay,
        steps: int,
        most: int,
        env_step: int,
    ) -> None:
        super().__init__(step, inputs, state, running, episodes.observation, env_step)
        self._episodes, self._steps, self._most = episodes, steps, most
        self.tensors, self.changed = [*episodes.state.values(), *self.tensors], len(episodes.state)
        # what follows a schedule in each step, and how many steps are to be taken
        scheduled = [number for taken in range(most) for number in inputs.numbers(env_step + taken * episodes.envs)]
        self.numbers = [*scheduled, steps]
        self.signature = self.signature, most

    def key(self) -> tuple[Any, ...]:
        return *super().key(), repr(self._episodes.recipe), gymnasium.__version__, [*self._episodes.state]

    def parts(self) -> list[Any]:
        return [*super().parts(), self._episodes.recipe, self._episodes.environment]

    def draw(self, rng: MemberRng, asked: Sequence[tuple[str, Sequence[int]]]) -> list[Tensor]:
        """Those of the steps that are to be taken. What the others would draw belongs to later steps: they are given zeros."""
        each_step = len(asked) // self._most
        drawn = super().draw(rng, asked[: each_step * self._steps])
        return drawn + [torch.zeros(self.members, *shape) for _, shape in asked[len(drawn) :]]

    def run(
        self,
        tensors: Sequence[Tensor],
        draws: RecordedDraws,
        counters: Mapping[str, TracedNumber],
        numbers: Sequence[Tensor],
    ) -> tuple[list[str], list[Tensor]]:
        """All steps of the program are computed; those after the last that is to be taken change nothing."""
        names = list(self._episodes.state)
        before, acting = tensors[: len(names)], tensors[len(names) :]
        scheduled, steps = numbers[:-1], numbers[-1]
        each_step = len(scheduled) // self._most
        weights, inputs, observation = self._given(acting, scheduled)
        state, seen, drawn = dict(zip(names, before, strict=True)), list[Transition](), [0]
        for number in range(self._most):
            env_step = counters["step"] + number * self._episodes.envs  # type: ignore[operator]
            own = scheduled[number * each_step : (number + 1) * each_step]
            acted = self._act(weights, inputs, observation, env_step, own, draws)
            drawn.append(len(draws.asked))
            with torch.no_grad():
                following, result = self._episodes.environment.advance(state, acted.action)
                seen.append(result.transition(observation, acted))
                is_taken = steps > number
                observation = torch.where(is_taken, result.observation, observation)
                # what no step changes is an input that is only read
                changed = {name: its for name, its in following.items() if its is not state[name]}
                state |= {name: torch.where(is_taken, its, state[name]) for name, its in changed.items()}
        if len({later - earlier for earlier, later in pairwise(drawn)}) > 1:
            raise ValueError("acting draws more random numbers in some steps than in others")
        for name, tensor in zip(names, before, strict=True):
            if state[name] is not tensor:
                tensor.copy_(state[name])
        fields = {name: torch.stack([its[name] for its in seen], dim=1) for name in seen[0]}
        return list(fields), list(fields.values())


@torch.no_grad()
def collect_eagerly(act: Act, episodes: EpisodesUnderWay, steps: int, env_step: int) -> Rollout:
    """The same without a program, and with the same random numbers. ``act`` is given observations and the environment step."""
    state, observation, seen = dict(episodes.state), episodes.observation, list[Transition]()
    for number in range(steps):
        acted = act(observation, env_step + number * episodes.envs)
        state, result = episodes.environment.advance(state, acted.action)
        seen.append(result.transition(observation, acted))
        observation = result.observation
    for name, tensor in episodes.state.items():
        tensor.copy_(state[name])
    return {name: torch.stack([its[name] for its in seen], dim=1) for name in seen[0]}
