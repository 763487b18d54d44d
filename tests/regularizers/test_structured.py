"""Gates on units and on the rank: worked examples, closed forms, and a level of sparsity that is asked for."""

from __future__ import annotations

import dataclasses
import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from parts import class_of, learner_of, make_learner, make_regularizer, modules, random_batches
from torch import Tensor

from sparserl.config.schema import ConfigError
from sparserl.config.validation import check, compose
from sparserl.networks.base import Matrix, Structure
from sparserl.networks.mlp import MLP
from sparserl.population.members import Population
from sparserl.regularizers.hard_concrete import ASCENT, DAMPING, MULTIPLIER, HardConcrete, log_alphas
from sparserl.regularizers.l0_rank import SCALE
from sparserl.regularizers.sum import Sum
from sparserl.training.metrics import zero_share
from sparserl.types import Gates, Layers

STRUCTURED = ["l0_units", "l0_rank", "l0_combined"]
OPEN, SHUT = 6.0, -6.0
"""log_alpha of a gate that is 1, and of one that is 0, without noise."""
SIZES = 3, 4, 2, 1
"""Of a small perceptron: 12 + 8 + 2 = 22 weights."""

MLP_STRUCTURE = MLP(hidden=SIZES[1:-1], activation="relu").structure(SIZES[:1])


def layers_of(members: int = 1) -> Layers:
    generators = Population(tuple(range(members))).generators("init")
    return MLP(hidden=SIZES[1:-1], activation="relu").init(SIZES[:1], SIZES[-1], generators)


def bound(name: str, structure: Structure = MLP_STRUCTURE, members: int = 1, **changes: Any) -> HardConcrete:
    regularizer = make_regularizer(f"regularizer={name}", members=members)
    its = dataclasses.replace(regularizer, **changes).bind(structure)
    assert isinstance(its, HardConcrete)
    return its


def fresh(regularizer: HardConcrete, layers: Layers) -> Gates:
    members = Population(tuple(range(len(next(iter(layers.values()))))))
    return regularizer.init(layers, members.generators("gates"))


def hardened(regularizer: HardConcrete, layers: Layers, gates: Gates) -> Layers:
    return regularizer.harden(layers, regularizer.multipliers(regularizer.gate_values(gates), gates, layers))


# ---------------------------------------------------------------- units


def test_a_closed_unit_has_no_weights_and_no_bias_left() -> None:
    """Unit 2 of the first hidden layer, by hand: its column of the first matrix, its bias, and its row of the second."""
    regularizer, layers = bound("l0_units"), layers_of()
    gates = fresh(regularizer, layers)
    assert {name: gate.shape for name, gate in log_alphas(gates).items()} == {"0.weight": (1, 4), "1.weight": (1, 2)}
    gates["0.weight"][0, 2] = SHUT
    without = hardened(regularizer, layers, gates)
    expected = {name: tensor.clone() for name, tensor in layers.items()}
    expected["0.weight"][0, :, 2] = 0
    expected["0.bias"][0, :, 2] = 0
    expected["1.weight"][0, 2] = 0
    assert {name: torch.equal(without[name], its) for name, its in expected.items()} == dict.fromkeys(expected, True)


def test_a_half_open_unit_is_halved_where_it_leaves() -> None:
    """log_alpha 0 is a gate of 1/2; what enters stays as it is, or a half would count twice."""
    regularizer, layers = bound("l0_units"), layers_of()
    gates = fresh(regularizer, layers)
    gates["0.weight"][0, 1] = 0.0
    without = hardened(regularizer, layers, gates)
    assert torch.equal(without["0.weight"], layers["0.weight"])
    torch.testing.assert_close(without["1.weight"][0, 1], layers["1.weight"][0, 1] / 2)


def test_the_penalty_of_units_is_the_expected_size_of_the_shrunken_network() -> None:
    """Against Monte Carlo: the mean number of weights between open units, over many samples of the gates."""
    regularizer, layers = bound("l0_units", reduction="sum"), layers_of()
    gates = fresh(regularizer, layers)
    draw = torch.Generator().manual_seed(0)
    gates |= {name: torch.randn(gate.shape, generator=draw) for name, gate in log_alphas(gates).items()}
    samples = 4000
    many = {name: gate.repeat(samples, *[1] * (gate.dim() - 1)) for name, gate in gates.items()}
    several = bound("l0_units", members=samples)
    noise = several.noise(many, Population(tuple(range(samples))).generators("gates"), regularizer.delay_steps)
    a0, a1 = ((z > 0).double().sum(dim=1) for z in several.sample(many, noise).values())
    sizes = 3 * a0 + a0 * a1 + a1
    # 4.5 standard errors are exceeded once in 150,000 such tests
    assert abs(float(regularizer.penalty(layers, gates)) - float(sizes.mean())) < 4.5 * float(sizes.std()) / math.sqrt(samples)


def test_a_closed_channel_takes_all_its_positions_along() -> None:
    """A kernel of 2 channels whose 2 x 2 outputs a linear layer of 8 inputs takes: channel 1 is inputs 4 to 7."""
    structure = {"0.weight": Matrix("kernel", ("1.weight",), 4, "relu"), "1.weight": Matrix("linear")}
    layers = {"0.weight": torch.ones(1, 2, 3, 3, 3), "0.bias": torch.ones(1, 1, 2), "1.weight": torch.ones(1, 8, 5)}
    regularizer = bound("l0_units", structure, reduction="sum")
    gates = fresh(regularizer, layers)
    gates["0.weight"] = torch.tensor([[OPEN, SHUT]])
    without = hardened(regularizer, layers, gates)
    assert without["0.weight"].flatten(2).sum(dim=2).tolist() == [[27.0, 0.0]]
    assert without["0.bias"].flatten().tolist() == [1.0, 0.0]
    assert without["1.weight"].sum(dim=2).flatten().tolist() == [5.0] * 4 + [0.0] * 4
    # one channel of 27 weights and 4 inputs of 5 units
    assert float(regularizer.stored({"0.weight": torch.tensor([[1.0, 0.0]])}, layers)) == 27 + 4 * 5


def test_units_of_a_trunk_are_closed_where_they_are_entered() -> None:
    """What leaves them is another component's. With relu, z times what enters is z times what leaves."""
    trunk = MLP(hidden=[4, 2], activation="relu").trunk()
    layers = trunk.init((3,), 2, Population((0,)).generators("init"))
    regularizer = bound("l0_units", trunk.structure((3,)))
    gates = fresh(regularizer, layers)
    assert log_alphas(gates)["1.weight"].shape == (1, 2)
    gates["1.weight"] = torch.tensor([[SHUT, 0.0]])
    observation = torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(0))
    features, halved = trunk(layers, observation), trunk(hardened(regularizer, layers, gates), observation)
    assert (halved[..., 0] == 0).all()
    torch.testing.assert_close(halved[..., 1], features[..., 1] / 2)


def test_a_weight_is_open_where_its_own_gate_and_both_units_are() -> None:
    """By hand: P = 0.5 of each gate of weights, 0.4 of the units of the first hidden layer, 0.25 of those of the second."""
    regularizer, layers = bound("l0_combined", reduction="sum", unit_share=2.0), layers_of()
    own = {f"{name}.own": torch.full_like(layers[name], 0.5) for name in MLP_STRUCTURE}
    is_open = {"0.weight": torch.full((1, 4), 0.4), "1.weight": torch.full((1, 2), 0.25), **own}
    expected = 12 * 0.5 * 0.4 + 8 * 0.5 * 0.4 * 0.25 + 2 * 0.5 * 0.25
    shrunken = 12 * 0.4 + 8 * 0.4 * 0.25 + 2 * 0.25
    assert float(regularizer.kept(is_open, layers)) == pytest.approx(expected)
    assert float(regularizer.stored(is_open, layers)) == pytest.approx(expected + 2 * shrunken)
    gates = fresh(regularizer, layers)
    gates["0.weight"][0, 2] = gates["1.weight.own"][0, 0, 1] = SHUT
    zeros = {name: (hardened(regularizer, layers, gates)[name] == 0).sum().item() for name in MLP_STRUCTURE}
    assert zeros == {"0.weight": 3, "1.weight": 2 + 1, "2.weight": 0}


# ---------------------------------------------------------------- rank


def activated(regularizer: HardConcrete, layers: Layers) -> Gates:
    """The gates at the moment at which they become active."""
    start = regularizer.delay_steps
    return regularizer.scheduled(layers, fresh(regularizer, layers), start - 1, start)


@pytest.mark.parametrize("factors", ["fixed", "trained"])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (20, 20)])
def test_open_gates_are_the_rank_and_all_of_them_the_matrix(shape: tuple[int, int], factors: str) -> None:
    """With the last directions closed it is the nearest matrix of that rank (Eckart and Young 1936)."""
    layers = {
        "0.weight": torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)),
        "0.bias": torch.ones(2, 1, shape[1]),
    }
    regularizer = bound("l0_rank", {"0.weight": Matrix("linear")}, members=2, factors=factors)
    gates = activated(regularizer, layers)
    torch.testing.assert_close(hardened(regularizer, layers, gates), layers)
    gates["0.weight"][:, 3:] = SHUT
    cut = hardened(regularizer, layers, gates)["0.weight"]
    assert torch.linalg.matrix_rank(cut, rtol=1e-5).tolist() == [3, 3]
    left, values, right = torch.linalg.svd(layers["0.weight"], full_matrices=False)
    torch.testing.assert_close(cut, left[..., :3] * values[:, None, :3] @ right[:, :3], rtol=1e-4, atol=1e-4)


def test_small_matrices_carry_no_rank_gates() -> None:
    """4 x 120 and 84 x 2 are not smaller as factors at any useful rank; 120 x 84 is."""
    learner = make_learner("regularizer=l0_rank")
    assert set(log_alphas(learner.gates["policy"])) == {"1.weight"}


def test_the_penalty_of_the_rank_is_the_numbers_of_the_factors() -> None:
    layers = {"0.weight": torch.zeros(1, 20, 30)}
    regularizer = bound("l0_rank", {"0.weight": Matrix("linear")}, reduction="sum")
    assert float(regularizer.stored({"0.weight": torch.full((1, 20), 0.25)}, layers)) == 20 * 0.25 * (20 + 30)


def test_the_bases_are_taken_when_the_gates_become_active_and_then_stay() -> None:
    settings = "regularizer.delay_steps=2", "regularizer.ramp_steps=0", "regularizer.freeze_at_step=5"
    learner = make_learner("regularizer=l0_rank", *settings, members=2)
    bases = []
    for step, batch in enumerate(random_batches(7, members=2, size=16)):
        weight = learner.weights["policy"]["1.weight"].clone()
        learner.update(batch, step)
        bases.append(learner.gates["policy"]["1.weight.basis"].clone())
        if step == 2:
            _, _, right = torch.linalg.svd(weight.double(), full_matrices=False)
            torch.testing.assert_close(bases[-1], right.mT.float())
    assert torch.equal(bases[1], torch.eye(84).expand(2, 84, 84))
    assert all(torch.equal(basis, bases[2]) for basis in bases[3:])


def test_bases_that_learn_move_like_weights_until_the_gates_are_frozen() -> None:
    """Adam's first step moves a number by its learning rate: gates by 0.05 here, weights and bases by 0.001."""
    settings = "regularizer.delay_steps=2", "regularizer.ramp_steps=0", "regularizer.freeze_at_step=4"
    rates = "regularizer.gate_learning_rate=0.05", "algorithm.learning_rate=0.001"
    learner = make_learner("regularizer=l0_rank", "regularizer.factors=trained", *settings, *rates)
    bases = []
    for step, batch in enumerate(random_batches(6, members=1, size=16)):
        weight = learner.weights["policy"]["1.weight"].clone()
        learner.update(batch, step)
        bases.append(learner.gates["policy"]["1.weight.basis"] / SCALE)
        if step == 2:
            _, _, right = torch.linalg.svd(weight.double(), full_matrices=False)
            assert float((bases[-1] - right.mT.float()).abs().max()) == pytest.approx(0.001, rel=1e-2)
    assert not torch.equal(bases[3], bases[2])
    assert torch.equal(bases[5], bases[4])
    torch.testing.assert_close(bases[4], bases[3])


# ---------------------------------------------------------------- for all


@pytest.mark.parametrize("name", STRUCTURED)
@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_members_are_their_solo_runs_bit_for_bit(name: str, algorithm: str) -> None:
    """Before the delay, while gates move, and after they are frozen."""
    settings = "regularizer.delay_steps=3", "regularizer.ramp_steps=0", "regularizer.freeze_at_step=7", "regularizer.lambda_c=9"
    overrides = f"regularizer={name}", f"algorithm={algorithm}", "environment=cartpole", *settings
    together = make_learner(*overrides, "regularizer.target_sparsity=0.5", members=3)
    alone = make_learner(*overrides, "regularizer.target_sparsity=0.5")
    for step, batch in enumerate(random_batches(10, members=3, size=16, algorithm=algorithm)):
        together.begin_rollout(step)
        alone.begin_rollout(step)
        together.update(batch, step)
        alone.update({key: values[:1] for key, values in batch.items()}, step)
        for kind in ("weights", "gates"):
            ours, its = getattr(together, kind)["policy"], getattr(alone, kind)["policy"]
            assert all(torch.equal(ours[tensor][:1], its[tensor]) for tensor in its), (kind, step)
    assert not torch.equal(together.gates["policy"]["1.weight"], together.initial_gates["policy"]["1.weight"])


@pytest.mark.parametrize("name", ["l0", *STRUCTURED])
def test_a_network_without_anything_to_gate_has_no_gates(name: str) -> None:
    """A single small matrix has no hidden unit and no rank worth a gate; l0 gates each of its weights."""
    learner = make_learner(f"regularizer={name}", "network.hidden=[]", "regularizer.delay_steps=0", "regularizer.ramp_steps=0")
    row = learner.update(random_batches(1, members=1, size=16)[0], env_step=1)
    has_gates = name in ("l0", "l0_combined")
    assert bool(learner.gates["policy"]) is has_gates
    assert (float(row["penalty/policy"]) > 0) is has_gates


# ---------------------------------------------------------------- a level that is asked for


def test_the_multiplier_climbs_while_too_much_is_stored_and_falls_after() -> None:
    """By hand: 22 weights, of which the target of 0.5 leaves 11; all open are 11 too many, half the weights."""
    regularizer, layers = bound("l0", target_sparsity=torch.tensor([0.5]), delay_steps=0, ramp_steps=0), layers_of()
    gates: dict[str, Tensor] = fresh(regularizer, layers)
    _, gates = regularizer.project(layers, gates, step=0, pull=0.0)
    torch.testing.assert_close(gates[MULTIPLIER], torch.tensor([[1 + ASCENT / 2 + DAMPING / 2, 1 + ASCENT / 2]]))
    closed = gates | {name: torch.full_like(gate, SHUT) for name, gate in log_alphas(gates).items()}
    _, gates = regularizer.project(layers, closed, step=0, pull=0.0)
    torch.testing.assert_close(gates[MULTIPLIER], torch.tensor([[1 - DAMPING / 2, 1.0]]))


def test_a_member_without_a_target_keeps_its_lambda_c() -> None:
    targets = torch.tensor([math.nan, 0.9])
    regularizer, layers = bound("l0", members=2, target_sparsity=targets, delay_steps=0, ramp_steps=0), layers_of(2)
    _, gates = regularizer.project(layers, fresh(regularizer, layers), step=0, pull=0.0)
    assert gates[MULTIPLIER][0].tolist() == [1.0, 1.0]
    assert gates[MULTIPLIER][1, 0] > 1


@pytest.mark.parametrize("name", ["l0", *STRUCTURED])
@pytest.mark.parametrize("kind", ["sigmoid", "median"])
def test_frozen_gates_are_at_the_level_that_was_asked_for(name: str, kind: str) -> None:
    """To a single gate, in a network of CartPole's size; gates keep their order, and a member without a target all."""
    targets = torch.tensor([0.5, 0.9, math.nan])
    learner = make_learner(f"regularizer={name}", members=3)
    regularizer = dataclasses.replace(learner.regularizer, target_sparsity=targets, deterministic_gate=kind)
    its = regularizer.bind(learner.algorithm.structure("policy"))
    assert isinstance(its, HardConcrete)
    assert its.freeze_at_step is not None
    layers, gates, draw = learner.weights["policy"], dict(learner.gates["policy"]), torch.Generator().manual_seed(0)
    gates |= {n: 3 * torch.randn(gate.shape, generator=draw) for n, gate in log_alphas(gates).items()}
    assert its.scheduled(layers, gates, its.delay_steps, its.freeze_at_step - 1) is gates, "they are not frozen yet"
    frozen = its.scheduled(layers, gates, its.freeze_at_step - 1, its.freeze_at_step)
    is_open = {n: (z > 0).float() for n, z in its.gate_values(frozen).items()}
    sparsity = 1 - its.kept(is_open, layers) / 10_728
    # a unit of the first hidden layer is up to 4 + 84 weights, 0.8 points; a direction 204, 1.9; a weight nothing
    largest = {"l0": 1e-3, "l0_units": 0.012, "l0_combined": 0.012, "l0_rank": 0.02}[name]
    assert sparsity[:2].tolist() == pytest.approx([0.5, 0.9], abs=largest)
    assert all((z[1] > 0).any() for z in is_open.values())
    for n, gate in log_alphas(gates).items():
        assert torch.equal(frozen[n][2], gate[2])
        moved = frozen[n][:2] - gate[:2]
        assert moved.flatten(1).std(dim=1).max() < 1e-5, "all by one number, but for rounding"


@pytest.mark.parametrize("share_equal", [1.0, 0.5])
@pytest.mark.parametrize("name", ["l0", "l0_units", "l0_rank"])
def test_gates_that_are_equal_are_opened_until_the_level_is_reached(name: str, share_equal: float) -> None:
    """Those that no loss has moved are: a shift alone would open all of them or none. Each layer has its part of them."""
    learner = make_learner(f"regularizer={name}", members=2)
    targets = torch.tensor([0.7, 0.3])
    regularizer = dataclasses.replace(learner.regularizer, target_sparsity=targets)
    its = regularizer.bind(learner.algorithm.structure("policy"))
    assert isinstance(its, HardConcrete)
    layers, gates, draw = learner.weights["policy"], dict(learner.gates["policy"]), torch.Generator().manual_seed(0)
    for n, gate in log_alphas(gates).items():
        moved = torch.rand(gate.shape, generator=draw) >= share_equal
        gates[n] = torch.where(moved, 3 * torch.randn(gate.shape, generator=draw), gate)
    frozen = its.finished(layers, gates, its.delay_steps, its.delay_steps + 1)
    is_open = {n: (z > 0).float() for n, z in its.gate_values(frozen).items()}
    sparsity = 1 - its.kept(is_open, layers) / 10_728
    largest = {"l0": 1e-3, "l0_units": 0.012, "l0_rank": 0.02}[name]  # one gate, as above
    assert sparsity.tolist() == pytest.approx(targets.tolist(), abs=largest)
    assert all(z.flatten(1).any(dim=1).all() for z in is_open.values())


@pytest.mark.parametrize(("limit", "kind", "beta"), [(30.0, "sigmoid", 0.5), (8.0, "median", 6.0)])
def test_the_level_is_reached_from_gates_that_are_as_open_as_they_can_be(limit: float, kind: str, beta: float) -> None:
    learner = make_learner("regularizer=l0", members=1)
    its = dataclasses.replace(
        learner.bound["policy"],
        target_sparsity=torch.tensor([0.9]),
        log_alpha_limit=limit,
        deterministic_gate=kind,
        beta=torch.tensor([beta]),
    )
    assert isinstance(its, HardConcrete)
    gates = dict(learner.gates["policy"])
    gates |= {
        n: limit - torch.rand(gate.shape, generator=torch.Generator().manual_seed(0)) for n, gate in log_alphas(gates).items()
    }
    frozen = its.finished(learner.weights["policy"], gates, its.delay_steps, its.delay_steps + 1)
    kept = its.kept({n: (z > 0).float() for n, z in its.gate_values(frozen).items()}, learner.weights["policy"])
    assert kept.item() == pytest.approx(0.1 * 10_728, abs=1)


def test_the_level_is_reached_where_gates_learn_in_one_rollout_only() -> None:
    """Algorithms that learn from rollouts ask between them, so they see gates that are not active before and after."""
    learner = make_learner("regularizer=l0", "regularizer.delay_steps=100", "regularizer.freeze_at_step=200", members=1)
    its = dataclasses.replace(learner.bound["policy"], target_sparsity=torch.tensor([0.5]))
    layers, gates = learner.weights["policy"], learner.gates["policy"]
    before = its.scheduled(layers, gates, -1, 0)
    assert before is gates
    after = its.scheduled(layers, before, 0, 256)
    assert its.kept({n: (z > 0).float() for n, z in its.gate_values(after).items()}, layers).item() == 0.5 * 10_728
    assert its.scheduled(layers, after, 256, 512) is after, "once"
    assert its.finished(layers, after, 512, 768) is after


def test_a_level_at_which_no_direction_is_left_is_refused() -> None:
    """Of 4 * 120 + 120 * 84 + 84 * 2 weights only the second matrix has directions, of 120 + 84 numbers: 852 of 10,728."""
    sentence = "with one direction in each matrix the policy network stores 852 of 10728 numbers: lower it to 0.92"
    with pytest.raises(ConfigError, match=rf"^regularizer\.target_sparsity is 0\.93, but {sentence}, or choose l0_units$"):
        check(compose("algorithm=dqn", "environment=cartpole", "regularizer=l0_rank", "regularizer.target_sparsity=0.93"))
    check(compose("algorithm=dqn", "environment=cartpole", "regularizer=l0_rank", "regularizer.target_sparsity=0.92"))


@pytest.mark.parametrize("name", [name for name in modules("regularizers") if name.startswith("l0")])
def test_gates_that_are_never_frozen_are_at_the_level_when_training_ends(name: str) -> None:
    """What is left of 4 * 120 + 120 * 84 + 84 * 2 weights is the target's share of them, but for less than one gate more.

    A unit of the second hidden layer is up to 120 + 2 weights, one of the first fewer. A direction of the matrix between them
    is 120 + 84 numbers, and the other two matrices have no gates.
    """
    at = "regularizer.terms.l0" if issubclass(class_of("regularizer", name), Sum) else "regularizer"
    settings = f"regularizer={name}", f"{at}.delay_steps=0", f"{at}.freeze_at_step=null", "regularizer.zero_threshold=0"
    config = compose(*settings)
    configs = [deepcopy(config) | {"seed": seed} for seed in range(3)]
    for each, target in zip(configs, (0.5, 0.9, None), strict=True):
        (each["regularizer"]["terms"]["l0"] if "terms" in at else each["regularizer"])["target_sparsity"] = target
    learner = learner_of(configs)
    learner.update(random_batches(1, members=3, size=16)[0], env_step=10)
    gates, draw = log_alphas(learner.gates["policy"]), torch.Generator().manual_seed(0)
    for gate in gates.values():
        gate.copy_(3 * torch.randn(gate.shape, generator=draw))
    before = {n: gate.clone() for n, gate in gates.items()}

    def kept() -> list[float]:
        if name == "l0_rank":
            z = learner.bound["policy"].gate_values(gates)["1.weight"]
            return [4 * 120 + (120 + 84) * rank + 84 * 2 for rank in (z > 0).sum(dim=1).tolist()]
        return ((1 - zero_share(learner.deterministic()["policy"])) * 10_728).tolist()

    without_a_target = kept()[2]
    learner.finish(20)
    one_gate = {"l0_units": 120 + 2, "l0_combined": 120 + 2, "l0_rank": 120 + 84}.get(name, 1)
    for numbers, share in zip(kept()[:2], (0.5, 0.1), strict=True):
        assert share * 10_728 - one_gate < round(numbers) <= share * 10_728
    assert kept()[2] == without_a_target
    assert all(torch.equal(gate[2], before[n][2]) for n, gate in gates.items())
