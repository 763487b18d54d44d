"""The contracts carry what comes later: several components of which one is often not due, a trunk that two losses move, members
that sit a step out, statistics, components without weights, constraints on weights, and gates of another shape."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from jaxtyping import Float
from parts import immediately, make_regularizer, modules
from torch import Tensor, nn

from sparserl.algorithms.base import Algorithm, Objective
from sparserl.networks.base import Network
from sparserl.networks.mlp import MLP
from sparserl.optimizers import Adam, Moments, Optimizer
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.regularizers.base import Regularizer, regularized
from sparserl.regularizers.masks import Masked
from sparserl.schedules import Constant, Schedule
from sparserl.training.learner import Learner
from sparserl.training.metrics import distributions, observe
from sparserl.types import Action, Batch, Gates, Layers, Spec, Time, Weights

MEMBERS = Population((0, 1, 2))
SPEC = Spec(observation_shape=(3,), action_low=(-1.0,), action_high=(1.0,))
NETWORK, ENCODER, DEEPER, HEAD = (MLP(hidden=hidden, activation="tanh") for hidden in ([16], [7], [7, 4], []))
ON = "regularizer.scope=all", "regularizer.delay_steps=0", "regularizer.ramp_steps=0"


@dataclass(frozen=True)
class Descent(Optimizer):
    """An optimiser whose steps can be read off: the gradient times the learning rate."""

    def init(self, values: Float[Tensor, "member number"]) -> Moments:
        return {"step": torch.zeros(())}

    def step(self, values: Tensor, gradient: Tensor, moments: Moments, learning_rate: float) -> None:
        self.step_by(values, gradient, moments, [torch.tensor(learning_rate)])

    def factors(self, steps: int, learning_rate: float) -> tuple[float, ...]:
        return (learning_rate,)

    def step_by(self, values: Tensor, gradient: Tensor, moments: Moments, factors: Sequence[Tensor]) -> None:
        values.sub_(factors[0] * gradient)
        moments["step"].add_(1)


ADAM, DESCENT = Adam(), Descent()


@dataclass(frozen=True)
class ActorCritic(Algorithm):
    """The shape of DDPG and TD3: a critic fitted each step, and an actor improved through it at every third."""

    network: MLP = NETWORK
    gamma: float = 0.99
    max_grad_norm: float | None = None
    optimizer: Optimizer = ADAM
    actions = ("continuous",)

    @property
    def networks(self) -> Mapping[str, Network]:
        return {"critic": self.network, "policy": self.network}

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return {"critic": Constant(1e-2), "policy": Constant(1e-2)}

    @property
    def targets(self) -> dict[str, str]:
        return {"target_critic": "critic"}

    def init(self, members: Population) -> Weights:
        generators = members.generators("init")
        critic = self.network.init((4,), 1, generators)
        return {
            "policy": self.network.init(self.spec.observation_shape, 1, generators),
            "critic": critic,
            "target_critic": {name: tensor.clone() for name, tensor in critic.items()},
        }

    def act(self, weights: Weights, observation: Float[Tensor, "member env *obs"], step: int, rng: MemberRng) -> Action:
        return Action(self.deterministic_action(weights, observation))

    def deterministic_action(self, weights: Weights, observation: Float[Tensor, "member env *obs"]) -> Tensor:
        return torch.tanh(self.network(weights["policy"], observation))

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        def value(action: Tensor) -> Tensor:
            return self.network(weights["critic"], torch.cat([batch["observation"], action], dim=-1))[..., 0]

        error = (value(batch["action"]) - batch["reward"]).square().mean(dim=-1)
        objectives = {"critic": Objective(error, ("critic",))}
        if time.step % 3 == 0:
            improved = value(self.deterministic_action(weights, batch["observation"]))
            objectives["policy"] = Objective(-improved.mean(dim=-1), ("policy",))
        return objectives

    def update_targets(self, weights: Weights, time: Time) -> Weights:
        target, online = weights["target_critic"], weights["critic"]
        return {"target_critic": {name: torch.lerp(target[name], online[name], 0.1) for name in online}}


@dataclass(frozen=True, kw_only=True)
class Ball(Regularizer):
    """A constraint in place of a penalty: no weight of the policy may exceed a limit."""

    limit: float

    def covers(self, component: str, deployed: bool) -> bool:
        return deployed

    def project(self, layers: Layers, gates: Gates, step: int, pull: Tensor | float) -> tuple[Layers, Gates]:
        limited = {name: weight.clamp(-self.limit, self.limit) for name, weight in regularized(layers).items()}
        return layers | limited, gates


def batch(draw: torch.Generator | None = None) -> Batch:
    """The best action is the first feature of the observation."""
    observation, action = (2 * torch.rand(3, 64, size, generator=draw) - 1 for size in (3, 1))
    return {"observation": observation, "action": action, "reward": -(action[..., 0] - observation[..., 0]).square()}


def l0(*overrides: str) -> Regularizer:
    """L0 of critics too, for three members, on from the first step."""
    return make_regularizer("regularizer=l0", *ON, *overrides, members=MEMBERS.size)


def regularizer_of(name: str) -> Regularizer:
    """Of every component, on from the first step; masks that a schedule sets rest."""
    return make_regularizer(f"regularizer={name}", *immediately(name, start_step=1000, end_step=1000), members=MEMBERS.size)


def learner(algorithm: Algorithm, regularizer: Regularizer, spec: Spec = SPEC) -> Learner:
    return Learner(algorithm.bind(spec), regularizer, MEMBERS)


def copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def numbers(given: Learner, member: int) -> dict[str, Tensor]:
    """All that is learned of one member: weights, gates, moments."""
    found: dict[str, Tensor] = {}
    for kind, group in (("weights", given.state.weights), ("gates", given.state.gates)):
        for component, its in group.items():
            found |= {f"{kind}/{component}/{name}": tensor[member].clone() for name, tensor in its.views.items()}
            moments = {name: moment for name, moment in its.moments.items() if name not in ("step", "skipped")}
            found |= {f"{kind}/{component}/moments/{name}": moment[member].clone() for name, moment in moments.items()}
    return found


# ---------------------------------------------------------------- several components


def test_a_component_that_is_not_due_is_left_alone() -> None:
    """Neither its weights nor its gates move, not even by Adam's momentum or the penalty, while the critic does."""
    torch.manual_seed(0)
    given = learner(ActorCritic(), l0("regularizer.lambda_c=10"))
    for step in range(1, 10):
        target = copy(given.weights["target_critic"])
        weights = copy(given.weights["policy"])
        gates, critic = copy(given.gates["policy"]), copy(given.weights["critic"])
        metrics = given.update(batch(), env_step=step)
        due = step % 3 == 0
        assert equal(weights, given.weights["policy"]) is not due
        assert equal(gates, given.gates["policy"]) is not due
        assert ("loss/policy" in metrics) is due
        assert ("gradient/weights/policy" in metrics) is due
        assert not equal(critic, given.weights["critic"])
        assert not equal(target, given.weights["target_critic"])


def test_a_loss_moves_its_own_component_only() -> None:
    """The policy's loss is computed through the critic; the critic's gradient must not be changed by it."""
    torch.manual_seed(0)
    data = batch()
    with_policy, without = (learner(ActorCritic(), l0()) for _ in range(2))
    with_policy.update(data, env_step=3)  # one of the policy's
    without.update(data, env_step=4)  # not
    assert equal(with_policy.weights["critic"], without.weights["critic"])
    assert not equal(with_policy.weights["policy"], without.weights["policy"])


@dataclass(frozen=True)
class Shown(ActorCritic):
    """Keeps what its losses were given."""

    given: Weights = field(default_factory=dict)

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        self.given.update({component: copy(layers) for component, layers in weights.items()})
        return super().losses(weights, noise_free, batch, time, rng)


def test_a_target_runs_under_the_gates_of_what_it_follows() -> None:
    """Under the same draw of them: at the start a target is a copy, so what runs is the same to the last bit."""
    algorithm = Shown()
    given = learner(algorithm, l0())
    given.update(batch(), env_step=1)
    running, raw = algorithm.given["critic"], given.algorithm.init(MEMBERS)["critic"]
    assert equal(running, algorithm.given["target_critic"])
    assert not equal(running, raw), "the gates are random: something must be closed, or partly"
    # and what is kept is a raw copy that lags behind: 0.1 of the way after one step
    for name, kept in given.weights["target_critic"].items():
        torch.testing.assert_close(kept, torch.lerp(raw[name], given.weights["critic"][name].detach(), 0.1))


def test_two_losses_with_gates_learn() -> None:
    torch.manual_seed(0)
    given = learner(ActorCritic(), l0("regularizer.lambda_c=0"))
    for step in range(750):
        given.update(batch(), env_step=step)
    data = batch()
    action = given.algorithm.deterministic_action(given.deterministic(), data["observation"])
    error = (action[..., 0] - data["observation"][..., 0]).square()
    assert error.mean() < 0.03  # always 0 would score the variance of the feature, 1/3; three seeds come to 0.007-0.013


def test_the_objective_is_the_sum_of_its_terms() -> None:
    torch.manual_seed(0)
    given = learner(ActorCritic(), l0("regularizer.lambda_c=10"))
    metrics = given.update(batch(), env_step=3)
    for component in ("critic", "policy"):
        assert (metrics[f"penalty/{component}"] > 1).all()  # almost all gates are open, times 10
        total = metrics[f"loss/{component}"] + metrics[f"penalty/{component}"]
        torch.testing.assert_close(metrics[f"objective/{component}"], total)


# ---------------------------------------------------------------- constraints


def test_a_projection_holds_after_every_step() -> None:
    torch.manual_seed(0)
    free, held = (learner(ActorCritic(), Ball(zero_threshold=0.0, limit=limit)) for limit in (1e9, 0.25))
    for step in range(60):
        data = batch()
        free.update(data, env_step=step)
        held.update(data, env_step=step)  # the policy's first step is the first of all
        assert all(weight.abs().max() <= 0.25 for weight in regularized(held.weights["policy"]).values())
    assert any(weight.abs().max() > 0.25 for weight in regularized(free.weights["policy"]).values())
    assert any(weight.abs().max() > 0.25 for weight in regularized(held.weights["critic"]).values())  # not covered


def test_a_projection_leaves_members_that_were_stopped() -> None:
    """It failed before: their weights were projected once more."""
    given = learner(ActorCritic(), Ball(zero_threshold=0.0, limit=0.25))
    fresh = copy(given.weights["policy"])
    given.stopped.stop(1, "a reason", 0)
    given.update(batch(), env_step=3)
    for name, weight in regularized(given.weights["policy"]).items():
        assert torch.equal(weight[1], fresh[name][1])
        assert weight[[0, 2]].abs().max() <= 0.25
    assert any(weight.abs().max() > 0.25 for weight in regularized(fresh).values())


# ---------------------------------------------------------------- a trunk that two losses move

DISCRETE = Spec(observation_shape=(3,), discrete_actions=2)


@dataclass(frozen=True)
class Trunk(Algorithm):
    """An encoder before the policy and the critic: cross-entropy of the policy, squared error of the critic."""

    encoder: MLP = ENCODER
    head: MLP = HEAD
    gamma: float = 0.99
    max_grad_norm: float | None = None
    optimizer: Optimizer = DESCENT
    rate: float = 0.1

    actions = ("discrete",)
    policy = ("encoder", "policy")
    acting = ("encoder", "policy")

    @property
    def networks(self) -> Mapping[str, Network]:
        return {"encoder": self.encoder, "policy": self.head, "critic": self.head}

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return dict.fromkeys(("encoder", "policy", "critic"), Constant(self.rate))

    def init(self, members: Population) -> Weights:
        generators = members.generators("init")
        return {
            "encoder": self.encoder.init(self.spec.observation_shape, 5, generators),
            "policy": self.head.init((5,), 2, generators),
            "critic": self.head.init((5,), 1, generators),
        }

    def act(self, weights: Weights, observation: Float[Tensor, "member env *obs"], step: int, rng: MemberRng) -> Action:
        return Action(self.deterministic_action(weights, observation))

    def deterministic_action(self, weights: Weights, observation: Float[Tensor, "member env *obs"]) -> Tensor:
        return self.output(weights, "policy", observation).argmax(dim=-1)

    def output(self, weights: Weights, component: str, observation: Tensor) -> Tensor:
        return self.head(weights[component], torch.tanh(self.encoder(weights["encoder"], observation)))

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        log_prob = torch.log_softmax(self.output(weights, "policy", batch["observation"]), dim=-1)
        policy = -log_prob.gather(-1, batch["action"].unsqueeze(-1))[..., 0].mean(dim=-1)
        value = self.output(weights, "critic", batch["observation"])[..., 0]
        critic = (value - batch["reward"]).square().mean(dim=-1)
        return {
            "policy": Objective(policy, ("encoder", "policy"), active=batch.get("policy_active")),
            "critic": Objective(critic, ("encoder", "critic"), active=batch.get("critic_active")),
        }

    def policy_module(self, weights: Weights) -> nn.Module:
        return nn.Sequential(self.encoder.module(weights["encoder"]), nn.Tanh(), self.head.module(weights["policy"]))


def labelled(draw: torch.Generator | None = None) -> Batch:
    observation = 2 * torch.rand(3, 32, 3, generator=draw) - 1
    return {"observation": observation, "action": (observation[..., 0] > 0).long(), "reward": observation[..., 1]}


def by_hand(algorithm: Trunk, weights: Weights, data: Batch) -> dict[str, dict[str, Weights]]:
    """Of each objective the gradient in each component that it moves."""
    leaves = {c: {name: t.clone().requires_grad_() for name, t in layers.items()} for c, layers in weights.items()}
    found: dict[str, dict[str, Weights]] = {}
    for name, objective in algorithm.losses(leaves, leaves, data, Time(0, 0, 0), MEMBERS.rng("update")).items():
        found[name] = {}
        for component in objective.updates:
            gradients = torch.autograd.grad(objective.loss.sum(), list(leaves[component].values()), retain_graph=True)
            found[name][component] = dict(zip(leaves[component], gradients, strict=True))
    return found


def test_a_trunk_gets_the_sum_of_the_gradients_and_one_step() -> None:
    given = learner(Trunk(), regularizer_of("none"), DISCRETE)
    fresh, data = {c: copy(layers) for c, layers in given.weights.items()}, labelled(torch.Generator().manual_seed(0))
    gradients = by_hand(given.algorithm, fresh, data)
    metrics = given.update(data, env_step=1)
    expected = {
        "encoder": {n: g + gradients["critic"]["encoder"][n] for n, g in gradients["policy"]["encoder"].items()},
        "policy": gradients["policy"]["policy"],
        "critic": gradients["critic"]["critic"],
    }
    for component, layers in given.weights.items():
        for name, weight in layers.items():
            torch.testing.assert_close(weight, fresh[component][name] - 0.1 * expected[component][name])
        norm = torch.cat([gradient.flatten(1) for gradient in expected[component].values()], dim=1).norm(dim=1)
        torch.testing.assert_close(metrics[f"gradient/weights/{component}"], norm)
        assert given.state.weights[component].moments["step"] == 1
    assert not torch.allclose(gradients["policy"]["encoder"]["0.weight"], expected["encoder"]["0.weight"])


def test_a_trunk_moves_in_the_members_in_which_any_of_its_losses_is_active() -> None:
    """It failed before: the first objective that named the trunk decided for all of them.

    Member 0 takes part in both, member 1 in the critic's only, member 2 in neither.
    """
    given = learner(Trunk(), regularizer_of("none"), DISCRETE)
    fresh, data = {c: copy(layers) for c, layers in given.weights.items()}, labelled(torch.Generator().manual_seed(0))
    gradients = by_hand(given.algorithm, fresh, data)
    data |= {"policy_active": torch.tensor([True, False, False]), "critic_active": torch.tensor([True, True, False])}
    given.update(data, env_step=1)
    for name, weight in given.weights["encoder"].items():
        policy, critic = (gradients[objective]["encoder"][name] for objective in ("policy", "critic"))
        before = fresh["encoder"][name]
        torch.testing.assert_close(weight[0], (before - 0.1 * (policy + critic))[0])
        torch.testing.assert_close(weight[1], (before - 0.1 * critic)[1])
        assert torch.equal(weight[2], before[2])
    assert [torch.equal(given.weights["policy"]["0.weight"][m], fresh["policy"]["0.weight"][m]) for m in range(3)] == [
        False, True, True,
    ]  # fmt: skip
    assert [torch.equal(given.weights["critic"]["0.weight"][m], fresh["critic"]["0.weight"][m]) for m in range(3)] == [
        False, False, True,
    ]  # fmt: skip


def test_a_trunk_is_clipped_with_what_is_moved_first_by_one_norm() -> None:
    """The encoder, whose gradient is that of both losses, and the policy together; the critic by itself."""
    given = learner(Trunk(max_grad_norm=0.01), regularizer_of("none"), DISCRETE)
    fresh = {c: copy(layers) for c, layers in given.weights.items()}
    given.update(labelled(), env_step=1)
    steps = {
        c: torch.cat([(tensor - fresh[c][name]).flatten(1) for name, tensor in layers.items()], dim=1)
        for c, layers in given.weights.items()
    }
    together = torch.cat([steps["encoder"], steps["policy"]], dim=1).norm(dim=1)
    # the rate times the limit; 1e-3 for the rounding of small steps of weights near 1
    torch.testing.assert_close(together, torch.full((3,), 0.1 * 0.01), rtol=1e-3, atol=0)
    torch.testing.assert_close(steps["critic"].norm(dim=1), torch.full((3,), 0.1 * 0.01), rtol=1e-3, atol=0)


@pytest.mark.parametrize("scope", ["policy", "all"])
def test_all_deployed_components_are_regularised_and_counted(scope: str) -> None:
    regularizer = make_regularizer("regularizer=l0", *ON, f"regularizer.scope={scope}", "regularizer.lambda_c=3", members=3)
    given = learner(Trunk(), regularizer, DISCRETE)
    assert given.covered == ("encoder", "policy", "critic")[: 3 if scope == "all" else 2]
    metrics = given.update(labelled(), env_step=1)
    assert {name for name in metrics if name.startswith("penalty/")} == {f"penalty/{c}" for c in given.covered}
    # the penalty of the trunk is added once, to the first loss that moves it
    total = metrics["loss/policy"] + metrics["penalty/encoder"] + metrics["penalty/policy"]
    torch.testing.assert_close(metrics["objective/policy"], total)
    torch.testing.assert_close(metrics["objective/critic"], metrics["loss/critic"] + metrics.get("penalty/critic", 0))

    with torch.no_grad():
        for gates in given.gates.values():
            for gate in gates.values():
                gate.fill_(7.0)  # open
        given.gates["encoder"]["0.weight"][0, 0, :] = -7.0  # closed: 7 of the 3 * 7 + 7 * 5 + 5 * 2 = 66 weights
        given.gates["policy"]["0.weight"][1] = -7.0  # all 10
    given._running.forget()
    row = observe(given)
    assert row["sparsity/exact"].tolist() == pytest.approx([7 / 66, 10 / 66, 0])
    # at log_alpha -7 and 7 with beta 2/3 a gate is open with probability 0.0045 and 0.9998
    p_open, p_closed = (1 / (1 + math.exp(-log_alpha + 2 / 3 * math.log(1 / 11))) for log_alpha in (7.0, -7.0))
    for member, closed in enumerate((7, 10, 0)):
        expected = 1 - (closed * p_closed + (66 - closed) * p_open) / 66
        assert row["sparsity/expected"][member].item() == pytest.approx(expected, abs=1e-6)
    assert row["gates/encoder/closed"].tolist() == pytest.approx([7 / 56, 0, 0])
    assert row["gates/policy/closed"].tolist() == [0.0, 1.0, 0.0]
    assert ("sparsity/critic" in row) is (scope == "all")


def test_all_deployed_components_make_one_module_and_one_structure() -> None:
    given = learner(Trunk(), l0("regularizer.initial_open=0.6"), DISCRETE)
    for step in range(5):
        given.update(labelled(), env_step=step)
    weights, observation = given.deterministic(), labelled()["observation"]
    chosen = given.algorithm.deterministic_action(weights, observation)
    for member in range(3):
        its = {c: {name: tensor[member] for name, tensor in weights[c].items()} for c in given.algorithm.policy}
        assert torch.equal(given.algorithm.policy_module(its)(observation[member]).argmax(dim=-1), chosen[member])
    structure = given.algorithm.policy_structure()
    assert {name: matrix.feeds for name, matrix in structure.items()} == {
        "encoder/0.weight": ("encoder/1.weight",),
        "encoder/1.weight": ("policy/0.weight",),
        "policy/0.weight": (),
    }


# ---------------------------------------------------------------- members that sit a step out


@pytest.mark.parametrize("clipped", [None, 0.1])
@pytest.mark.parametrize("name", modules("regularizers"))
def test_a_member_that_is_not_active_keeps_everything_and_the_others_theirs(name: str, clipped: float | None) -> None:
    """Weights, gates and moments, bit for bit; it moves again at its next step."""
    algorithm = Trunk(max_grad_norm=clipped, optimizer=Adam(), rate=1e-2)
    ours, all_active = (learner(algorithm, regularizer_of(name), DISCRETE) for _ in range(2))
    masked = isinstance(ours.regularizer, Masked)
    draw = torch.Generator().manual_seed(0)
    for step in range(6):
        data = labelled(draw)
        all_active.update(data | {"policy_active": torch.ones(3).bool(), "critic_active": torch.ones(3).bool()}, env_step=step)
        active = torch.tensor([True, step % 2 == 0, True])
        before = [numbers(ours, member) for member in range(3)]
        ours.update(data | {"policy_active": active, "critic_active": active}, env_step=step)
        after = [numbers(ours, member) for member in range(3)]
        if step % 2:
            assert equal(after[1], before[1])
        for member in (0, 1, 2) if step % 2 == 0 else (0, 2):
            moving = [n for n in before[member] if n.endswith("0.weight") and not (n.startswith("gates/") and masked)]
            assert not any(torch.equal(after[member][n], before[member][n]) for n in moving)
        for member in (0, 2):
            assert equal(after[member], numbers(all_active, member))
    assert ours.stopped.sentences() == [None] * 3


def test_a_projection_leaves_members_that_are_not_active() -> None:
    """It failed before."""
    given = learner(Trunk(), Ball(zero_threshold=0.0, limit=0.1), DISCRETE)
    before, active = numbers(given, 1), torch.tensor([True, False, True])
    given.update(labelled() | {"policy_active": active, "critic_active": active}, env_step=0)
    assert equal(numbers(given, 1), before)
    assert given.weights["encoder"]["0.weight"][[0, 2]].abs().max() <= 0.1 < before["weights/encoder/0.weight"].abs().max()


# ---------------------------------------------------------------- components without weights


@dataclass(frozen=True)
class Tempered(Trunk):
    """With a temperature that is learned, as SAC has one: one number, which no regulariser has anything to do with."""

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return super().learning_rates | {"temperature": Constant(0.1)}

    def init(self, members: Population) -> Weights:
        return super().init(members) | {"temperature": {"log_alpha": torch.zeros(members.size)}}

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        loss = weights["temperature"]["log_alpha"].exp() * torch.tensor([1.0, 2.0, 3.0])
        return super().losses(weights, noise_free, batch, time, rng) | {"temperature": Objective(loss, ("temperature",))}


@pytest.mark.parametrize("name", modules("regularizers"))
def test_a_component_without_weights_learns_under_any_regulariser(name: str) -> None:
    given = learner(Tempered(), regularizer_of(name), DISCRETE)
    metrics = given.update(labelled(), env_step=1)
    torch.testing.assert_close(given.weights["temperature"]["log_alpha"], torch.tensor([-0.1, -0.2, -0.3]))
    assert "temperature" not in given.covered
    assert "penalty/temperature" not in metrics
    assert "temperature" in given.deterministic()
    assert not any("temperature" in metric for metric in (*observe(given), *distributions(given)))
    other = learner(Tempered(), regularizer_of(name), DISCRETE)
    other.load_state_dict(given.state_dict())
    assert torch.equal(other.weights["temperature"]["log_alpha"], given.weights["temperature"]["log_alpha"])


# ---------------------------------------------------------------- gates of another shape


def units(**changes: Any) -> Regularizer:
    """Gates of units, active from the first step."""
    plain = make_regularizer("regularizer=l0_units", members=MEMBERS.size)
    return dataclasses.replace(plain, **{"delay_steps": 0, "ramp_steps": 0} | changes)


@dataclass(frozen=True)
class DeepTrunk(Trunk):
    """Two hidden layers in the encoder."""

    encoder: MLP = DEEPER


def test_shares_of_gates_are_shares_of_weights() -> None:
    """Of 3 x 7, 7 x 4, 4 x 5 and 5 x 2 weights: 3 enter a unit of the first layer and 4 leave it, 7 and 5 of the second."""
    given = learner(DeepTrunk(), units(), DISCRETE)
    with torch.no_grad():
        given.gates["encoder"]["0.weight"].fill_(7.0)
        given.gates["encoder"]["1.weight"].fill_(7.0)
        given.gates["encoder"]["0.weight"][0, :2] = -7.0
        given.gates["encoder"]["1.weight"][1, :1] = -7.0
    given._running.forget()
    row, deterministic = observe(given), given.deterministic()["encoder"]
    weights, covered = 21 + 28 + 20 + 10, 7 * (3 + 4) + 4 * (7 + 5)
    assert row["sparsity/exact"].tolist() == pytest.approx([2 * (3 + 4) / weights, (7 + 5) / weights, 0.0])
    assert row["gates/encoder/closed"].tolist() == pytest.approx([2 * (3 + 4) / covered, (7 + 5) / covered, 0.0])
    assert row["gates/encoder/open"].tolist() == pytest.approx([1 - 14 / covered, 1 - 12 / covered, 1.0])
    assert row["gates/encoder/closed/encoder.0.weight"].tolist() == pytest.approx([2 / 7, 0.0, 0.0])
    assert (deterministic["0.bias"][0, 0, :2] == 0).all()
    assert (deterministic["0.weight"][0, :, :2] == 0).all()
    assert (deterministic["0.weight"][0, :, 2:] != 0).all()


def test_gates_of_units_are_frozen_and_come_back_from_a_checkpoint() -> None:
    regularizer = units(freeze_at_step=3)
    given = learner(DeepTrunk(), regularizer, DISCRETE)
    draw = torch.Generator().manual_seed(0)
    for step in range(3):
        given.update(labelled(draw), env_step=step)
    other = learner(DeepTrunk(), regularizer, DISCRETE)
    other.load_state_dict(given.state_dict())
    gates = copy(given.gates["encoder"])
    data = labelled(draw)
    for each in (given, other):
        each.update(data, env_step=3)
    assert equal(given.gates["encoder"], gates)
    assert all(equal(given.weights[c], other.weights[c]) for c in given.weights)
    assert equal(given.deterministic()["encoder"], other.deterministic()["encoder"])
