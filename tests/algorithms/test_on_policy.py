"""What PPO and A2C share: networks apart or on a trunk, discrete and continuous actions, and what is deployed of them."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from parts import make_learner, parts
from probes import TargetByObservation
from safetensors.torch import load_file
from torch import Tensor, nn

from sparserl import load_policy
from sparserl.algorithms.a2c import A2C
from sparserl.algorithms.on_policy import OnPolicyActorCritic
from sparserl.config.schema import ConfigError
from sparserl.config.validation import compose
from sparserl.networks.mlp import MLP
from sparserl.optimizers import RMSprop
from sparserl.population.members import Population
from sparserl.population.state import split
from sparserl.regularizers.hard_concrete import log_alphas
from sparserl.schedules import Constant
from sparserl.sweeps.loop import run
from sparserl.training.learner import Learner
from sparserl.training.metrics import observe
from sparserl.types import Batch, Spec, Time, Weights

PENDULUM = (
    "environment=pendulum",
    "environment.max_episode_steps=40",
    "algorithm.normalize_observation=false",
    "network.initialization=orthogonal",
)
FORMS = {
    "discrete": ("environment=cartpole",),
    "trunk": ("environment=cartpole", "algorithm.share_trunk=true"),
    "continuous": PENDULUM,
    "continuous-trunk": (*PENDULUM, "algorithm.share_trunk=true"),
}
ACTIVE = "regularizer=l0", "regularizer.delay_steps=0", "regularizer.initial_open=0.7", "regularizer.lambda_c=1"

both = pytest.mark.parametrize("name", ["ppo", "a2c"])
forms = pytest.mark.parametrize("form", FORMS)


# ---------------------------------------------------------------- components


@both
@forms
def test_components_and_their_first_weights(name: str, form: str) -> None:
    """Outputs of the policy are small at first, since the norm of its last layer is 0.01; those of the critic are not."""
    learner = make_learner(f"algorithm={name}", "regularizer=none", "network.hidden=[13,7]", *FORMS[form], members=3)
    algorithm, weights = learner.algorithm, learner.weights
    assert isinstance(algorithm, OnPolicyActorCritic)
    trunk, continuous = algorithm.share_trunk, algorithm.spec.discrete_actions is None
    assert algorithm.policy == (("encoder", "policy") if trunk else ("policy",))
    assert set(algorithm.learning_rates) == {*algorithm.policy, "critic"}
    assert ("log_std" in weights["policy"]) == continuous
    norms = {c: list(tensors)[-2 - (c == "policy" and continuous)] for c, tensors in weights.items()}
    for component, norm in {"encoder": math.sqrt(2), "policy": 0.01, "critic": 1.0}.items():
        if component in weights:
            weight = weights[component][norms[component]]
            assert torch.linalg.svdvals(weight).max().item() == pytest.approx(norm, rel=1e-4)
    observation = torch.randn(3, 50, *algorithm.spec.observation_shape, generator=torch.Generator().manual_seed(0))
    given = algorithm.head_input(weights, observation)
    assert given.shape[2:] == ((7,) if trunk else algorithm.spec.observation_shape)
    assert algorithm.policy_outputs(weights, given).abs().max() < 0.05
    assert algorithm.value(weights, given).abs().max() > 0.05


@both
def test_a_trunk_needs_a_hidden_layer(name: str) -> None:
    with pytest.raises(ConfigError, match=r"network\.hidden is \[\], which leaves no trunk to share; give it a layer"):
        compose(f"algorithm={name}", "algorithm.share_trunk=true", "network.hidden=[]", "regularizer=none")


def test_log_std_starts_where_its_key_says_and_is_learned_but_not_counted() -> None:
    """Two inputs, 13 and 7 units and two means are 26 + 91 + 14 weights; closed gates and an L1 penalty leave it alone."""
    overrides = "algorithm=ppo", "environment=pendulum", "network.hidden=[13,7]", "algorithm.log_std_init=-0.5", *ACTIVE
    learner = make_learner(*overrides, members=2)
    assert torch.equal(learner.weights["policy"]["log_std"], torch.full((2, 1, 1), -0.5))
    gates = log_alphas(learner.gates["policy"])
    assert set(gates) == {"0.weight", "1.weight", "2.weight"}
    with torch.no_grad():
        for gate in gates.values():
            gate.fill_(-7.0)
    assert observe(learner)["sparsity/exact"].tolist() == [1.0, 1.0]
    assert torch.equal(learner.deterministic()["policy"]["log_std"], learner.weights["policy"]["log_std"])
    thresholded = make_learner(*overrides[:-4], "regularizer=l1", "regularizer.zero_threshold=10", members=2)
    assert (thresholded.deterministic()["policy"]["0.weight"] == 0).all()
    assert (thresholded.deterministic()["policy"]["log_std"] == -0.5).all()


# ---------------------------------------------------------------- what is deployed


@both
@forms
def test_the_deployed_module_acts_as_the_policy_and_its_structure_is_chained(name: str, form: str) -> None:
    normalized = "algorithm.normalize_observation=true"
    overrides = f"algorithm={name}", "regularizer=none", "network.hidden=[13,7]", *FORMS[form], normalized
    learner = make_learner(*overrides, members=3)
    algorithm, weights = learner.algorithm, learner.weights
    weights["policy"]["0.weight" if "trunk" in form else "2.weight"].mul_(300)  # so that some means lie beyond the bounds
    observation = torch.randn(3, 50, *algorithm.spec.observation_shape, generator=torch.Generator().manual_seed(0))
    chosen = algorithm.deterministic_action(weights, observation)
    for member in range(3):
        module = algorithm.policy_module(split({c: weights[c] for c in algorithm.policy}, member))
        output = module(observation[member])
        if algorithm.spec.discrete_actions is not None:
            assert torch.equal(output.argmax(dim=-1), chosen[member])
        else:
            torch.testing.assert_close(output, chosen[member])
            assert output.abs().max() == 2.0, "Pendulum's bounds are -2 and 2"
            assert output.abs().min() < 2.0
        # nothing but linear layers holds weights, and one activation is between each two of them
        kinds = [type(part) for part in module.modules() if isinstance(part, nn.Linear | nn.Tanh)]
        assert kinds == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    structure = list(algorithm.policy_structure().items())
    for (_, matrix), (following, _) in zip(structure, structure[1:], strict=False):  # noqa: RUF007
        assert matrix.feeds == (following,)
    assert structure[-1][1].feeds == ()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("name", "form"),
    [
        # quick: all forms under one algorithm; both take theirs from the same class
        pytest.param(name, form, marks=() if name == "ppo" or form == "discrete" else pytest.mark.slow)
        for name in ("ppo", "a2c")
        for form in FORMS
    ],
)
def test_a_policy_is_trained_factored_loaded_and_started_from(name: str, form: str, tmp_path: Path) -> None:
    """The whole way. At each rank what is loaded gives the actions of the factored network."""
    common = f"algorithm={name}", "trainer=smoke", "logger=disk", "network.hidden=[13,7]", *FORMS[form]
    config = compose(*common, "regularizer=l0", "regularizer.delay_steps=0", "lowrank.ranks=[1,2]")
    (result,) = run([config], [tmp_path / "one"], live=False)
    assert result.status == "done"
    rows = list(csv.DictReader((tmp_path / "one" / "lowrank.csv").open()))
    assert [row["rank"] for row in rows] == ["1", "2", "full"]
    weights = load_file(tmp_path / "one" / "policy.safetensors")
    trunk, continuous = "trunk" in form, "continuous" in form
    assert {key.partition("/")[0] for key in weights} == ({"encoder", "policy"} if trunk else {"policy"})
    assert ("policy/log_std" in weights) == continuous
    numbers = sum(tensor.numel() for key, tensor in weights.items() if key.endswith(".weight"))
    assert int(rows[-1]["parameters"]) == numbers == result.policy_weights
    observation = torch.randn(20, 3 if continuous else 4, generator=torch.Generator().manual_seed(0))
    whole, factored = load_policy(tmp_path / "one"), load_policy(tmp_path / "one", rank=1)
    assert whole(observation).shape == (20, 1 if continuous else 2)
    assert sum(isinstance(part, nn.Linear) for part in factored.modules()) > 3
    assert not torch.equal(whole(observation), factored(observation))

    still = "algorithm.learning_rate=0", "lowrank.ranks=[]", "regularizer=none"
    again = compose(*common, *still, f"init_from={tmp_path / 'one'}")
    run([again], [tmp_path / "two"], live=False)
    started = load_file(tmp_path / "two" / "policy.safetensors")
    assert started.keys() == weights.keys()
    assert all(torch.equal(started[key], weights[key]) for key in weights)


# ---------------------------------------------------------------- A2C


def a2c(**changes: Any) -> A2C:
    values: dict[str, Any] = {
        "network": MLP(hidden=[], activation="tanh"),
        "share_trunk": False,
        "gamma": 0.5,
        "gae_lambda": 1.0,
        "learning_rate": Constant(0.1),
        "ent_coef": Constant(0.0),
        "vf_coef": 0.0,
        "normalize_advantage": False,
        "log_std_init": 0.0,
        "max_grad_norm": None,
        "optimizer": RMSprop(),
    }
    return A2C(**(values | changes))


def linear(weight: list[float]) -> dict[str, Tensor]:
    return {"0.weight": torch.tensor([[weight]]), "0.bias": torch.zeros(1, 1, len(weight))}


def loss_of(algorithm: A2C, spec: Spec, weights: Weights, batch: Batch) -> Tensor:
    bound = algorithm.bind(spec)
    found = bound.losses(weights, weights, batch, Time(0, 0, 0), Population((0,)).rng("update"))["policy"]
    assert found.updates == ("policy", "critic")
    assert found.active is None
    return found.loss


def test_the_loss_of_a2c_by_hand() -> None:
    """Action 1 has probability 3/4 and action 0 1/4; advantages are 2 and -4, values 1, returns 4 and 2."""
    weights = {"policy": linear([0.0, math.log(3)]), "critic": linear([1.0])}
    batch = {
        "observation": torch.ones(1, 2, 1),
        "action": torch.tensor([[1, 0]]),
        "advantage": torch.tensor([[2.0, -4.0]]),
        "return": torch.tensor([[4.0, 2.0]]),
    }
    policy = -(2 * math.log(0.75) - 4 * math.log(0.25)) / 2
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = policy + 0.5 * (9 + 1) / 2 - 0.1 * entropy
    found = loss_of(a2c(vf_coef=0.5, ent_coef=Constant(0.1)), Spec((1,), 2), weights, batch)
    assert found.tolist() == pytest.approx([expected], rel=1e-5)


def test_the_loss_of_a2c_for_continuous_actions_by_hand() -> None:
    """The mean is 0.5 and the deviation 2; samples are one deviation above it and none."""
    weights = {"policy": linear([0.5]) | {"log_std": torch.tensor([[[math.log(2)]]])}, "critic": linear([1.0])}
    batch = {
        "observation": torch.ones(1, 2, 1),
        "sample": torch.tensor([[[2.5], [0.5]]]),
        "advantage": torch.tensor([[2.0, -4.0]]),
        "return": torch.tensor([[4.0, 2.0]]),
    }
    peak = -math.log(2) - 0.5 * math.log(2 * math.pi)
    entropy = 0.5 * math.log(2 * math.pi * math.e * 4)
    expected = -(2 * (peak - 0.5) - 4 * peak) / 2 - 0.1 * entropy
    found = loss_of(a2c(ent_coef=Constant(0.1)), Spec((1,), None, (-1.0,), (1.0,)), weights, batch)
    assert found.tolist() == pytest.approx([expected])


def test_a2c_takes_each_rollout_as_one_batch_once() -> None:
    given = parts("algorithm=a2c", "regularizer=none")
    experience, spec = given.experience, given.environment.spec()
    experience.begin(given.members, spec, given.environment.relabel)
    algorithm = given.algorithm.bind(spec)
    weights, rng = algorithm.init(given.members), given.members.rng("exploration")
    sizes = []
    for step in range(10):
        observation = torch.full((1, 8, 4), float(step))
        action, zeros = algorithm.act(weights, observation, step, rng).action, torch.zeros(1, 8)
        transition = {"observation": observation, "next_observation": observation, "action": action}
        experience.extend(transition | {"reward": zeros, "terminated": zeros, "truncated": zeros})
        minibatches = experience.selections(lambda steps: algorithm.prepare(weights, steps))
        sizes += [selection.batch()["advantage"].shape[1] for selection in minibatches]
    assert sizes == [40, 40]


def test_a_sample_beyond_the_bounds_is_judged_as_it_was_drawn() -> None:
    """The environment gets what is clipped, and the transition keeps both."""
    learner = make_learner("algorithm=ppo", "regularizer=none", "environment=pendulum", "algorithm.log_std_init=1.0")
    algorithm, world = learner.algorithm.bind(TargetByObservation().spec()), Population((0,))
    weights = algorithm.init(world)
    observation = torch.ones(1, 200, 1)
    action = algorithm.act(weights, observation, 0, world.rng("exploration"))
    taken, broken = algorithm.spec.clip_action(action.action)
    assert not broken.any()
    assert taken[..., 1].min() == 0.0
    assert taken[..., 1].max() == 4.0
    zeros = torch.zeros(1, 1, 200)
    steps = {"observation": observation, "next_observation": observation, "action": taken, **action.extras}
    rollout = {name: tensor.unsqueeze(1) for name, tensor in steps.items()}
    batch = algorithm.prepare(weights, rollout | {"reward": zeros, "terminated": zeros, "truncated": zeros})
    mean = algorithm.networks["policy"](weights["policy"], observation)
    theirs = torch.distributions.Normal(mean, math.e).log_prob(action.extras["sample"]).sum(dim=-1)
    torch.testing.assert_close(batch["log_prob"], theirs)


# ---------------------------------------------------------------- a member that diverges


@pytest.mark.parametrize(
    "settings", [("algorithm=ppo", "algorithm.target_kl=0.01", "algorithm.clip_range_vf=0.2"), ("algorithm=a2c",)]
)
@pytest.mark.parametrize("form", ["trunk", "continuous-trunk"])
def test_a_member_that_diverges_keeps_every_number_and_the_others_theirs(form: str, settings: tuple[str, ...]) -> None:
    """Bit for bit, in trunk, heads and log_std, with gates that are active; also which members left the rollout early."""
    overrides = *settings, *FORMS[form], *ACTIVE, "network.hidden=[13,7]"
    ours, untouched = (make_learner(*overrides, members=3) for _ in range(2))
    algorithm, draw, rng = ours.algorithm, torch.Generator().manual_seed(0), Population((0, 1, 2)).rng("exploration")
    assert isinstance(algorithm, OnPolicyActorCritic)
    before: list[Tensor] = []
    for learner in (ours, untouched):
        learner.begin_rollout(0)
    for update in range(4):
        observation = torch.randn(3, 20, *algorithm.spec.observation_shape, generator=draw)
        action = algorithm.act(untouched.acting(), observation, 0, rng)
        zeros = torch.zeros(3, 1, 20)
        steps = {"observation": observation, "next_observation": observation, "action": action.action, **action.extras}
        rollout = {name: tensor.unsqueeze(1) for name, tensor in steps.items()}
        numbers = {"reward": torch.randn(3, 1, 20, generator=draw), "terminated": zeros, "truncated": zeros}
        batch = algorithm.prepare(untouched.acting(), rollout | numbers)
        untouched.update(batch, env_step=10)
        if update == 2:
            before = all_numbers(ours, 1)
            batch["advantage"][1, 3] = math.nan
        ours.update(batch, env_step=10)
    assert [sentence is not None for sentence in ours.stopped.sentences()] == [False, True, False]
    assert all(torch.equal(one, other) for one, other in zip(all_numbers(ours, 1), before, strict=True))
    for member in (0, 2):
        both_of = zip(all_numbers(ours, member), all_numbers(untouched, member), strict=True)
        assert all(torch.equal(one, other) for one, other in both_of)


def all_numbers(learner: Learner, member: int) -> list[Tensor]:
    """Weights, gates and other components of one member."""
    tensors = [tensor for layers in learner.weights.values() for tensor in layers.values()]
    tensors += [tensor for gates in learner.gates.values() for tensor in gates.values()]
    return [tensor[member].clone() for tensor in tensors]
