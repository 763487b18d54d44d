"""Learners that run gradient steps compiled, for tests."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import product

from parts import environment_for, immediately, make_learner, modules
from torch import Tensor

from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.population.members import Population
from sparserl.population.state import State
from sparserl.training.events import Finished, Snapshot
from sparserl.training.learner import Learner
from sparserl.training.learner_group import LearnerGroup
from sparserl.types import Batch

MEMBERS = 3

STEPS = 30
"""Gradient steps that learners here are compared after."""

ROUNDING = 2e-5
"""More than rounding makes of a weight or gate in STEPS steps, in which it moves by a hundred times as much. What another noise
or another scalar makes of it is more: ``traced_steps.py`` has the controls."""

VARIANTS = (
    ("dqn", "l0", "regularizer.target_sparsity=0.5"),
    ("dqn", "l0_rank", "regularizer.factors=trained"),
    ("dqn", "l1", "regularizer.proximal=true"),
    ("ppo", "l0_units", "algorithm.target_kl=0.16", "algorithm.share_trunk=true"),
    ("sac", "l0_units"),
)
"""Steps with something that those of the options alone do not have."""

CASES = (
    *product(modules("algorithms"), ("none", "l0", "l0_group_lasso")),
    *product(("dqn",), sorted({*modules("regularizers")} - {"none", "l0", "l0_group_lasso"})),
    *VARIANTS,
)
"""Algorithm, regulariser and further overrides of steps that are compared: DQN has every regulariser."""


def learner_with(
    seeds: Sequence[int], regularizer: str, algorithm: str = "dqn", is_compiled: bool = True, *more: str
) -> Learner:
    """A member for each seed, with a small network. Gates, if any, are active, and all that follows a schedule changes in each
    of STEPS steps: rates, and the coefficient of the penalty."""
    chosen = f"algorithm={algorithm}", f"environment={environment_for(algorithm)}", f"regularizer={regularizer}"
    changing = *immediately(regularizer, ramp_steps=10 * STEPS, smallest_side=2), f"trainer.total_steps={20 * STEPS}"
    # a projection hands rounding on to weights of a dead unit, whose gradient would be 0, and Adam makes whole steps of it
    activation = ("network.activation=tanh",) if regularizer == "l0_rank" else ()
    made = make_learner(*chosen, *changing, "network.hidden=[13,7]", *activation, *more, members=len(seeds))
    return Learner(made.algorithm, made.regularizer, Population(tuple(seeds)), is_compiled)


def learner_of(algorithm: str, regularizer: str, members: int = MEMBERS, is_compiled: bool = True, *more: str) -> Learner:
    """The same with the first seeds."""
    return learner_with(range(members), regularizer, algorithm, is_compiled, *more)


def train(learner: Learner, batches: list[Batch], first: int = 0) -> None:
    """A gradient step for each batch, ten environment steps apart."""
    for number, batch in enumerate(batches, start=first):
        if number % 10 == 0:
            learner.begin_rollout(10 * number)
        learner.update(batch, env_step=10 * (number + 1))


def difference(one: Learner, other: Learner) -> float:
    """The largest of two learners' weights and gates."""
    pairs = [(one.weights[c][name], its) for c, layers in other.weights.items() for name, its in layers.items()]
    pairs += [(one.gates[c][name], its) for c, gates in other.gates.items() for name, its in gates.items()]
    return max(float((mine.double() - its.double()).abs().max()) for mine, its in pairs)


def tensors_of(learner: Learner, place: int) -> list[Tensor]:
    """All that learning has made of the member at a place: weights, gates and moments."""
    groups = (learner.state.weights, learner.state.gates)
    moments = [its.moments for group in groups for its in group.values()]
    layers = (*learner.weights.values(), *learner.gates.values(), *moments)
    return [tensor[place] if tensor.dim() else tensor for its in layers for tensor in its.values()]


TOGETHER = (("none", 0), ("none", 1), ("l0", 2))
"""Members of one loop: two populations."""

LOOPS = {
    "dqn": ("experience.learning_starts=100", "experience.n_step=3", "algorithm.normalize_observation=true"),
    "ppo": ("experience.n_steps=20", "experience.batch_size=50", "algorithm.normalize_observation=true"),
}
"""Overrides of short loops: those of DQN put returns of several steps together, and all have statistics."""


EACH_STEP = "experience.train_freq=5", "algorithm.target_update_interval=5", "algorithm.epsilon.steps=400"
"""A gradient step after each step of the loop, so that both are in programs, and exploration that decays until the end."""


def run_loop(
    algorithm: str,
    members: Sequence[tuple[str, int]],
    is_compiled: bool,
    states: list[State] | None = None,
    freeze_at_step: int | None = None,
    more: Sequence[str] = (),
) -> tuple[LearnerGroup, list[Snapshot]]:
    """Train members, each a regulariser and a seed, in one loop of CartPole to its end, from the start or from some states.

    Gates are active from the start.
    """
    small = "trainer=smoke", "trainer.total_steps=400", "trainer.checkpoint_every=200", "trainer.num_envs=5"
    gates = {"l0": immediately("l0", **({} if freeze_at_step is None else {"freeze_at_step": freeze_at_step}))}
    options = (f"algorithm={algorithm}", *small, *LOOPS.get(algorithm, ()), "network.hidden=[13,7]", *more)
    compiles = f"trainer.compile={str(is_compiled).lower()}"
    configs = [compose(f"regularizer={r}", f"seed={seed}", *gates.get(r, ()), *options, compiles) for r, seed in members]
    trainer, parts = build(configs)
    snapshots = []
    for event in trainer.run(parts, states):
        if isinstance(event, Snapshot):
            snapshots.append(copy.deepcopy(event))
    assert isinstance(event, Finished)
    return event.group, snapshots


def member_of(group: LearnerGroup, member: int) -> list[Tensor]:
    """All that learning has made of a member of a loop."""
    learner, place = group.locate(member)
    return tensors_of(learner, place)
