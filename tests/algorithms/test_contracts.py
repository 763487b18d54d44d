"""The contracts carry what comes later: several components of which one is often not due, and constraints on weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.networks.mlp import MLP
from sparserl.population.members import Population
from sparserl.population.random import Uniforms
from sparserl.regularizers.base import Regularizer, regularized
from sparserl.schedules import Constant, Schedule
from sparserl.training.learner import Learner
from sparserl.types import Action, Batch, Gates, Layers, Loss, Metrics, Spec, Weights

MEMBERS = Population((0, 1, 2))
SPEC = Spec(observation_shape=(3,), action_low=(-1.0,), action_high=(1.0,))


@dataclass(frozen=True)
class ActorCritic(Algorithm):
    """The shape of DDPG and TD3: a critic fitted each step, and an actor improved through it at every third."""

    network: MLP
    max_grad_norm: float | None = None
    actions = "continuous"

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return {"critic": Constant(1e-2), "policy": Constant(1e-2)}

    @property
    def targets(self) -> dict[str, str]:
        return {"target_critic": "critic"}

    def init(self, spec: Spec, members: Population) -> Weights:
        generators = members.generators("init")
        critic = self.network.init((4,), 1, generators)
        return {
            "policy": self.network.init(spec.observation_shape, 1, generators),
            "critic": critic,
            "target_critic": {name: tensor.clone() for name, tensor in critic.items()},
        }

    def act(self, weights: Weights, observation: Float[Tensor, "member env *obs"], step: int, uniforms: Uniforms) -> Action:
        return Action(self.greedy(weights, observation))

    def greedy(self, weights: Weights, observation: Float[Tensor, "member env *obs"]) -> Tensor:
        return torch.tanh(self.network(weights["policy"], observation))

    def losses(self, weights: Weights, quiet: Weights, batch: Batch, step: int) -> dict[str, tuple[Loss, Metrics]]:
        def value(action: Tensor) -> Tensor:
            return self.network(weights["critic"], torch.cat([batch["observation"], action], dim=-1))[..., 0]

        losses: dict[str, tuple[Loss, Metrics]] = {
            "critic": ((value(batch["action"]) - batch["reward"]).square().mean(dim=-1), {})
        }
        if step % 3 == 0:
            losses["policy"] = (-value(self.greedy(weights, batch["observation"])).mean(dim=-1), {})
        return losses

    def after_step(self, weights: Weights, step: int) -> Weights:
        target = weights["target_critic"]
        return {"target_critic": {name: torch.lerp(target[name], online, 0.1) for name, online in weights["critic"].items()}}


@dataclass(frozen=True, kw_only=True)
class Ball(Regularizer):
    """A constraint in place of a penalty: no weight of the policy may exceed a limit."""

    limit: float

    def covers(self, component: str) -> bool:
        return component == "policy"

    def project(self, layers: Layers, gates: Gates, step: int) -> tuple[Layers, Gates]:
        limited = {name: weight.clamp(-self.limit, self.limit) for name, weight in regularized(layers).items()}
        return layers | limited, gates


ALGORITHM = ActorCritic(MLP(hidden=[16], activation="tanh"))


def batch() -> Batch:
    """The best action is the first feature of the observation."""
    observation, action = torch.rand(3, 64, 3) * 2 - 1, torch.rand(3, 64, 1) * 2 - 1
    return {"observation": observation, "action": action, "reward": -(action[..., 0] - observation[..., 0]).square()}


def l0(*overrides: str) -> Regularizer:
    """L0 of critics too, for three members, on from the first step."""
    settings = "regularizer.scope=all", "regularizer.delay_steps=0", "regularizer.ramp_steps=0", *overrides
    _, parts = build([compose("regularizer=l0", *settings, f"seed={seed}") for seed in MEMBERS.seeds])
    (cohort,) = parts.cohorts
    return cohort.regularizer


def copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_component_that_is_not_due_is_left_alone() -> None:
    """Neither its weights nor its gates move, not even by Adam's momentum or the penalty, while the critic does."""
    torch.manual_seed(0)
    learner = Learner(ALGORITHM, l0("regularizer.lambda_c=10"), SPEC, MEMBERS)
    for step in range(1, 10):
        before = {component: copy(layers) for component, layers in (learner.weights | learner.gates).items()}
        weights = copy(learner.weights["policy"])
        gates, critic = copy(learner.gates["policy"]), copy(learner.weights["critic"])
        metrics = learner.update(batch(), env_step=step)
        due = step % 3 == 0
        assert equal(weights, learner.weights["policy"]) is not due
        assert equal(gates, learner.gates["policy"]) is not due
        assert ("loss/policy" in metrics) is due
        assert not equal(critic, learner.weights["critic"])
        assert not equal(before["target_critic"], learner.weights["target_critic"])


def test_a_loss_moves_its_own_component_only() -> None:
    """The policy's loss is computed through the critic; the critic's gradient must not notice."""
    torch.manual_seed(0)
    data = batch()
    with_policy, without = (Learner(ALGORITHM, l0(), SPEC, MEMBERS) for _ in range(2))
    with_policy.steps, without.steps = 2, 3  # the next step of the first is one of the policy's, of the second not
    with_policy.update(data, env_step=1)
    without.update(data, env_step=1)
    assert equal(with_policy.weights["critic"], without.weights["critic"])
    assert not equal(with_policy.weights["policy"], without.weights["policy"])


@dataclass(frozen=True)
class Shown(ActorCritic):
    """Keeps what its losses were given."""

    given: Weights = field(default_factory=dict)

    def losses(self, weights: Weights, quiet: Weights, batch: Batch, step: int) -> dict[str, tuple[Loss, Metrics]]:
        self.given.update({component: copy(layers) for component, layers in weights.items()})
        return super().losses(weights, quiet, batch, step)


def test_a_target_runs_under_the_gates_of_what_it_follows() -> None:
    """Under the same draw of them: at the start a target is a copy, so what runs is the same to the last bit."""
    algorithm = Shown(MLP(hidden=[16], activation="tanh"))
    learner = Learner(algorithm, l0(), SPEC, MEMBERS)
    learner.update(batch(), env_step=1)
    running, raw = algorithm.given["critic"], learner.algorithm.init(SPEC, MEMBERS)["critic"]
    assert equal(running, algorithm.given["target_critic"])
    assert not equal(running, raw), "the gates are random: something must be closed, or partly"
    # and what is kept is a raw copy that lags behind: 0.1 of the way after one step
    for name, kept in learner.weights["target_critic"].items():
        torch.testing.assert_close(kept, torch.lerp(raw[name], learner.weights["critic"][name].detach(), 0.1))


def test_two_losses_with_gates_learn() -> None:
    torch.manual_seed(0)
    learner = Learner(ALGORITHM, l0("regularizer.lambda_c=0"), SPEC, MEMBERS)
    for step in range(750):
        learner.update(batch(), env_step=step)
    data = batch()
    error = (ALGORITHM.greedy(learner.hardened(), data["observation"])[..., 0] - data["observation"][..., 0]).square()
    assert error.mean() < 0.03  # always 0 would score the variance of the feature, 1/3; three seeds come to 0.007-0.013


def test_the_objective_is_the_sum_of_its_terms() -> None:
    torch.manual_seed(0)
    learner = Learner(ALGORITHM, l0("regularizer.lambda_c=10"), SPEC, MEMBERS)
    for step in range(3):
        metrics = learner.update(batch(), env_step=step)
    for component in ("critic", "policy"):
        assert (metrics[f"penalty/{component}"] > 1).all()  # almost all gates are open, times 10
        total = metrics[f"loss/{component}"] + metrics[f"penalty/{component}"]
        torch.testing.assert_close(metrics[f"objective/{component}"], total)


def test_a_projection_holds_after_every_step() -> None:
    torch.manual_seed(0)
    free = Learner(ALGORITHM, Ball(zero_threshold=0.0, limit=1e9), SPEC, MEMBERS)
    held = Learner(ALGORITHM, Ball(zero_threshold=0.0, limit=0.25), SPEC, MEMBERS)
    for step in range(60):
        data = batch()
        free.update(data, env_step=step)
        held.update(data, env_step=step)
        if held.steps >= 3:  # from the policy's first step on
            assert all(weight.abs().max() <= 0.25 for weight in regularized(held.weights["policy"]).values())
    assert any(weight.abs().max() > 0.25 for weight in regularized(free.weights["policy"]).values())
    assert any(weight.abs().max() > 0.25 for weight in regularized(held.weights["critic"]).values())  # not covered
