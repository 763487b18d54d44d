"""The state of a loop as checkpoints have it: of each member its learner's, and its part of what all members share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparserl.environments.base import EpisodeKeeper, VectorEnvironment
from sparserl.experience.base import Experience
from sparserl.population.random import MemberRng
from sparserl.population.state import State, restoring, split, stack
from sparserl.training.learner_group import LearnerGroup
from sparserl.training.statistics import Episodes


@dataclass(frozen=True)
class LoopState:
    """What a loop changes."""

    group: LearnerGroup
    experience: Experience
    vector: VectorEnvironment
    exploration: MemberRng
    episodes: Episodes
    compiled: bool
    """Whether gradient steps began compiled, and so are to go on."""

    @property
    def keeps_episodes(self) -> bool:
        """Whether states have the episodes under way."""
        return isinstance(self.vector, EpisodeKeeper)

    def states(self, step: int) -> list[State]:
        """Of each member everything that is needed to go on after so many environment steps of each."""
        shared = {
            "experience": self.experience.state_dict(),
            "environment": self.vector.generators.state_dict(),
            "exploration": self.exploration.state_dict(),
            "compile": self.compiled,
        }
        if isinstance(self.vector, EpisodeKeeper):
            shared["episodes"] = {"environment": self.vector.snapshot(), "returns": self.episodes.state_dict()}
        learned = enumerate(self.group.states())
        return [{"env_step": step, "learner": own} | split(shared, member) for member, own in learned]

    def load(self, states: list[State]) -> tuple[int, State | None]:
        """Go on from states, which are emptied; after how many environment steps that is, and the episodes under way, if known.

        Raises StateError where nothing can go on from them.
        """
        with restoring():
            self.group.load_states([state["learner"] for state in states])
            state = stack([{name: part for name, part in state.items() if name != "learner"} for state in states])
            states.clear()
            self.experience.load_state_dict(state["experience"])
            self.vector.generators.load_state_dict(state["environment"])
            self.exploration.load_state_dict(state["exploration"])
            return state["env_step"], state.get("episodes")

    def begin(self, under_way: State | None) -> Tensor:
        """Go on with episodes under way, or begin new ones; the observations to act on. Raises as ``load`` does."""
        if under_way is None or not isinstance(self.vector, EpisodeKeeper):
            return self.vector.reset()
        with restoring():
            observation = self.vector.restore(under_way["environment"])
            self.episodes.load_state_dict(under_way["returns"])
            return observation
