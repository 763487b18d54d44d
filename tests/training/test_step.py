"""A gradient step is a function: the same state, batch, scalars and random numbers give the same bits, whatever they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from parts import as_kind, environment_for, immediately, make_learner, pairs, random_batches
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparserl.algorithms.base import Objective
from sparserl.algorithms.dqn import DQN
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.regularizers.hard_concrete import log_alphas
from sparserl.training.learner import Learner
from sparserl.training.learner_state import LearnerState
from sparserl.training.step import GradientStep
from sparserl.training.step_inputs import Scalars
from sparserl.types import Batch, Metrics, Noise, Time, Weights

MEMBERS = 3


def learner_of(algorithm: str, regularizer: str) -> Learner:
    """With gates, if any, that are active where they can be, and gradients that are clipped."""
    clipped = "algorithm.max_grad_norm=0.5", "network.hidden=[13,7]"
    chosen = f"algorithm={algorithm}", f"environment={environment_for(algorithm)}", f"regularizer={regularizer}"
    learner = make_learner(*chosen, *immediately(regularizer), *clipped, members=MEMBERS)
    learner.begin_rollout(0)
    return learner


def flat(given: Any) -> list[Tensor]:
    """Every tensor in what a step reads and changes."""
    if isinstance(given, Tensor):
        return [given.detach().clone()]
    if isinstance(given, dict):
        return [tensor for value in given.values() for tensor in flat(value)]
    if isinstance(given, list | tuple):
        return [tensor for value in given for tensor in flat(value)]
    return flat(vars(given)) if hasattr(given, "__dict__") else []


def same(one: Any, other: Any) -> bool:
    ours, theirs = flat(one), flat(other)
    return len(ours) == len(theirs) > 0 and all(torch.equal(mine, its) for mine, its in zip(ours, theirs, strict=True))


@contextmanager
def recorded(learner: Learner) -> Iterator[list[tuple[Any, ...]]]:
    """The arguments of the learner's steps within, copied before each."""
    arguments: list[tuple[Any, ...]] = []
    step = learner._step

    class Recording(GradientStep):
        def __call__(
            self,
            state: LearnerState,
            batch: Batch,
            scalars: Scalars,
            noise: Mapping[str, Noise],
            noise_free: Weights,
            rng: MemberRng,
        ) -> Metrics:
            arguments.append((*copy.deepcopy((state, batch, scalars, noise, noise_free)), copy.deepcopy(rng.state_dict())))
            return step(state, batch, scalars, noise, noise_free, rng)

    learner._step = Recording(step.algorithm, step.regularizer, step.bound)
    yield arguments
    learner._step = step


def again(learner: Learner, arguments: tuple[Any, ...]) -> tuple[LearnerState, Metrics]:
    """The step on a copy of those arguments: the state that came of it, and its metrics."""
    state, *others, generators = copy.deepcopy(arguments)
    rng = make_learner(members=MEMBERS)._rng
    rng.load_state_dict(generators)
    return state, learner._step(state, *others, rng)


@pytest.mark.parametrize(("algorithm", "regularizer"), pairs())
def test_a_step_on_a_copy_of_what_it_was_given_gives_the_same_bits(algorithm: str, regularizer: str) -> None:
    learner = learner_of(algorithm, regularizer)
    first, second = random_batches(2, MEMBERS, 64, algorithm)
    with recorded(learner) as arguments:
        metrics = learner.update(first, env_step=10)
        after_first = copy.deepcopy(learner.state)
        learner.update(second, env_step=20)  # what happens since must not be seen by the copies
    for _ in range(2):
        state, its = again(learner, arguments[0])
        assert same(state, after_first)
        assert its.keys() == metrics.keys()
        assert same(its, metrics)
    assert not same(arguments[0][0], after_first), "or this test sees nothing move"


def test_a_step_changes_nothing_but_the_state() -> None:
    learner = learner_of("dqn", "l0")
    (batch,) = random_batches(1, MEMBERS, size=64)
    with recorded(learner) as arguments:
        learner.update(batch, env_step=10)
    state, *others, generators = copy.deepcopy(arguments[0])
    rng = make_learner(members=MEMBERS)._rng
    rng.load_state_dict(generators)
    learner._step(state, *others, rng)
    batch_after, _, noise_after, _ = others
    assert same((batch_after, noise_after), (arguments[0][1], arguments[0][3]))


@pytest.mark.parametrize(("delay_steps", "is_cut"), [(0, True), (100, False)])
def test_gates_are_kept_within_their_limit_only_while_they_are_active(delay_steps: int, is_cut: bool) -> None:
    given = "algorithm=dqn", "environment=cartpole", "regularizer=l0", "regularizer.log_alpha_limit=7"
    learner = make_learner(*given, *immediately("l0", delay_steps=delay_steps))
    gates = log_alphas(learner.gates["policy"]).values()
    for its in gates:
        its.fill_(9.0)
    learner.update(random_batches(1, 1, size=32)[0], env_step=10)
    assert {float(its.max()) for its in gates} == {7.0 if is_cut else 9.0}


# ---------------------------------------------------------------- no value decides what is done


class NoValues(TorchDispatchMode):
    """Raises where the value of a tensor is asked for: by ``item``, ``bool``, ``if``, or a shape that depends on values."""

    asking = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim", "allclose")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(i is not None and i.dtype is torch.bool for i in args[1])
        if name in self.asking or by_mask:
            raise AssertionError(f"{func} asks for a value")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("algorithm", "regularizer"), pairs())
def test_no_value_of_a_tensor_decides_what_a_step_does(algorithm: str, regularizer: str) -> None:
    """So it can be traced, and compiled; also while gates are fixed and after a member was stopped."""
    learner = learner_of(algorithm, regularizer)
    batches = random_batches(2, MEMBERS, 64, algorithm)
    batches[0]["reward"][1, 0] = torch.nan
    batches[0]["advantage"][1, 0] = torch.nan
    with recorded(learner) as arguments:
        for step, batch in enumerate(batches):
            learner.update(batch, env_step=step)
    assert [sentence is not None for sentence in learner.stopped.sentences()] == [False, True, False]
    for given in arguments:
        state, *others, generators = copy.deepcopy(given)
        rng = make_learner(members=MEMBERS)._rng
        rng.load_state_dict(generators)
        with NoValues():
            learner._step(state, *others, rng)


class Asks(DQN):
    """What an algorithm must not do."""

    ask: Callable[[Tensor], Any] = staticmethod(lambda loss: loss.sum().item())

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        found = super().losses(weights, noise_free, batch, time, rng)
        self.ask(found["policy"].loss.detach())
        return found


@pytest.mark.parametrize(
    "ask", [lambda loss: loss.sum().item(), lambda loss: bool((loss > 0).any()), lambda loss: loss[loss > 0], torch.nonzero]
)
def test_one_that_asks_is_found(ask: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    learner = learner_of("dqn", "none")
    algorithm = as_kind(Asks, learner.algorithm).bind(learner.algorithm.spec)
    learner = Learner(algorithm, learner.regularizer, Population((0, 1, 2)))
    monkeypatch.setattr(Asks, "ask", staticmethod(ask))
    with recorded(learner) as arguments:
        learner.update(random_batches(1, MEMBERS, size=64)[0], env_step=1)
    state, *others, _ = arguments[0]
    with pytest.raises(AssertionError, match="asks for a value"), NoValues():
        learner._step(state, *others, learner._rng)
