"""The losses of Stable-Baselines3, computed by its own code on the same weights and the same batch, are ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from parts import make_learner, random_batches
from torch import Tensor, nn

from sparserl.algorithms.off_policy import OffPolicyActorCritic
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
    weights = [(layers[f"{index}.weight"][0].T, layers[f"{index}.bias"][0, 0]) for index in range(len(layers) // 2)]
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
