"""Episodes that go on inside of a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
from jaxtyping import Shaped
from torch import Tensor

from sparserl.environments.base import Environment, FunctionalEnvironment, StepResult
from sparserl.population.state import State
from sparserl.types import Action, Transition


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

    @property
    def kept(self) -> dict[str, Tensor]:
        """What of the state no step changes."""
        return {name: its for name, its in self.state.items() if name in self.environment.kept}

    @property
    def moving(self) -> dict[str, Tensor]:
        """The rest of the state."""
        return {name: its for name, its in self.state.items() if name not in self.environment.kept}

    def step(self, action: Action) -> Transition:
        """Take a step with them, without a program; what came of it."""
        following, result = self.environment.advance(self.state, action.action)
        transition = result.transition(self.observation.clone(), action)
        self.move(self.moving, self.observation, following, result)
        return transition

    @staticmethod
    def move(moving: State, observation: Tensor, following: State, result: StepResult) -> None:
        """Change what moves, and an observation, to what a step led to."""
        for name, its in moving.items():
            its.copy_(following[name])
        observation.copy_(result.observation)

    def key(self) -> tuple[Any, ...]:
        """What a program with them is made from, but for code, types and shapes."""
        return repr(self.recipe), gymnasium.__version__, [*self.state]

    def parts(self) -> list[Any]:
        """The objects whose code it is made from."""
        return [self.recipe, self.environment]
