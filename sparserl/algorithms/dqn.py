"""Deep Q-learning with a target network (Mnih et al. 2015, Human-level control through deep reinforcement learning).

The names say the time: ``q_tm1`` is the value at the state where the action was taken, ``q_t`` at the state that followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from sparserl.algorithms.base import Algorithm, Objective
from sparserl.fields import Count, Fraction, OpenFraction, Positive
from sparserl.networks.base import Network
from sparserl.optimizers import Optimizer
from sparserl.policies import q_values
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.schedules import Schedule, crossed
from sparserl.types import Action, Batch, Spec, Time, Weights

_LOSSES: dict[str, Callable[..., Tensor]] = {"mse": functional.mse_loss, "huber": functional.huber_loss}


@dataclass(frozen=True)
class DQN(Algorithm):
    """Deep Q-learning: learns the value of each discrete action, and takes the best one.

    Keys (``make docs`` copies them from ``conf/algorithm/dqn.yaml``):
        network (``Network``): Maps observations to one value for each action.
        gamma (number, at least 0, at most 1): Discount of the return for each environment step, 0 to 1.
        learning_rate (number or schedule, at least 0): Learning rate of Adam, by environment steps; a number is a constant.
        loss (``mse``, ``huber``): Of the TD error: mse or huber.
        epsilon (number or schedule, at least 0, at most 1): Probability of a random action while training, by environment
            steps; a number is a constant.
        target_update_interval (integer, at least 1): Environment steps of each member between updates of the target network,
            which come right after a gradient step.
        tau (number, above 0, at most 1): How far each update moves the target towards the network: 1 copies it (Mnih et al.
            2015), less is Polyak averaging.
        max_grad_norm (number, above 0 or ``null``): Largest norm of a member's gradient; null leaves it.
        normalize_observation (``true`` or ``false``): Whether networks see observations at mean 0 and deviation 1, by what each
            member has seen in training so far.
        normalize_reward (``true`` or ``false``): Whether rewards are divided by the deviation of the discounted return, by what
            each member was given so far.
        normalized_limit (number, above 0): Where normalised observations and rewards are cut, in deviations.
        optimizer (``Optimizer``): Moves the weights.
        optimizer.betas (list of: number, at least 0, below 1): Decay of the averages of the gradient and of its square, 0 to
            below 1.
        optimizer.eps (number, above 0): Added to the root of the average square.
    """

    network: Network
    gamma: Fraction
    learning_rate: Annotated[Schedule, Ge(0)]
    loss: Literal["mse", "huber"]
    epsilon: Annotated[Schedule, Ge(0), Le(1)]
    target_update_interval: Count
    tau: OpenFraction
    max_grad_norm: Positive | None
    optimizer: Optimizer

    actions = ("discrete",)

    def bind(self, spec: Spec) -> Algorithm:
        if spec.discrete_actions is None:
            raise ValueError("action values need discrete actions")
        return super().bind(spec)

    @property
    def networks(self) -> Mapping[str, Network]:
        assert self.spec.discrete_actions is not None
        return {"policy": self.network.for_policy(self.spec.observation_shape, self.spec.discrete_actions)}

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return {"policy": self.learning_rate}

    @property
    def targets(self) -> dict[str, str]:
        return {"target_policy": "policy"}

    def init(self, members: Population) -> Weights:
        assert self.spec.discrete_actions is not None
        network, generators = self.networks["policy"], members.generators("init")
        layers = network.init(self.spec.observation_shape, self.spec.discrete_actions, generators)
        target = {name: tensor.clone() for name, tensor in layers.items()}
        return {"policy": layers, "target_policy": target} | self.fresh_statistics(members)

    def act(self, weights: Weights, observation: Shaped[Tensor, "member env *obs"], step: int, rng: MemberRng) -> Action:
        q = self.network(weights["policy"], self.network_input(weights, observation))
        return Action(q_values.epsilon_greedy(q, self.epsilon(step), rng.uniform(observation.shape[1], 2)))

    def deterministic_action(self, weights: Weights, observation: Shaped[Tensor, "member env *obs"]) -> Tensor:
        return q_values.greedy(self.network(weights["policy"], self.network_input(weights, observation)))

    def next_value(
        self, weights: Weights, noise_free: Weights, next_observation: Shaped[Tensor, "member batch *obs"]
    ) -> Float[Tensor, "member batch"]:
        """The value of the state that followed: that of the target network's best action (Mnih et al. 2015, algorithm 1)."""
        q_target_t = self.network(weights["target_policy"], next_observation)
        q_select_t = q_target_t if noise_free is weights else self.network(noise_free["target_policy"], next_observation)
        return q_values.gather_actions(q_target_t, q_values.greedy(q_select_t))

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        """The mean loss of the TD error."""
        with torch.no_grad():
            v_t = self.next_value(weights, noise_free, self.network_input(weights, batch["next_observation"]))
            target_tm1 = self.bootstrapped(weights, batch, v_t)
        q_tm1 = self.network(weights["policy"], self.network_input(weights, batch["observation"]))
        q_a_tm1 = q_values.gather_actions(q_tm1, batch["action"])
        loss = _LOSSES[self.loss](q_a_tm1, target_tm1, reduction="none").mean(dim=-1)
        q_value = q_a_tm1.detach()
        metrics = {"td_error": (target_tm1 - q_value).abs().mean(dim=-1), "q_value": q_value.mean(dim=-1)}
        return {"policy": Objective(loss, ("policy",), metrics)}

    def update_targets(self, weights: Weights, time: Time) -> Weights:
        """Every ``target_update_interval`` environment steps the target moves by ``tau`` towards the network."""
        if not crossed(time.previous_step, time.step, self.target_update_interval):
            return {}
        online, target = weights["policy"], weights["target_policy"]
        return {"target_policy": {name: torch.lerp(target[name], online[name], self.tau) for name in online}}
