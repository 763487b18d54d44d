"""Everything that works for vectors works for images: the convolutional network under every algorithm and regulariser."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from folders import stopping_at_checkpoints
from parts import modules
from probes import Motion
from torch import Tensor, nn

from sparserl.config.build import build
from sparserl.config.schema import Config
from sparserl.config.validation import compose
from sparserl.loading import find_class, load_policy
from sparserl.networks.base import Network
from sparserl.population.state import Log, State
from sparserl.runs.reader import read
from sparserl.sweeps.loop import run
from sparserl.training.events import Finished, Row, Snapshot
from sparserl.training.learner import Learner

IMAGES = ("environment=gymnasium", "environment.id=probes:Motion-v0", "network=cnn")
SMALL = ("network.channels=[16]", "network.kernel_sizes=[2]", "network.strides=[1]", "network.hidden=[32]")
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
    "trainer.total_steps=3000",
    f"algorithm.gamma={DISCOUNT}",
    "experience.batch_size=32",
    "regularizer=none",
)
Q_LEARNING = (
    "trainer.total_steps=2000",
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
    *_, last = trainer.run(parts)
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


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=pytest.mark.slow if form in ("double_dqn", "ppo") else ()) for form in FORMS]
)
def test_an_algorithm_learns_what_two_planes_together_say(form: str) -> None:
    """Values of actions, or of states beside a policy that takes the better action, as in test_learning.

    They are 0.8 at first, and 1 or -1 later. One plane alone says nothing of them: the actions' values would both be 0, and the
    policy's probabilities 0.5. Six seeds of Q-learning come within 0.04, and of PPO within 0.15 with probabilities above 0.94.
    """
    learner = learned(members_of(2, *LEARNING, *FORMS[form]))
    images, direction = Motion.states()
    expected = Motion.q_values(DISCOUNT)
    found = output(learner, "policy", images)
    if "critic" in learner.learned:
        best, moved = expected.argmax(dim=1), direction != 0
        probability = found.softmax(dim=-1).gather(-1, best.expand(learner.size, -1).unsqueeze(-1))[..., 0]
        assert (probability[:, moved] > 0.85).all()
        found, expected = output(learner, "critic", images), expected.amax(dim=1, keepdim=True)
    assert (found - expected).abs().max() < 0.3


# ---------------------------------------------------------------- members, checkpoints and experiences

SHORT = (
    "trainer.total_steps=240",
    "trainer.num_envs=4",
    "trainer.log_every=60",
    "trainer.eval_every=120",
    "trainer.eval_episodes=4",
    "trainer.checkpoint_every=120",
)
FEW = ("experience.buffer_size=60", "experience.batch_size=16", "experience.learning_starts=20", "experience.train_freq=8")
SHORT_FORMS = {
    "dqn": ("algorithm=dqn", "experience=frames", *FEW),
    "ppo": ("algorithm=ppo", "experience.n_steps=10", "experience.batch_size=20"),
    "ppo-trunk": ("algorithm=ppo", "algorithm.share_trunk=true", "experience.n_steps=10", "experience.batch_size=20"),
}
ON = {
    "delay_steps": "regularizer.delay_steps=0",
    "ramp_steps": "regularizer.ramp_steps=10",
    "scope": "regularizer.scope=all",
}
"""For regularisers that have these keys."""


def snapshots(
    members: Sequence[Config], states: Sequence[State] = ()
) -> tuple[list[list[State]], list[list[dict[str, float]]]]:
    """The states of all members at each checkpoint, and all rows of each member."""
    trainer, parts = build(members)
    found: list[list[State]] = []
    rows: list[list[dict[str, float]]] = [[] for _ in members]
    for event in trainer.run(parts, list(states)):
        if isinstance(event, Snapshot):
            found.append(deepcopy(event.states))
        elif isinstance(event, Row):
            for own, metrics in zip(rows, event.metrics, strict=True):
                own.append(metrics)
    return found, rows


def tensors(state: State, path: str = "") -> dict[str, Tensor]:
    """All tensors and numbers of a state, by their path."""
    if isinstance(state, dict):
        return {name: value for key, part in state.items() for name, value in tensors(part, f"{path}/{key}").items()}
    if isinstance(state, list | tuple):
        return {name: value for key, part in enumerate(state) for name, value in tensors(part, f"{path}/{key}").items()}
    if isinstance(state, Log):
        return {path: state.read(state.first, state.end)}
    return {path: torch.as_tensor(state)}


def assert_equal(one: State, other: State, tolerance: float = 0.0) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=tolerance, rtol=tolerance, equal_nan=True, msg=name)


@pytest.mark.parametrize(
    ("regularizer", "form"),
    [
        # quick: gates of weights in every form, and gates of channels in one
        pytest.param(name, form, marks=() if name == "l0" or (name, form) == ("l0_units", "dqn") else pytest.mark.slow)
        for name in modules("regularizers")
        for form in SHORT_FORMS
    ],
)
def test_a_member_equals_its_solo_run_but_for_rounding_and_goes_on_from_a_checkpoint_bit_for_bit(
    regularizer: str, form: str
) -> None:
    """Rounding may change weights by 1e-6 in these few steps; those of other seeds are 0.1 apart."""
    chosen = *SHORT, *SHORT_FORMS[form], f"regularizer={regularizer}"
    keys = members_of(1, *chosen)[0]["regularizer"]
    members = members_of(3, *chosen, *(on for name, on in ON.items() if keys.get(name) is not None))
    network = find_class(members[0]["network"]["_target_"])
    assert issubclass(network, Network)
    tolerance = 0.0 if network.exact else 1e-4
    (first, last), rows = snapshots(members)
    (_, alone), its_rows = snapshots(members[1:2])
    for part in ("weights", "gates"):
        assert_equal(last[1]["learner"][part], alone[0]["learner"][part], tolerance)
    assert_equal(rows[1], its_rows[0], 10 * tolerance)
    with pytest.raises(AssertionError):
        assert_equal(last[0]["learner"]["weights"], alone[0]["learner"]["weights"], 1e-2)
    (resumed,), later = snapshots(members, first)
    for member in range(3):
        assert_equal(resumed[member], last[member])
        assert_equal(later[member], rows[member][-len(later[member]) :])


def test_a_run_learns_from_frames_what_it_learns_from_whole_stacks() -> None:
    """Every weight and row, bit for bit, over checkpoints and while the ring goes round."""
    found = [
        snapshots(members_of(2, *SHORT, *SHORT_FORMS["dqn"], f"experience={experience}", *FEW))
        for experience in ("frames", "replay")
    ]
    (frames, rows), (whole, its_rows) = found
    for one, other in zip(frames, whole, strict=True):
        for member in range(2):
            assert_equal(one[member]["learner"], other[member]["learner"])
    assert_equal(rows, its_rows)


# ---------------------------------------------------------------- what a run leaves


@pytest.mark.parametrize("form", ["dqn", "ppo-trunk"])
def test_a_run_goes_on_and_leaves_its_ranks_and_a_policy(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped right after its checkpoint it ends with the same bytes; kernels are factored and drawn as matrices."""
    settings = *SHORT, *SHORT_FORMS[form], "lowrank.ranks=[1,2]", "lowrank.episodes=4", "logger=disk"
    configs = members_of(2, *settings, "regularizer=l0", "regularizer.initial_open=0.6", *ON.values())
    whole, stopped = ([tmp_path / name / str(member) for member in range(2)] for name in ("whole", "stopped"))
    run(configs, whole, live=False)
    monkeypatch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
    with stopping_at_checkpoints(monkeypatch), pytest.raises(KeyboardInterrupt):
        run(configs, stopped, live=False)
    run(configs, stopped, live=False)
    for one, other in zip(whole, stopped, strict=True):
        for name in ("metrics.jsonl", "policy.safetensors", "lowrank.csv", "spectrum.csv"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert (whole[0] / "figure.png").exists()

    found = read(whole[0])
    assert not found.problems
    component = "encoder" if form == "ppo-trunk" else "policy"
    matrices = {f"{component}/conv.0": 8, f"{component}/dense.0": 32}  # of 16 x 8 and 32 x 144, behind 9 positions
    matrices |= {"policy/0" if form == "ppo-trunk" else "policy/dense.1": 2}
    assert {layer: sum(row["layer"] == layer for row in found.spectrum) for layer in matrices} == matrices
    assert len(found.spectrum) == sum(matrices.values())
    by_rank = {row["rank"]: row for row in found.lowrank}
    # two factors of rank 2: 2 (16 + 8) and 2 (32 + 144) numbers; the last layer of 2 x 32 is smaller whole
    assert by_rank[2]["parameters"] == 48 + 352 + 64
    assert by_rank[2]["macs"] == 9 * 48 + 352 + 64

    images, _ = Motion.states()
    policy, factored = load_policy(whole[0]), load_policy(whole[0], rank=2)
    assert holding(policy) == [nn.Conv2d, nn.Linear, nn.Linear]
    assert holding(factored) == [nn.Conv2d, nn.Conv2d, nn.Linear, nn.Linear, nn.Linear]
    zeros = sum(int((part.weight == 0).sum()) for part in policy.modules() if isinstance(part, nn.Conv2d | nn.Linear))
    assert zeros == round(found.result["sparsity"] * (16 * 8 + 32 * 144 + 64))
    assert policy(images).shape == factored(images).shape == (len(images), 2)
    assert not torch.allclose(policy(images), factored(images))


def holding(module: nn.Module) -> list[type]:
    """The layers of a module that have weights."""
    return [type(part) for part in module.modules() if list(part.parameters(recurse=False))]
