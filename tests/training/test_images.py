"""Everything that works for vectors works for images: the convolutional network under every algorithm and regulariser."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from probes import Motion
from torch import Tensor

from sparserl.config.build import build
from sparserl.config.schema import Config
from sparserl.config.validation import compose
from sparserl.training.learner import Learner
from sparserl.training.trainer import Finished

IMAGES = ("environment=gymnasium", "environment.id=probes:Motion-v0", "network=cnn")
SMALL = ("network.channels=[8]", "network.kernel_sizes=[2]", "network.strides=[1]", "network.hidden=[16]")
DISCOUNT = 0.8

QUIET = (
    "trainer.num_envs=4",
    "trainer.eval_every=100000",
    "trainer.eval_episodes=2",
    "trainer.log_every=100000",
    "trainer.checkpoint_every=100000",
)
LEARNING = (
    *QUIET,
    "trainer.total_steps=4000",
    f"algorithm.gamma={DISCOUNT}",
    "experience.batch_size=32",
    "regularizer=none",
)
Q_LEARNING = (
    "algorithm.learning_rate.start=5e-3",
    "algorithm.target_update_interval=1",
    "algorithm.tau=0.05",
    "algorithm.epsilon=0.5",
    "experience.train_freq=4",
)
ON_POLICY = ("algorithm.learning_rate.start=5e-3", "experience.n_steps=16")
FORMS = {
    "dqn": ("algorithm=dqn", "experience=frames", *Q_LEARNING),
    "double_dqn": ("algorithm=double_dqn", *Q_LEARNING),
    "ppo": ("algorithm=ppo", *ON_POLICY),
    "ppo-trunk": ("algorithm=ppo", "algorithm.share_trunk=true", *ON_POLICY),
}


def members_of(number: int, *overrides: str) -> list[Config]:
    config = compose(*IMAGES, *SMALL, *overrides)
    return [config | {"seed": seed} for seed in range(number)]


def learned(members: Sequence[Config]) -> Learner:
    trainer, parts = build(members)
    *_, last = trainer.events(parts)
    assert isinstance(last, Finished)
    (learner,) = last.group.learners
    return learner


# ---------------------------------------------------------------- learning


def output(learner: Learner, component: str, images: Tensor) -> Tensor:
    """Of a network without noise, behind the trunk if there is one: ``[member, state, output]``."""
    weights, networks = learner.deterministic(), learner.algorithm.networks
    seen = images.expand(learner.size, *images.shape)
    if "encoder" in networks:
        seen = networks["encoder"](weights["encoder"], seen)
    return networks[component](weights[component], seen)


@pytest.mark.parametrize("form", FORMS)
def test_an_algorithm_learns_what_two_planes_together_say(form: str) -> None:
    """Values of actions, or of states beside a policy that takes the better action, as in test_learning.

    They are 0.8 at first and 1 or -1 later. By one plane alone nothing is to be told, so the actions' values would both be 0.
    """
    learner = learned(members_of(2, *FORMS[form], *LEARNING))
    images, direction = Motion.states()
    expected = Motion.q_values(DISCOUNT)
    found = output(learner, "policy", images)
    if "critic" in learner.learned:
        best, moved = expected.argmax(dim=1), direction != 0
        probability = found.softmax(dim=-1).gather(-1, best.expand(learner.size, -1).unsqueeze(-1))[..., 0]
        assert (probability[:, moved] > 0.9).all()
        found, expected = output(learner, "critic", images), expected.amax(dim=1, keepdim=True)
    assert (found - expected).abs().max() < 0.3
