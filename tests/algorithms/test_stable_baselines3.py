"""The losses of Stable-Baselines3, computed by its own code on the same weights and the same batch, are ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from parts import make_learner, random_batches
from torch import Tensor, nn

from sparserl.algorithms.off_policy import OffPolicyActorCritic
from sparserl.algorithms.on_policy import OnPolicyActorCritic
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.types import Batch, Layers, Time, Weights

pytestmark = pytest.mark.slow  # its import takes seconds

SIZES = [16, 12]
ROWS = 32


class Zeros(MemberRng):
    """Noise that is 0, so that both see the same."""

    def normal(self, *shape: int) -> Tensor:
        return torch.zeros(1, *shape)


def copied(layers: Layers, linears: list[nn.Module]) -> None:
    """Give linear layers of theirs the weights of our only member. SAC's two heads are one layer of ours, side by side."""
    numbered = range(sum(name.endswith(".weight") for name in layers))
    weights = [(layers[f"{index}.weight"][0].T, layers[f"{index}.bias"][0, 0]) for index in numbered]
    with torch.no_grad():
        for index, linear in enumerate(linears):
            assert isinstance(linear, nn.Linear)
            weight, bias = weights[min(index, len(weights) - 1)]
            start = 0 if index < len(weights) else linear.out_features  # SAC's second head
            linear.weight.copy_(weight[start : start + linear.out_features])
            linear.bias.copy_(bias[start : start + linear.out_features])


def linears(module: nn.Module) -> list[nn.Module]:
    return [its for its in module.modules() if isinstance(its, nn.Linear)]


def ours(name: str, *overrides: str) -> tuple[OffPolicyActorCritic, Weights, Batch]:
    given = f"algorithm={name}", "environment=pendulum", "regularizer=none", f"network.hidden={SIZES}".replace(" ", "")
    learner = make_learner(*given, *overrides)
    assert isinstance(learner.algorithm, OffPolicyActorCritic)
    weights = {c: {name: tensor.clone() for name, tensor in layers.items()} for c, layers in learner.weights.items()}
    draw = torch.Generator().manual_seed(1)
    for component in learner.algorithm.targets:  # so that a target is no copy
        for tensor in weights[component].values():
            tensor += 0.05 * torch.randn(tensor.shape, generator=draw)
    return learner.algorithm, weights, random_batches(1, 1, ROWS, name)[0]


def theirs(kind: Any, algorithm: OffPolicyActorCritic, weights: Weights, batch: Batch, **settings: Any) -> dict[str, float]:
    """What Stable-Baselines3 logs of one gradient step that moves nothing."""
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    arch = {"net_arch": SIZES}
    model = kind(
        "MlpPolicy", "Pendulum-v1", policy_kwargs=arch, learning_rate=0.0, gamma=algorithm.gamma, device="cpu", **settings
    )
    copied(weights["policy"], linears(model.actor))
    if hasattr(model, "actor_target"):
        copied(weights["target_policy"], linears(model.actor_target))
    for prefix, critic in (("", model.critic), ("target_", model.critic_target)):
        for index, network in enumerate(critic.q_networks, start=1):
            copied(weights[f"{prefix}critic_{index}"], linears(network))
    actions = algorithm.spec.unscale_action(batch["action"][0])
    columns = (batch[name][0].view(ROWS, -1) for name in ("terminated", "reward"))
    dones, rewards = columns
    sample = ReplayBufferSamples(batch["observation"][0], actions, batch["next_observation"][0], dones, rewards)
    model.replay_buffer = SimpleNamespace(sample=lambda *_, **__: sample)
    model.set_logger(configure(None, []))
    model.train(gradient_steps=1, batch_size=ROWS)
    return {name.removeprefix("train/"): float(value) for name, value in model.logger.name_to_value.items()}


@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_deterministic_policies(name: str) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    settings: dict[str, Any] = {}
    if name == "td3":
        settings = {"target_policy_noise": 0.0, "policy_delay": 1}
    overrides = ["algorithm.policy_delay=1"] if name == "td3" else []
    algorithm, weights, batch = ours(name, *overrides)
    found = algorithm.losses(weights, weights, batch, Time(1, 0, 0), Zeros(Population((0,)).generators("update")))
    logged = theirs(getattr(sb3, name.upper()), algorithm, weights, batch, **settings)
    assert found["critic"].loss.item() == pytest.approx(logged["critic_loss"], rel=1e-5)
    assert found["policy"].loss.item() == pytest.approx(logged["actor_loss"], rel=1e-5)


def test_sac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stable-Baselines3 takes half of the critics' error, and adds 1e-6 to the slope of tanh before its logarithm."""
    sb3 = pytest.importorskip("stable_baselines3")
    algorithm, weights, batch = ours("sac", "algorithm.initial_temperature=0.5")
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda shape, dtype, device: torch.zeros(shape))
    rng = Zeros(Population((0,)).generators("update"))
    found = algorithm.losses(weights, weights, batch, Time(1, 0, 0), rng)
    logged = theirs(sb3.SAC, algorithm, weights, batch, ent_coef="auto_0.5")
    assert found["critic"].loss.item() / 2 == pytest.approx(logged["critic_loss"], rel=1e-4)
    assert found["policy"].loss.item() == pytest.approx(logged["actor_loss"], rel=1e-4)
    assert found["temperature"].loss.item() == pytest.approx(logged["ent_coef_loss"], rel=1e-4)
    assert found["temperature"].metrics["temperature"].item() == pytest.approx(logged["ent_coef"], rel=1e-5)


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_on_policy(name: str, environment: str) -> None:
    """One gradient step on a rollout of our own, with entropy bonus and, of PPO, values that are clipped.

    Theirs judges samples as they are, so they are given ours in their units.
    """
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import RolloutBufferSamples

    clipped = ("algorithm.clip_range_vf=0.05",) if name == "ppo" else ()
    chosen = f"algorithm={name}", f"environment={environment.lower().partition('-')[0]}", "regularizer=none"
    learner = make_learner(*chosen, "network.hidden=[16,12]", "algorithm.ent_coef=0.1", "algorithm.log_std_init=-0.3", *clipped)
    algorithm = learner.algorithm
    assert isinstance(algorithm, OnPolicyActorCritic)
    weights = {c: {n: tensor.clone() for n, tensor in layers.items()} for c, layers in learner.weights.items()}
    draw, world = torch.Generator().manual_seed(1), Population((0,))
    observation = torch.randn(1, ROWS, *algorithm.spec.observation_shape, generator=draw)
    action = algorithm.act(weights, observation, 0, world.rng("exploration"))
    taken = action.extras.get("sample", action.action)

    def moved() -> Tensor:
        return 0.3 * torch.randn(1, ROWS, generator=draw)

    given = algorithm.head_input(weights, observation)
    outputs, values = algorithm.policy_outputs(weights, given), algorithm.value(weights, given)
    batch = {
        "observation": observation,
        algorithm.distribution.chosen: taken,
        "log_prob": algorithm.distribution.log_prob(outputs, weights["policy"], taken) + moved(),
        "value": values + moved(),
        "advantage": moved(),
        "return": values + moved(),
    }
    found = algorithm.losses(weights, weights, batch, Time(1, 0, 0), world.rng("update"))["policy"]

    settings: dict[str, Any] = {"n_steps": ROWS, "ent_coef": 0.1, "vf_coef": 0.5, "learning_rate": 0.0, "device": "cpu"}
    if name == "ppo":
        settings |= {"batch_size": ROWS, "n_epochs": 1, "clip_range": 0.2, "clip_range_vf": 0.05}
    arch = {"pi": SIZES, "vf": SIZES}
    model = getattr(sb3, name.upper())("MlpPolicy", environment, policy_kwargs={"net_arch": arch}, **settings)
    copied(weights["policy"], [*linears(model.policy.mlp_extractor.policy_net), model.policy.action_net])
    copied(weights["critic"], [*linears(model.policy.mlp_extractor.value_net), model.policy.value_net])
    if "log_std" in weights["policy"]:
        with torch.no_grad():
            model.policy.log_std.copy_(weights["policy"]["log_std"][0, 0])
    sample = RolloutBufferSamples(
        observation[0], taken[0], *(batch[n][0] for n in ("value", "log_prob", "advantage", "return"))
    )
    buffer = SimpleNamespace(get=lambda *_, **__: iter([sample]), values=values[0].numpy(), returns=batch["return"][0].numpy())
    model.rollout_buffer = buffer
    model.set_logger(configure(None, []))
    model.train()
    logged = {key.removeprefix("train/"): value for key, value in model.logger.name_to_value.items()}
    names = {"value_loss": "value_loss", "policy_loss": "policy_gradient_loss" if name == "ppo" else "policy_loss"}
    for mine, its in names.items():
        assert found.metrics[mine].item() == pytest.approx(logged[its], rel=1e-5, abs=1e-6)
    assert found.metrics["entropy"].item() == pytest.approx(-logged["entropy_loss"], rel=1e-5)
    if name == "ppo":
        assert found.loss.item() == pytest.approx(logged["loss"], rel=1e-5)
        assert found.metrics["approx_kl"].item() == pytest.approx(logged["approx_kl"], rel=1e-4)
        assert found.metrics["clip_fraction"].item() == pytest.approx(logged["clip_fraction"])
        assert 0 < logged["clip_fraction"] < 1


@pytest.mark.parametrize("kind", ["double_dqn", "dqn"])
def test_action_values(kind: str) -> None:
    """Stable-Baselines3 has no double DQN: the negative control, whose loss differs where the choices do."""
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    learner = make_learner(f"algorithm={kind}", "regularizer=none", "algorithm.loss=huber", "network.hidden=[16,12]")
    algorithm, (batch,) = learner.algorithm, random_batches(1, 1, ROWS, kind)
    weights = {c: {n: tensor.clone() for n, tensor in layers.items()} for c, layers in learner.weights.items()}
    for name in ("2.weight", "2.bias"):  # the target prefers what the network does not
        weights["target_policy"][name] *= -1
    found = algorithm.losses(weights, weights, batch, Time(1, 0, 0), Population((0,)).rng("update"))["policy"]
    model = sb3.DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": SIZES}, learning_rate=0.0, gamma=algorithm.gamma)
    copied(weights["policy"], linears(model.q_net))
    copied(weights["target_policy"], linears(model.q_net_target))
    dones, rewards, actions = (batch[name][0].unsqueeze(1) for name in ("terminated", "reward", "action"))
    sample = ReplayBufferSamples(batch["observation"][0], actions, batch["next_observation"][0], dones, rewards)
    model.replay_buffer = SimpleNamespace(sample=lambda *_, **__: sample)
    model.set_logger(configure(None, []))
    model.train(gradient_steps=1, batch_size=ROWS)
    logged = model.logger.name_to_value["train/loss"]
    assert (found.loss.item() == pytest.approx(logged, rel=1e-5)) == (kind == "dqn")
