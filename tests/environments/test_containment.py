"""What goes wrong in one member's environment stays there, however environments take their steps, and is said once."""

from __future__ import annotations

import math
import multiprocessing
import warnings
from contextlib import closing
from typing import Any, get_args

import pytest
import torch
from faults import FAULTS, Faulty, faulty
from torch import Tensor

from sparserl.environments.base import Environment, StepResult
from sparserl.environments.gymnasium import Gymnasium
from sparserl.environments.vectors import Vectorization
from sparserl.population.members import Population
from sparserl.training.evaluation import Evaluator

SEEDS = (1, 2, 3)
KINDS = get_args(Vectorization)


def play(environment: Environment, steps: int = 15, faults: int = 1) -> list[StepResult]:
    """Three members with two environments each; one of the second member's is told to go wrong, in its third step and on."""
    with closing(environment.open(Population(SEEDS).generators("environment"), 2)) as vector:
        first, nothing = vector.reset(), torch.zeros(3, 2)
        outcomes = [StepResult(first, first, nothing, nothing, nothing)]
        for step in range(1, steps):
            action = torch.zeros(3, 2, dtype=torch.long)
            action[1, 1] = int(3 <= step < 3 + faults)
            outcomes.append(vector.step(action))
    return outcomes


def tensors(outcome: StepResult) -> list[Tensor]:
    return [outcome.observation, outcome.next_observation, outcome.reward, outcome.terminated, outcome.truncated]


def test_other_members_do_not_notice(outcomes: list[StepResult], sound: list[StepResult]) -> None:
    for outcome, expected in zip(outcomes, sound, strict=True):
        for mine, its in zip(tensors(outcome), tensors(expected), strict=True):
            assert torch.equal(mine[[0, 2]], its[[0, 2]])


@pytest.fixture(scope="module")
def sound() -> list[StepResult]:
    return play(faulty())


@pytest.fixture(params=[*FAULTS, "in reset"])
def outcomes(request: pytest.FixtureRequest) -> list[StepResult]:
    return play(faulty(request.param))


@pytest.mark.parametrize("fault", [*FAULTS, "in reset"])
def test_a_failure_is_said_when_it_happens_and_once(fault: str) -> None:
    """Before, it ended the training of all members. A reset comes at the end of the episode, in step 6."""
    outcomes = play(faulty(fault))
    when, where, text = (
        (6, "in reset", "RuntimeError: cannot start") if fault == "in reset" else (3, "in step 3", FAULTS[fault][1])
    )
    said = {step: outcome.failures for step, outcome in enumerate(outcomes) if outcome.failures}
    assert list(said) == [when]
    assert list(said[when]) == [1]
    assert said[when][1].startswith(f"Faulty-v0 failed {where}")
    assert text in said[when][1]
    assert "\n" not in said[when][1]
    # from then on its rewards are nan, in episodes of one step
    after = outcomes[when + 1 :]
    assert all(math.isnan(outcome.reward[1, 1]) and outcome.terminated[1, 1] == 1 for outcome in after)
    assert all((outcome.observation[1, 1] == 0).all() for outcome in after)


@pytest.mark.parametrize(("given", "expected"), [("nan", math.nan), ("inf", math.inf), ("1e300", math.inf)])
def test_a_reward_that_is_no_finite_float32_is_passed_on(given: str, expected: float) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="overflow")
        outcomes = play(faulty(given), steps=9)
    rewards = [float(outcome.reward[1, 1]) for outcome in outcomes[1:]]
    assert rewards == pytest.approx([1, 1, expected, 1, 1, 1, 1, 1], nan_ok=True)
    assert not any(outcome.failures for outcome in outcomes)


@pytest.mark.filterwarnings("ignore:.*Worker-3", "ignore:.*Traceback", "ignore:.*last exception")  # Gymnasium's log
@pytest.mark.parametrize("how", KINDS)
def test_what_the_user_interrupts_is_interrupted(how: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        play(faulty("Ctrl-C", vectorization=how))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("how", KINDS)
def test_all_are_closed_where_closing_raises(how: str) -> None:
    play(faulty("in close", vectorization=how))
    assert not Faulty.living
    assert not multiprocessing.active_children()


def test_what_was_made_before_is_closed_where_a_constructor_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, made, init = faulty(), iter(range(3)), Faulty.__init__
    environment.spec()

    def fail(self: Faulty, *arguments: Any) -> None:
        if next(made, None) is None:
            raise RuntimeError("no more licences")
        init(self, *arguments)

    monkeypatch.setattr(Faulty, "__init__", fail)
    with pytest.raises(ValueError, match="Gymnasium cannot make 'Faulty-v0': RuntimeError: no more licences"):
        environment.open(Population(SEEDS).generators("environment"), 2)
    assert not Faulty.living


def test_an_environment_that_writes_into_its_action_does_not_write_into_the_callers() -> None:
    with closing(faulty(kind="Greedy-v0").open(Population(SEEDS).generators("environment"), 1)) as vector:
        vector.reset()
        action = torch.zeros(3, 1, 2)
        vector.step(action)
    assert (action == 0).all(), "it is what the experience stores"


# ---------------------------------------------------------------- kinds of vectors


@pytest.mark.parametrize("how", KINDS[1:])
@pytest.mark.parametrize("fault", [None, "an exception", "in reset", "nan", "a ragged observation"])
def test_however_steps_are_taken_the_results_are_the_same(how: str, fault: str | None) -> None:
    for one, other in zip(play(faulty(fault)), play(faulty(fault, vectorization=how)), strict=True):
        assert one.failures == other.failures
        for mine, its in zip(tensors(one), tensors(other), strict=True):
            assert torch.equal(mine.nan_to_num(nan=123.0), its.nan_to_num(nan=123.0))


@pytest.mark.parametrize("how", KINDS[1:])
def test_gymnasiums_own_environments_give_the_same_too(how: Vectorization) -> None:
    def returns(vectorization: Vectorization) -> Tensor:
        acrobot = Gymnasium("Acrobot-v1", None, {}, max_episode_steps=15, vectorization=vectorization, at_once=3)
        with closing(Evaluator(acrobot, 2, 2, torch.device("cpu"))) as evaluator:
            return evaluator(lambda seen, _: (seen[..., 4] > 0).long() * 2 - (seen[..., 5] > 0).long().clamp(max=1)).returns

    assert torch.equal(returns("sync"), returns(how))


def test_a_process_that_dies_is_one_error_and_takes_the_others_with_it() -> None:
    """Gymnasium's own vector raises an EOFError without a word, and then cannot be closed."""
    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="a process of Faulty-v0 ended with exit code 3"):
        play(faulty("the process", vectorization="processes"))
    assert set(multiprocessing.active_children()) == before


def test_processes_end_where_an_evaluation_does_not_reach_its_end() -> None:
    def act(seen: Tensor, _: slice) -> Tensor:
        raise RuntimeError("no action")

    evaluator = Evaluator(faulty(vectorization="processes"), 2, 2, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="no action"):
        evaluator(act)
    assert not multiprocessing.active_children()


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("how", KINDS)
def test_images_stay_bytes(how: str) -> None:
    environment = faulty(kind="Camera-v0", vectorization=how)
    assert environment.spec().observation_dtype == torch.uint8
    with closing(environment.open(Population((0, 1)).generators("environment"), 1)) as vector:
        shown = [vector.reset()]
        for action in ([0, 0], [0, 0], [0, 1]):
            outcome = vector.step(torch.tensor(action).unsqueeze(1))
            shown.append(outcome.next_observation)
    assert {image.dtype for image in shown} == {outcome.observation.dtype} == {torch.uint8}
    assert [int(image[0].unique()) for image in shown] == [254, 255, 0, 1]
    assert outcome.failures == {
        1: "Camera-v0 failed in step 3 of an episode: TypeError: its observation is of float64, not uint8"
    }
