"""PPO: advantages and the objective worked by hand, and the policy that is improved is the one that acted."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parts import as_kind, make_regularizer
from probes import TargetByObservation
from torch import Tensor

from sparserl.algorithms.base import Objective
from sparserl.algorithms.on_policy import generalized_advantage
from sparserl.algorithms.ppo import PPO
from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.environments.base import Environment
from sparserl.environments.cartpole import CartPole
from sparserl.environments.gymnasium import Gymnasium
from sparserl.experience.rollout import Rollout
from sparserl.networks.cnn import CNN
from sparserl.networks.mlp import MLP
from sparserl.optimizers import Adam
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.population.state import split, stack
from sparserl.schedules import Constant, Linear
from sparserl.training.learner import Learner
from sparserl.types import Batch, Metrics, Spec, Time, Transition, Weights
from sparserl.types import Rollout as Steps

# ---------------------------------------------------------------- advantages


def test_advantages_by_hand() -> None:
    """gamma = lambda = 1/2, so what follows counts a quarter. The reward is 1, 2, 3, 4; values before steps are 4, 8, 2, 6.

    Sub-environment 0 goes on to the end of the rollout:
        TD errors  1 + 8/2 - 4 = 1     2 + 2/2 - 8 = -5    3 + 6/2 - 2 = 4    4 + 20/2 - 6 = 8
        advantage  1 - 3.5/4 = 0.125   -5 + 6/4 = -3.5     4 + 8/4 = 6        8
    In sub-environment 1 the second step terminates: its next value, 100, counts for nothing. The third truncates: its next
    value, 10, counts. Neither passes on what follows, which is of the next episode:
        TD errors  1                   2 - 8 = -6          3 + 10/2 - 2 = 6   8
        advantage  1 - 6/4 = -0.5      -6                  6                  8
    A checkpoint ends every episode, whether or not the environment did: all are truncated then.
    """
    reward = torch.tensor([1.0, 2.0, 3.0, 4.0])
    v_tm1 = torch.tensor([4.0, 8.0, 2.0, 6.0])
    v_t = torch.tensor([[8.0, 2.0, 6.0, 20.0], [8.0, 100.0, 10.0, 20.0]])
    terminated = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    truncated = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])

    def advantage(truncated: Tensor) -> list[list[float]]:
        rows = [values.expand(2, 4).T.unsqueeze(0) for values in (reward, v_tm1, v_t, terminated, truncated)]
        found = generalized_advantage(*rows, gamma=0.5, gae_lambda=0.5)
        assert found.shape == (1, 4, 2)
        return found[0].T.tolist()

    assert advantage(truncated) == [[0.125, -3.5, 6.0, 8.0], [-0.5, -6.0, 6.0, 8.0]]
    # a checkpoint after the second step: TD errors stay, and the advantage of the second is its own
    truncated[:, 1] = 1.0
    assert advantage(truncated) == [[1 - 5 / 4, -5.0, 6.0, 8.0], [-0.5, -6.0, 6.0, 8.0]]


def test_lambda_one_is_the_return_and_lambda_zero_the_td_error() -> None:
    draw = torch.Generator().manual_seed(0)
    reward, v_tm1 = torch.randn(2, 6, 3, generator=draw), torch.randn(2, 6, 3, generator=draw)
    v_t = torch.cat([v_tm1[:, 1:], torch.randn(2, 1, 3, generator=draw)], dim=1)
    never = torch.zeros(2, 6, 3)
    one, zero = (generalized_advantage(reward, v_tm1, v_t, never, never, 0.9, value) for value in (1.0, 0.0))
    torch.testing.assert_close(zero, reward + 0.9 * v_t - v_tm1)
    returns, following = torch.zeros_like(reward), v_t[:, -1]
    for time in reversed(range(6)):
        following = reward[:, time] + 0.9 * following
        returns[:, time] = following
    torch.testing.assert_close(one, returns - v_tm1)


@given(time=st.integers(1, 40), seed=st.integers(0, 2**16), ends=st.floats(0, 0.5))
def test_advantages_are_the_recursion_from_the_last_step_back(time: int, seed: int, ends: float) -> None:
    """They are summed over 1, 2, 4 ... steps at once. Within rounding of sums of up to 40 numbers of size 1."""
    draw = torch.Generator().manual_seed(seed)
    reward, v_tm1, v_t = torch.randn(3, 2, time, 3, generator=draw)
    terminated, truncated = (torch.rand(2, 2, time, 3, generator=draw) < ends).float()
    found = generalized_advantage(reward, v_tm1, v_t, terminated, truncated, 0.99, 0.95)

    following = torch.zeros(2, 3)
    for step in reversed(range(time)):
        delta = reward[:, step] + 0.99 * (1 - terminated[:, step]) * v_t[:, step] - v_tm1[:, step]
        goes_on = (1 - terminated[:, step]) * (1 - truncated[:, step])
        following = delta + 0.99 * 0.95 * goes_on * following
        torch.testing.assert_close(found[:, step], following, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- the objective, by hand

# a linear network without hidden units, seen by one state (1.0): logits are the row of weights, the value is one weight


def ppo(kind: type[PPO] = PPO, **changes: Any) -> PPO:
    values: dict[str, Any] = {
        "network": MLP(hidden=[], activation="tanh"),
        "gamma": 0.5,
        "gae_lambda": 0.5,
        "learning_rate": Constant(0.1),
        "clip_range": Constant(0.2),
        "clip_range_vf": None,
        "target_kl": None,
        "share_trunk": False,
        "log_std_init": 0.0,
        "ent_coef": Constant(0.0),
        "vf_coef": 0.0,
        "normalize_advantage": False,
        "max_grad_norm": None,
        "optimizer": Adam(),
    }
    return kind(**(values | changes))


def example(probability: float, value: float = 0.0) -> Weights:
    """A policy that takes action 1 with this probability."""
    logits = torch.tensor([[[0.0, math.log(probability / (1 - probability))]]])
    return {
        "policy": {"0.weight": logits, "0.bias": torch.zeros(1, 1, 2)},
        "critic": {"0.weight": torch.tensor([[[value]]]), "0.bias": torch.zeros(1, 1, 1)},
    }


def minibatch(advantage: list[float], returns: float = 0.0) -> Batch:
    """Action 1 each time, which the policy that acted took with probability one half."""
    rows = len(advantage)
    return {
        "observation": torch.ones(1, rows, 1),
        "action": torch.ones(1, rows, dtype=torch.long),
        "log_prob": torch.full((1, rows), math.log(0.5)),
        "advantage": torch.tensor([advantage]),
        "return": torch.full((1, rows), returns),
    }


def objective(algorithm: PPO, weights: Weights, batch: Batch, step: int = 0) -> Objective:
    bound = algorithm.bind(Spec((1,), 2))
    return bound.losses(weights, weights, batch, Time(step, 0, 0), Population((0,)).rng("update"))["policy"]


@pytest.mark.parametrize(
    ("probability", "advantage", "loss", "clipped"),
    [
        (0.5, 3.0, -3.0, 0.0),  # a ratio of 1
        (0.55, 3.0, -3.3, 0.0),  # 1.1: within the range
        (0.75, 3.0, -3.6, 1.0),  # 1.5 counts as 1.2 where more of it would be better
        (0.75, -3.0, 4.5, 1.0),  # and as it is where it would be worse
        (0.25, -3.0, 2.4, 1.0),  # 0.5 counts as 0.8 where less of it would be better
        (0.25, 3.0, -1.5, 1.0),
    ],
)
def test_the_clipped_surrogate_by_hand(probability: float, advantage: float, loss: float, clipped: float) -> None:
    found = objective(ppo(), example(probability), minibatch([advantage]))
    assert found.updates == ("policy", "critic")
    assert found.loss.tolist() == pytest.approx([loss])
    assert found.metrics["clip_fraction"].tolist() == [clipped]
    ratio = probability / 0.5
    assert found.metrics["approx_kl"].tolist() == pytest.approx([ratio - 1 - math.log(ratio)], abs=1e-6)


def test_the_clip_range_follows_its_schedule() -> None:
    algorithm = ppo(clip_range=Linear(0.4, 0.0, steps=100))
    for step, loss in ((0, -1.4), (50, -1.2), (100, -1.0)):
        assert objective(algorithm, example(0.75), minibatch([1.0]), step).loss.tolist() == pytest.approx([loss])


def test_the_terms_are_added_by_their_weights() -> None:
    """The surrogate is -2, the critic is 3 below the return, and the entropy of one half each is log 2."""
    found = objective(ppo(ent_coef=Constant(0.1), vf_coef=0.5), example(0.5, value=1.0), minibatch([2.0], returns=4.0))
    assert found.loss.tolist() == pytest.approx([-2 - 0.1 * math.log(2) + 0.5 * 9])
    terms = {name: found.metrics[name].item() for name in ("policy_loss", "value_loss", "entropy")}
    assert terms == pytest.approx({"policy_loss": -2.0, "value_loss": 9.0, "entropy": math.log(2)})


def test_the_entropy_bonus_follows_its_schedule() -> None:
    """The surrogate of no advantage is 0, and the entropy of one half each is log 2."""
    algorithm = ppo(ent_coef=Linear(0.4, 0.0, steps=100))
    for step, weight in ((0, 0.4), (50, 0.2), (100, 0.0)):
        found = objective(algorithm, example(0.5), minibatch([0.0]), step)
        assert found.loss.tolist() == pytest.approx([-weight * math.log(2)])


def test_advantages_are_normalised_in_each_members_minibatch() -> None:
    """Advantages 1, 2, 3, 6 have mean 3 and, of a sample, variance (4 + 1 + 0 + 9) / 3; the member beside them has others."""
    weights, other = example(0.5), minibatch([100.0, -100.0, 50.0, 0.0])
    two = {c: {name: torch.cat([t, t]) for name, t in layers.items()} for c, layers in weights.items()}
    batch = {name: torch.cat([values, other[name]]) for name, values in minibatch([1.0, 2.0, 3.0, 6.0]).items()}
    members = Population((0, 1)).rng("update")
    # at a ratio of 1 the loss is minus the mean of advantages, 0; its slope in the logit of action 1 is their mean times 1/2:
    # so weigh them by different actions: action 0 for the last
    batch["action"][:, 3] = 0
    leaf = two["policy"]["0.weight"].requires_grad_()
    loss = ppo(normalize_advantage=True).bind(Spec((1,), 2)).losses(two, two, batch, Time(0, 0, 0), members)["policy"].loss
    assert loss.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    # d ratio / d logit 1 is 1/2 for action 1 and -1/2 for action 0; normalised advantages are (-2, -1, 0, 3) / sqrt(14 / 3)
    expected = -(-2 - 1 + 0 - 3) / math.sqrt(14 / 3) / 2 / 4
    assert slope[0, 0].tolist() == pytest.approx([-expected, expected])


def test_one_transition_is_not_normalised() -> None:
    """It has no standard deviation."""
    assert objective(ppo(normalize_advantage=True), example(0.5), minibatch([3.0])).loss.tolist() == pytest.approx([-3.0])


def test_prepare_says_what_the_policy_that_acted_thought() -> None:
    """Returns are advantages plus values, log-probabilities those of the actions; rows are time by time."""
    algorithm, weights = ppo().bind(Spec((1,), 2)), example(0.25, value=2.0)
    steps: Steps = {
        "observation": torch.tensor([[[[1.0], [3.0]], [[1.0], [3.0]]]]),
        "next_observation": torch.tensor([[[[1.0], [3.0]], [[5.0], [7.0]]]]),
        "action": torch.tensor([[[1, 0], [0, 1]]]),
        "reward": torch.tensor([[[1.0, 0.0], [2.0, 0.0]]]),
        "terminated": torch.zeros(1, 2, 2),
        "truncated": torch.zeros(1, 2, 2),
    }
    batch = algorithm.prepare(weights, steps)
    assert batch.keys() == {"observation", "action", "log_prob", "value", "advantage", "return"}
    assert batch["observation"].flatten().tolist() == [1.0, 3.0, 1.0, 3.0]
    # sub-environment 0 has values 2, 2, then 10: TD errors 1 + 1 - 2 = 0 and 2 + 5 - 2 = 5
    # sub-environment 1 has values 6, 6, then 14: TD errors 0 + 3 - 6 = -3 and 0 + 7 - 6 = 1
    torch.testing.assert_close(batch["advantage"], torch.tensor([[5 / 4, -3 + 1 / 4, 5.0, 1.0]]))
    torch.testing.assert_close(batch["return"], torch.tensor([[2 + 5 / 4, 6 - 3 + 1 / 4, 2 + 5.0, 6 + 1.0]]))
    one, three = 0.25, 1 / 28  # odds of 1/3 at 1.0, of 1/27 at 3.0
    expected = torch.tensor([[one, 1 - three, 1 - one, three]]).log()
    torch.testing.assert_close(batch["log_prob"], expected)


# ---------------------------------------------------------------- the policy that is improved is the one that acted


class Compared(PPO):
    """Reports how far log-probabilities are from those that ``prepare`` gave."""

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        log_prob, _, _ = self.evaluated(weights, batch)
        found = super().losses(weights, noise_free, batch, time, rng)["policy"]
        found.metrics["difference"] = (log_prob - batch["log_prob"]).detach().abs().amax(dim=1)
        return {"policy": found}


class NewNoise(Compared):
    """What PPO must not be: its gates draw new noise at each gradient step."""

    gate_noise = "gradient_step"


MEMBERS, ENVS, STEPS = Population((3, 1, 4)), 4, 32
CARTPOLE, TARGETS = CartPole(500), TargetByObservation()
ACTIVE = "regularizer=l0", "regularizer.delay_steps=0", "regularizer.initial_open=0.7", "regularizer.lambda_c=1"


def rollouts(
    learner: Learner, number: int, batch_size: int, environment: Environment = CARTPOLE, n_epochs: int = 2
) -> Iterator[list[Metrics]]:
    """The metrics of each gradient step, a list for each rollout."""
    algorithm, experience = learner.algorithm, Rollout(STEPS, n_epochs, batch_size)
    vector, exploration, step = environment.open(MEMBERS.generators("environment"), ENVS), MEMBERS.rng("exploration"), 0
    experience.begin(MEMBERS, environment.spec(), environment.relabel)
    observation = vector.reset()
    for _ in range(number):
        learner.begin_rollout(step)
        for _ in range(STEPS):
            action = algorithm.act(learner.acting(), observation, step, exploration)
            taken, _ = algorithm.spec.clip_action(action.action)
            outcome = vector.step(taken)
            transition: Transition = {
                "observation": observation,
                "next_observation": outcome.next_observation,
                "action": taken,
                "reward": outcome.reward,
                "terminated": outcome.terminated,
                "truncated": outcome.truncated,
                **action.extras,
            }
            experience.extend(transition)
            observation, step = outcome.observation, step + ENVS
        batches = (its.batch() for its in experience.selections(lambda steps: algorithm.prepare(learner.acting(), steps)))
        yield [learner.update(batch, step) for batch in batches]


def learner_of(kind: type[PPO], *overrides: str, environment: Environment = CARTPOLE, **changes: Any) -> Learner:
    settings = {"ent_coef": Constant(0.01), "vf_coef": 0.5, "normalize_advantage": True, "learning_rate": Constant(1e-2)}
    algorithm = ppo(kind, **({"network": MLP(hidden=[13, 7], activation="tanh")} | settings | changes))
    regularizer = make_regularizer(*overrides, members=MEMBERS.size)
    return Learner(algorithm.bind(environment.spec()), regularizer, MEMBERS)


@pytest.mark.parametrize("overrides", [("regularizer=none",), ACTIVE], ids=["none", "l0"])
@pytest.mark.parametrize(
    ("batch_size", "tolerance"),
    [
        (64, 0.0),
        (7, 1e-5),
        # between and beyond the two sizes at which something could go wrong
        *(pytest.param(*other, marks=pytest.mark.slow) for other in ((128, 0.0), (50, 1e-5), (32, 1e-5))),
    ],
)
@pytest.mark.parametrize("environment", [CARTPOLE, TARGETS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("share_trunk", [False, True])
def test_the_ratio_of_the_first_minibatch_is_1(
    overrides: tuple[str, ...], batch_size: int, tolerance: float, environment: Environment, share_trunk: bool
) -> None:
    """In every rollout, also with random gates: their noise is kept from the first action to the last epoch.

    Exactly, to the bit, for minibatches of 64 and more; products of matrices with fewer rows are rounded otherwise than those
    of the whole rollout.
    """
    learner = learner_of(Compared, *overrides, environment=environment, share_trunk=share_trunk)
    for first, *others in rollouts(learner, 3, batch_size, environment):
        assert first["policy/clip_fraction"].tolist() == [0.0] * MEMBERS.size
        for name in ("policy/difference", "policy/approx_kl"):
            assert first[name].abs().max() <= tolerance, name
        if others:
            assert (others[-1]["policy/difference"] > 1e-4).all(), "the policy must have moved, or this test sees nothing"


@pytest.mark.parametrize("overrides", [("regularizer=none",), ACTIVE], ids=["none", "l0"])
@pytest.mark.parametrize("share_trunk", [False, True])
def test_of_images_the_ratio_of_the_first_minibatch_is_1_but_for_rounding(
    overrides: tuple[str, ...], share_trunk: bool
) -> None:
    """Convolutions of a minibatch need not be rounded as those of a rollout, so the network is not ``exact``."""
    network = CNN(channels=[8], kernel_sizes=[2], strides=[1], hidden=[16])
    images = Gymnasium("probes:Motion-v0", None, {})
    learner = learner_of(Compared, *overrides, environment=images, share_trunk=share_trunk, network=network)
    for first, *others in rollouts(learner, 2, 50, images):
        assert not network.exact
        for name in ("policy/difference", "policy/approx_kl"):
            assert first[name].abs().max() <= 1e-5, name
        assert (others[-1]["policy/difference"] > 1e-4).all(), "the policy must have moved, or this test sees nothing"


def test_new_noise_at_each_gradient_step_breaks_it() -> None:
    """The negative control: actions are then those of another policy than the one that is improved."""
    for first, *_ in rollouts(learner_of(NewNoise, *ACTIVE), 3, 64):
        assert (first["policy/difference"] > 1e-3).all()  # the same noise gives the same but for rounding, 1e-6


def test_new_noise_before_the_first_epoch_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, prepare = learner_of(Compared, *ACTIVE), Compared.prepare

    def prepare_and_draw(self: PPO, weights: Weights, rollout: Steps) -> Batch:
        batch = prepare(self, weights, rollout)
        learner.begin_rollout(0)
        return batch

    monkeypatch.setattr(Compared, "prepare", prepare_and_draw)
    for first, *_ in rollouts(learner, 2, 64):
        assert (first["policy/difference"] > 1e-3).all()  # the same noise gives the same but for rounding, 1e-6


def test_noise_is_drawn_once_a_rollout() -> None:
    learner = learner_of(Compared, *ACTIVE)
    for _ in range(2):
        before = learner.acting()["policy"]["0.weight"].clone()
        learner.begin_rollout(0)
        acting = learner.acting()["policy"]["0.weight"].clone()
        assert not torch.equal(acting, before)
        assert not torch.equal(acting, learner.deterministic()["policy"]["0.weight"])
        assert torch.equal(acting, learner.acting()["policy"]["0.weight"])


def test_a_checkpoint_within_a_rollout_keeps_the_noise() -> None:
    """What goes on acts and learns under the same gates; the rollout after it draws the same new ones."""
    one, other = (learner_of(Compared, *ACTIVE) for _ in range(2))
    one.begin_rollout(0)
    list(rollouts(one, 1, 64))
    one.begin_rollout(128)
    state = one.state_dict()
    other.load_state_dict(stack([split(state, member) for member in range(MEMBERS.size)]))
    for step in (128, 256):
        for component, layers in one.acting().items():
            assert all(torch.equal(tensor, other.acting()[component][name]) for name, tensor in layers.items())
        assert not torch.equal(one.acting()["policy"]["0.weight"], one.deterministic()["policy"]["0.weight"])
        for learner in (one, other):
            learner.begin_rollout(step)


# ---------------------------------------------------------------- values that are clipped


@pytest.mark.parametrize(
    ("value", "old", "expected"),
    [
        (1.0, 0.8, (1.0 - 3.0) ** 2),  # within 0.5 of what it was
        (2.0, 0.8, (1.3 - 3.0) ** 2),  # 1.2 above it counts as 0.5 above it
        (-1.0, 0.8, (0.3 - 3.0) ** 2),  # also where the error would be larger
    ],
)
def test_clipped_values_by_hand(value: float, old: float, expected: float) -> None:
    """The return is 3. A value that is clipped has no slope."""
    weights, batch = example(0.5, value), minibatch([0.0], returns=3.0) | {"value": torch.tensor([[old]])}
    leaf = weights["critic"]["0.weight"].requires_grad_()
    loss = objective(ppo(vf_coef=1.0, clip_range_vf=Constant(0.5)), weights, batch).loss
    assert loss.tolist() == pytest.approx([expected])
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    assert slope.item() == pytest.approx(2 * (value - 3.0) if abs(value - old) < 0.5 else 0.0)


def test_the_range_of_values_follows_its_schedule() -> None:
    batch = minibatch([0.0], returns=3.0) | {"value": torch.tensor([[0.0]])}
    algorithm = ppo(vf_coef=1.0, clip_range_vf=Linear(1.0, 0.0, steps=100))
    for step, clipped in ((0, 1.0), (50, 0.5), (100, 0.0)):
        found = objective(algorithm, example(0.5, value=2.0), batch, step).loss
        assert found.tolist() == pytest.approx([(clipped - 3) ** 2])


# ---------------------------------------------------------------- members that stop early


def two_members(probabilities: tuple[float, float], stopped: tuple[int, int] = (-1, -1)) -> Weights:
    """Policies that take action 1 with these probabilities, where the ones that acted took it with one half."""
    both = [example(probability) for probability in probabilities]
    weights = {c: {name: torch.cat([each[c][name] for each in both]) for name in both[0][c]} for c in both[0]}
    return weights | {"early_stop": {"step": torch.tensor(stopped).unsqueeze(1)}}


def test_a_member_stops_where_the_divergence_exceeds_the_target_by_half() -> None:
    """Ratios of 1.2 and 1.5 have divergences of 0.2 - log 1.2 = 0.01768 and 0.5 - log 1.5 = 0.09453."""
    two = {name: torch.cat([values, values]) for name, values in minibatch([1.0]).items()}
    rng, weights = Population((0, 1)).rng("update"), two_members((0.6, 0.75))
    for target, active in ((0.0117, [False, False]), (0.0118, [True, False]), (0.063, [True, False]), (0.064, [True, True])):
        algorithm = ppo(target_kl=target).bind(Spec((1,), 2))
        found = algorithm.losses(weights, weights, two, Time(70, 0, 0), rng)["policy"]
        assert found.active is not None
        assert found.active.tolist() == active
        assert found.state["early_stop"]["step"][:, 0].tolist() == [-1 if its else 70 for its in active]
        assert found.metrics["stopped_early"].tolist() == [float(not its) for its in active]


def test_who_stopped_stays_so_for_the_rollout_and_no_longer() -> None:
    two = {name: torch.cat([values, values]) for name, values in minibatch([1.0]).items()}
    rng, weights = Population((0, 1)).rng("update"), two_members((0.5, 0.5), stopped=(70, 60))
    found = ppo(target_kl=1.0).bind(Spec((1,), 2)).losses(weights, weights, two, Time(70, 0, 0), rng)["policy"]
    assert found.active is not None
    assert found.active.tolist() == [False, True]


def test_a_member_that_stops_keeps_every_bit_until_the_next_rollout_and_the_others_theirs() -> None:
    """With every gate active, and on a trunk. The learning rate moves policies too far now and then; all members are as they
    would be without a target until they stop."""
    forms: dict[str, Any] = {"share_trunk": True, "clip_range_vf": Constant(0.2)}
    learner = learner_of(PPO, *ACTIVE, target_kl=0.01, **forms)
    stopped_in = []
    for batches in rollouts_by_step(learner, 4):
        stopped = torch.zeros(MEMBERS.size, dtype=torch.bool)
        for before, metrics, after in batches:
            stopped |= metrics["policy/approx_kl"] > 1.5 * 0.01
            assert metrics["policy/stopped_early"].tolist() == stopped.float().tolist()
            for member in range(MEMBERS.size):
                same = [torch.equal(one[member], other[member]) for one, other in zip(before, after, strict=True)]
                assert all(same) if stopped[member] else not any(same)
        stopped_in.append(stopped.tolist())
    assert any(any(its) and not all(its) for its in stopped_in), "some must stop while others go on"
    again = itertools.pairwise(stopped_in)
    assert any(one and not other for rollout, following in again for one, other in zip(rollout, following, strict=True))


def rollouts_by_step(learner: Learner, number: int) -> Iterator[list[tuple[list[Tensor], Metrics, list[Tensor]]]]:
    """Of each gradient step all weights and gates before and after it, and its metrics, a list for each rollout."""
    update, kept = learner.update, list[tuple[list[Tensor], Metrics, list[Tensor]]]()

    def numbers() -> list[Tensor]:
        groups = (*learner.state.weights.values(), *learner.state.gates.values())
        return [tensor.clone() for its in groups for name, tensor in its.views.items() if name.endswith("weight")]

    def recorded(batch: Batch, env_step: int) -> Metrics:
        before = numbers()
        metrics = update(batch, env_step)
        kept.append((before, metrics, numbers()))
        return metrics

    learner.update = recorded  # type: ignore[method-assign]
    for _ in rollouts(learner, number, 32):
        yield list(kept)
        kept.clear()


# ---------------------------------------------------------------- in the loop


class Kept(PPO):
    """Keeps the rollouts that it was given."""

    seen: list[Steps] = []  # noqa: RUF012

    def prepare(self, weights: Weights, rollout: Steps) -> Batch:
        self.seen.append(rollout)
        return super().prepare(weights, rollout)


def test_a_checkpoint_truncates_the_episodes_in_a_rollout() -> None:
    """There an environment whose state cannot be saved starts afresh: nothing that follows belongs to the episode before."""
    small = "trainer.num_envs=2", "trainer.total_steps=120", "trainer.checkpoint_every=60", "trainer.eval_every=120"
    cartpole = "environment=gymnasium", "environment.id=CartPole-v1"
    config = compose("algorithm=ppo", *cartpole, "trainer=smoke", "regularizer=none", "experience.n_steps=20", *small)
    trainer, parts = build([config])
    algorithm = as_kind(Kept, parts.algorithm)
    algorithm.seen.clear()
    populations = [dataclasses.replace(population, algorithm=algorithm) for population in parts.populations]
    list(trainer.run(dataclasses.replace(parts, algorithm=algorithm, populations=populations)))
    truncated, following, seen = (
        torch.cat([rollout[name] for rollout in algorithm.seen], dim=1)[0]
        for name in ("truncated", "next_observation", "observation")
    )
    assert truncated.shape == (60, 2)
    # 60 environment steps are 30 of the loop, in the middle of the second rollout
    assert truncated.nonzero()[:, 0].unique().tolist() == [29, 59]
    ended = torch.cat([rollout["terminated"] for rollout in algorithm.seen], dim=1)[0]
    goes_on = (following[:-1] == seen[1:]).all(dim=-1)
    assert torch.equal(goes_on, (ended + truncated)[:-1] == 0)
