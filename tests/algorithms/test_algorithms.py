"""The contract, for every algorithm that is found. The arithmetic of each is in a file of its own."""

from __future__ import annotations

import pytest
import torch
from parts import environment_for, modules, parts

from sparserl.algorithms.base import Algorithm
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.training.loop_parts import LoopParts
from sparserl.types import Batch, Rollout, Time, Weights

NAMES = modules("algorithms")
MEMBERS = 3


def parts_of(name: str) -> LoopParts:
    """Three members in the first environment that fits, with a network whose sizes fill no vector register evenly."""
    environment = environment_for(name)
    return parts(f"algorithm={name}", f"environment={environment}", "network.hidden=[13,7]", members=MEMBERS)


def recorded(given: LoopParts, algorithm: Algorithm, weights: Weights, steps: int = 6, envs: int = 5) -> Batch:
    """One batch of what a trainer would record in several steps of all sub-environments."""
    vector = given.environment.open(given.members.generators("environment"), envs)
    exploration, observation, transitions = given.members.rng("exploration"), vector.reset(), []
    for step in range(steps):
        action = algorithm.act(weights, observation, step, exploration)
        outcome = vector.step(action.action)
        transitions.append(
            {
                "observation": observation,
                "next_observation": outcome.next_observation,
                "reward": outcome.reward,
                "terminated": outcome.terminated,
                "truncated": outcome.truncated,
                "action": action.action,
                **action.extras,
            }
        )
        observation = outcome.observation
    vector.close()
    rollout: Rollout = {name: torch.stack([step[name] for step in transitions], dim=1) for name in transitions[0]}
    batch = algorithm.prepare(weights, rollout)
    assert all(values.shape[:2] == (MEMBERS, steps * envs) for values in batch.values())
    return batch


def require_gradients(weights: Weights) -> Weights:
    return {c: {name: tensor.clone().requires_grad_() for name, tensor in layers.items()} for c, layers in weights.items()}


def rng() -> MemberRng:
    """The same numbers each time."""
    return Population(tuple(range(MEMBERS))).rng("update")


@pytest.fixture(params=NAMES)
def given(request: pytest.FixtureRequest) -> LoopParts:
    return parts_of(request.param)


@pytest.fixture
def algorithm(given: LoopParts) -> Algorithm:
    return given.algorithm.bind(given.environment.spec())


def test_the_folder_is_read() -> None:
    assert {"dqn", "double_dqn", "ppo"} <= set(NAMES)


def test_binding_leaves_the_algorithm_as_it_was(given: LoopParts, algorithm: Algorithm) -> None:
    assert algorithm == given.algorithm
    assert not hasattr(given.algorithm, "spec")
    assert algorithm.spec == given.environment.spec()


def test_components_are_those_that_the_contract_names(given: LoopParts, algorithm: Algorithm) -> None:
    weights = algorithm.init(given.members)
    assert {*algorithm.policy, *algorithm.acting, *algorithm.learning_rates, *algorithm.targets} <= weights.keys()
    assert set(algorithm.targets.values()) <= algorithm.learning_rates.keys()
    assert algorithm.networks.keys() <= algorithm.learning_rates.keys()
    for component in algorithm.networks:
        assert list(algorithm.structure(component)) == [name for name in weights[component] if name.endswith(".weight")]


def test_every_objective_is_a_number_for_each_member(given: LoopParts, algorithm: Algorithm) -> None:
    weights = algorithm.init(given.members)
    running = require_gradients(weights)
    objectives = algorithm.losses(running, running, recorded(given, algorithm, weights), Time(1, 0, 0), rng())
    assert objectives
    for objective in objectives.values():
        assert objective.updates
        assert set(objective.updates) <= algorithm.learning_rates.keys()
        assert objective.loss.shape == (MEMBERS,)
        assert objective.loss.isfinite().all()
        assert objective.loss.requires_grad
        assert all(value.shape == (MEMBERS,) and not value.requires_grad for value in objective.metrics.values())


def test_a_members_loss_is_made_of_its_own_weights_and_data(given: LoopParts, algorithm: Algorithm) -> None:
    fresh = algorithm.init(given.members)
    weights, batch = require_gradients(fresh), recorded(given, algorithm, fresh)
    floating = {name: value.clone().requires_grad_() for name, value in batch.items() if value.is_floating_point()}
    for objective in algorithm.losses(weights, weights, batch | floating, Time(1, 0, 0), rng()).values():
        moved = [tensor for component in objective.updates for tensor in weights[component].values()]
        for gradient in torch.autograd.grad(
            objective.loss[1], [*moved, *floating.values()], retain_graph=True, allow_unused=True
        ):
            if gradient is not None:
                assert (gradient[[0, 2]] == 0).all()
        own = torch.autograd.grad(objective.loss[1], moved, retain_graph=True)
        assert all((gradient[1] != 0).any() for gradient in own)


def test_other_members_change_nothing_about_a_member(given: LoopParts, algorithm: Algorithm) -> None:
    """Also what no gradient shows: targets, advantages, choices of actions."""
    weights = algorithm.init(given.members)
    batch = recorded(given, algorithm, weights)
    other_weights = {c: {n: t.clone() for n, t in layers.items()} for c, layers in weights.items()}
    other_batch = {name: value.clone() for name, value in batch.items()}
    for tensor in (t for layers in other_weights.values() for t in layers.values()):
        tensor[1] = 2 * tensor[1].flip(0) + 0.1
    for value in other_batch.values():
        value[1] = value[1].flip(0)
    before, after = (
        algorithm.losses(w, w, b, Time(1, 0, 0), rng()) for w, b in ((weights, batch), (other_weights, other_batch))
    )
    for name, objective in before.items():
        torch.testing.assert_close(objective.loss[[0, 2]], after[name].loss[[0, 2]])
        assert not torch.isclose(objective.loss[1], after[name].loss[1])
    observation = batch["observation"]
    action, other = (algorithm.deterministic_action(w, observation) for w in (weights, other_weights))
    torch.testing.assert_close(action[[0, 2]], other[[0, 2]])


def test_targets_start_as_copies_and_nothing_else_is_changed_with_them(given: LoopParts, algorithm: Algorithm) -> None:
    weights = algorithm.init(given.members)
    for target, leader in algorithm.targets.items():
        assert weights[target].keys() == weights[leader].keys()
        for name, learned in weights[leader].items():
            assert torch.equal(weights[target][name], learned)
            assert weights[target][name].data_ptr() != learned.data_ptr(), "shared memory follows at once"
    flat = {c: {"": torch.cat([t.flatten(1) for t in layers.values()], dim=1)} for c, layers in weights.items()}
    changed = [algorithm.update_targets(flat, Time(step, step - 1, step)).keys() for step in range(1, 1001)]
    assert set().union(*changed) == algorithm.targets.keys()


def test_the_deployed_module_is_what_actions_are_chosen_by(given: LoopParts, algorithm: Algorithm) -> None:
    """For discrete actions the highest value or logit, else the action itself; one member's, without the member axis."""
    weights = algorithm.init(given.members)
    observation = recorded(given, algorithm, weights)["observation"]
    chosen = algorithm.deterministic_action(weights, observation)
    for member in range(MEMBERS):
        its = {c: {name: tensor[member] for name, tensor in weights[c].items()} for c in algorithm.policy}
        output = algorithm.policy_module(its)(observation[member])
        actions = output.argmax(dim=-1) if algorithm.spec.discrete_actions is not None else output
        torch.testing.assert_close(actions, chosen[member])
