"""Double deep Q-learning (van Hasselt, Guez, Silver 2016, Deep Reinforcement Learning with Double Q-learning)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor

from sparserl.algorithms.dqn import DQN
from sparserl.policies import q_values
from sparserl.types import Weights


@dataclass(frozen=True)
class DoubleDQN(DQN):
    """DQN but for one line: the online network chooses the next action, the target network says what it is worth.

    Keys (``make docs`` copies them from ``conf/algorithm/double_dqn.yaml``): those of ``DQN``.
    """

    def next_value(
        self, weights: Weights, noise_free: Weights, next_observation: Shaped[Tensor, "member batch *obs"]
    ) -> Float[Tensor, "member batch"]:
        """The target network's value of the online network's choice (equation 4)."""
        a_t = q_values.greedy(self.network(noise_free["policy"], next_observation))
        return q_values.gather_actions(self.network(weights["target_policy"], next_observation), a_t)
