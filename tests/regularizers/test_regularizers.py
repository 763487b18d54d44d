"""The contract, for every regulariser that is found; then what is particular to each. The gates are in test_l0.py."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parts import class_of, make_regularizer, modules, random_batches
from torch import Tensor

from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.networks.base import Matrix
from sparserl.population.members import Population
from sparserl.regularizers.base import Penalized, Regularizer
from sparserl.regularizers.hard_concrete import HardConcrete
from sparserl.regularizers.l0_rank import L0Rank
from sparserl.regularizers.magnitude import Magnitude
from sparserl.regularizers.masks import Masked
from sparserl.training.learner import Learner
from sparserl.types import Gates, Layers, Noise, is_weight

NAMES = modules("regularizers")
MEMBERS = 3
PULL = torch.tensor([1e-3, 2e-3, 5e-3])
"""The learning rate times each member's coefficient."""

STEP = 275_000
"""Of the 500,000 of a run: every delay and ramp is over, and no gate is frozen yet."""


SMALL = {"l0_rank": ("regularizer.smallest_side=3",)}
"""What makes a regulariser act on layers as small as those below."""


@pytest.fixture(params=NAMES)
def regularizer(request: pytest.FixtureRequest) -> Regularizer:
    return make_regularizer(f"regularizer={request.param}", *SMALL.get(request.param, ()), members=MEMBERS).bind(STRUCTURE)


def layers_of(members: int = MEMBERS, seed: int = 0) -> Layers:
    """Weights of linear layers and of a convolution, some of them small; sizes that fill no vector register evenly."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"0.weight": (3, 2, 3, 3), "0.bias": (1, 3), "1.weight": (12, 7), "1.bias": (1, 7), "log_std": (7,)}
    layers = {name: torch.randn(members, *shape, generator=draw) for name, shape in shapes.items()}
    layers["1.weight"][:, :2] *= 1e-5
    return layers


STRUCTURE = {"0.weight": Matrix("kernel", ("1.weight",), positions=4, activation="relu"), "1.weight": Matrix("linear")}
"""Of those layers."""


def gates_of(regularizer: Regularizer, layers: Layers) -> Gates:
    """Fresh gates, moved apart: some closed, some open, most between. Masks, which never move, are closed or open."""
    draw, gates = torch.Generator().manual_seed(1), init(regularizer, layers)
    if isinstance(regularizer, Masked):
        return {name: (torch.rand(mask.shape, generator=draw) < 0.7).float() for name, mask in gates.items()}
    moved = list(regularizer.gate_values(gates))
    return gates | {n: gates[n] + 3 * torch.randn(gates[n].shape, generator=draw) - gates[n].mean() for n in moved}


def init(regularizer: Regularizer, layers: Layers) -> Gates:
    """Fresh gates of some or all of the members."""
    members = Population(tuple(range(len(layers["0.weight"]))))
    return regularizer.init(layers, members.generators("gates"))


def copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def running(regularizer: Regularizer, layers: Layers, gates: Gates, noise: Noise) -> Layers:
    """What runs: under active gates, or under those that are never active."""
    active = regularizer.gates_active(STEP)
    values = regularizer.sample(gates, noise) if active else regularizer.gate_values(gates)
    return regularizer.apply(layers, regularizer.multipliers(values, gates, layers))


def hardened_of(regularizer: Regularizer, layers: Layers, gates: Gates) -> Layers:
    return regularizer.harden(layers, regularizer.multipliers(regularizer.gate_values(gates), gates, layers))


def penalties(regularizer: Regularizer, layers: Layers, gates: Gates) -> dict[str, Tensor]:
    """Of each term, by its name."""
    return {name: term.penalty(layers, gates) for name, term in regularizer.summands().items()}


def hooks(regularizer: Regularizer, layers: Layers, gates: Gates) -> dict[str, dict[str, Tensor]]:
    """What every hook gives, by its name."""
    noise = regularizer.noise(gates, Population(tuple(range(MEMBERS))).generators("gates"), STEP)
    kept, projected = layers, gates
    for term in regularizer.summands().values():
        kept, projected = term.project(kept, projected, STEP, PULL)
    return {
        "noise": noise,
        "sample": regularizer.sample(gates, noise),
        "running": running(regularizer, layers, gates, noise),
        "penalty": penalties(regularizer, layers, gates),
        "harden": hardened_of(regularizer, layers, gates),
        "project, layers": kept,
        "project, gates": projected,
        "gate_values": regularizer.gate_values(gates),
        "scheduled": regularizer.scheduled(layers, gates, STEP - 1, STEP),
        "finished": regularizer.finished(layers, gates, STEP - 1, STEP),
    }


def test_gates_change_by_their_schedule_only_where_something_is_due(regularizer: Regularizer) -> None:
    """In a run of 500,000 steps, from any step to any later one. With a target gates change when they are frozen."""
    is_scheduled = isinstance(regularizer, HardConcrete | Magnitude)
    if is_scheduled:
        regularizer = dataclasses.replace(regularizer, target_sparsity=torch.full((MEMBERS,), 0.5)).bind(STRUCTURE)
    layers, changed = layers_of(), 0
    gates = init(regularizer, layers)
    steps = [-1, *range(0, 500_001, 50_000), *range(10, 500_001, 100_000)]
    for previous, step in itertools.combinations(sorted(steps), 2):
        found = regularizer.scheduled(layers, copy(gates), previous, step)
        if not equal(found, gates):
            changed += 1
            assert regularizer.is_due(previous, step), (previous, step)
        if step == previous + 10:
            assert not regularizer.is_due(previous, step) or regularizer.gates_active(previous) != regularizer.gates_active(
                step
            )
    assert (changed > 0) == is_scheduled, "nothing changes, and this test sees nothing"


# ---------------------------------------------------------------- the contract


def test_the_folder_is_read() -> None:
    assert {"l0", "l0_l1", "l1", "l2", "magnitude", "none", "random"} <= set(NAMES)


def test_gates_say_what_they_multiply_and_how_many_weights_they_cover(regularizer: Regularizer) -> None:
    layers = layers_of()
    gates = init(regularizer, layers)
    values = regularizer.gate_values(gates)
    assert values.keys() <= gates.keys()
    assert regularizer.multipliers(values, gates, layers).keys() <= layers.keys()
    covered = regularizer.covered_weights(layers, gates)
    assert covered.keys() == values.keys()
    assert all(number >= 1 for number in covered.values())


def test_every_hook_gives_the_shapes_of_what_it_was_given(regularizer: Regularizer) -> None:
    layers = layers_of()
    gates = gates_of(regularizer, layers)
    given = hooks(regularizer, layers, gates)
    like_layers, like_gates = (
        ("running", "harden", "project, layers"),
        ("noise", "sample", "gate_values"),
    )
    if not regularizer.gates_active(STEP):
        assert given["noise"] == given["sample"] == {}
        like_gates = like_gates[2:]
    for hook in like_layers:
        assert {name: tensor.shape for name, tensor in given[hook].items()} == {n: t.shape for n, t in layers.items()}
    random = {name: gates[name] for name in given["gate_values"]}  # the others are moved by no gradient
    for hook in like_gates:
        assert {name: tensor.shape for name, tensor in given[hook].items()} == {n: t.shape for n, t in random.items()}
    for hook in ("project, gates", "scheduled", "finished"):
        assert {name: tensor.shape for name, tensor in given[hook].items()} == {n: t.shape for n, t in gates.items()}
    for hook in ("sample", "gate_values"):  # where there is no sample, there is nothing to see
        assert all(((values >= 0) & (values <= 1)).all() for values in given[hook].values())


def test_what_no_gate_multiplies_passes_through(regularizer: Regularizer) -> None:
    layers = layers_of()
    gates = gates_of(regularizer, layers)
    given, multiplied = (
        hooks(regularizer, layers, gates),
        regularizer.multipliers(regularizer.gate_values(gates), gates, layers),
    )
    others = [name for name in layers if name not in multiplied and not is_weight(name)]
    assert "log_std" in others
    for hook in ("running", "harden", "project, layers"):
        for name in others:
            assert torch.equal(given[hook][name], layers[name]), hook


def test_hooks_change_nothing_they_are_given(regularizer: Regularizer) -> None:
    layers = layers_of()
    gates = gates_of(regularizer, layers)
    layers_before, gates_before = copy(layers), copy(gates)
    hooks(regularizer, layers, gates)
    assert equal(layers, layers_before)
    assert equal(gates, gates_before)


def test_hardening_only_shrinks_weights_and_never_flips_them(regularizer: Regularizer) -> None:
    """Each by itself, but for projections, which make no matrix larger as a whole."""
    layers = layers_of()
    projects = isinstance(regularizer, L0Rank)
    for name, hardened in hardened_of(regularizer, layers, gates_of(regularizer, layers)).items():
        assert (
            (hardened.norm() <= layers[name].norm() * (1 + 1e-6)) if projects else (hardened.abs() <= layers[name].abs()).all()
        )
        assert (hardened * layers[name] >= 0).all() or projects


def test_the_penalty_is_a_finite_number_for_each_member_and_never_negative(regularizer: Regularizer) -> None:
    layers = layers_of()
    for penalty in penalties(regularizer, layers, gates_of(regularizer, layers)).values():
        assert penalty.shape == (MEMBERS,)
        assert penalty.isfinite().all()
        assert (penalty >= 0).all()
    for term in regularizer.summands().values():
        coefficient = torch.as_tensor(term.coefficient(STEP, deployed=True))
        assert coefficient.shape in ((), (MEMBERS,))
        assert (coefficient >= 0).all()


def test_biases_cost_nothing(regularizer: Regularizer) -> None:
    layers = layers_of()
    gates = gates_of(regularizer, layers)
    others = {name: tensor if is_weight(name) else 100 * tensor for name, tensor in layers.items()}
    assert equal(penalties(regularizer, layers, gates), penalties(regularizer, others, gates))


def test_members_do_not_know_of_each_other(regularizer: Regularizer) -> None:
    """Bit for bit: other weights and gates of member 1 change nothing for members 0 and 2."""
    layers = layers_of()
    gates = gates_of(regularizer, layers)
    before = hooks(regularizer, layers, gates)
    changed_layers, changed_gates = copy(layers), copy(gates)
    for tensor in (*changed_layers.values(), *changed_gates.values()):
        tensor[1] = 7 * tensor[1].flip(0) - 3
    after = hooks(regularizer, changed_layers, changed_gates)
    for hook, given in before.items():
        for name, tensor in given.items():
            assert torch.equal(tensor[[0, 2]], after[hook][name][[0, 2]]), f"{hook}, {name}"


def test_a_members_gradient_is_its_own(regularizer: Regularizer) -> None:
    layers = {name: tensor.requires_grad_() for name, tensor in layers_of().items()}
    gates = gates_of(regularizer, layers)
    learned = [gates[name].requires_grad_() for name in regularizer.gate_values(gates)]
    noise = regularizer.noise(gates, Population(tuple(range(MEMBERS))).generators("gates"), STEP)
    ran = running(regularizer, layers, gates, noise)
    objective = sum((t[1].square().sum() for t in ran.values()), torch.zeros(()))
    objective = sum((penalty[1] for penalty in penalties(regularizer, ran, gates).values()), objective)
    for gradient in torch.autograd.grad(objective, [*layers.values(), *learned]):
        assert gradient.isfinite().all()
        assert (gradient[[0, 2]] == 0).all()
        assert (gradient[1] != 0).any()


def of_member_1(regularizer: Regularizer) -> Regularizer:
    given = {field.name: getattr(regularizer, field.name) for field in dataclasses.fields(regularizer) if field.init}
    values = {name: value[1:2] for name, value in given.items() if isinstance(value, Tensor)}
    if "terms" in given:
        values["terms"] = {name: of_member_1(term) for name, term in given["terms"].items()}
    return dataclasses.replace(regularizer, **values)


def test_a_member_is_penalised_as_it_would_be_alone(regularizer: Regularizer) -> None:
    layers = layers_of()
    gates = gates_of(regularizer, layers)
    alone = of_member_1(regularizer).bind(STRUCTURE)
    own_layers, own_gates = {n: t[1:2] for n, t in layers.items()}, {n: t[1:2] for n, t in gates.items()}
    together = {name: penalty[1:2] for name, penalty in penalties(regularizer, layers, gates).items()}
    assert equal(penalties(alone, own_layers, own_gates), together)
    hardened = hardened_of(regularizer, layers, gates)
    assert equal(hardened_of(alone, own_layers, own_gates), {name: tensor[1:2] for name, tensor in hardened.items()})


# ---------------------------------------------------------------- coefficient and scope

PENALIZED = [name for name in NAMES if issubclass(class_of("regularizer", name), Penalized)]


def changed(name: str, **changes: Any) -> Regularizer:
    members = len(changes.get("lambda_c", [0]))
    return dataclasses.replace(make_regularizer(f"regularizer={name}", members=members), **changes).bind(STRUCTURE)


@pytest.mark.parametrize("name", PENALIZED)
def test_each_members_coefficient_waits_and_rises(name: str) -> None:
    regularizer = changed(name, lambda_c=torch.tensor([0.5, 20.0]), delay_steps=100, ramp_steps=50)
    for step, share in [(0, 0.0), (99, 0.0), (100, 0.0), (125, 0.5), (150, 1.0), (10**7, 1.0)]:
        torch.testing.assert_close(regularizer.coefficient(step, deployed=True), torch.tensor([0.5, 20.0]) * share)
    at_once = changed(name, lambda_c=torch.tensor([0.5]), delay_steps=0, ramp_steps=0)
    assert at_once.coefficient(0, deployed=True).tolist() == [0.5]


@pytest.mark.parametrize("name", PENALIZED)
@pytest.mark.parametrize(("scope", "critic"), [("policy", False), ("all", True)])
def test_scope_says_whose_weights_are_regularised(name: str, scope: str, critic: bool) -> None:
    regularizer = changed(name, scope=scope)
    assert regularizer.covers("encoder", deployed=True)
    assert regularizer.covers("critic", deployed=False) == critic


def test_without_a_regulariser_every_hook_is_the_identity() -> None:
    regularizer, layers = make_regularizer("regularizer=none").bind(STRUCTURE), layers_of(1)
    assert not regularizer.covers("policy", deployed=True)
    assert not regularizer.covers("critic", deployed=False)
    assert init(regularizer, layers) == {}
    assert running(regularizer, layers, {}, {}) is layers
    assert not regularizer.gates_active(STEP)
    assert regularizer.harden(layers, {}) is layers
    assert regularizer.project(layers, {}, 0, PULL)[0] is layers
    assert regularizer.coefficient(STEP, deployed=True) == 0
    assert regularizer.penalty(layers, {}).tolist() == [0.0]


# ---------------------------------------------------------------- l1 and l2

# five weights: member 0 has 1, -2, 3, 0, -4, member 1 a tenth of them; the biases are larger, and count for nothing
BY_HAND = {
    "0.weight": torch.tensor([[[1.0, -2.0]], [[0.1, -0.2]]]),
    "0.bias": torch.tensor([[[10.0, -20.0]], [[10.0, 20.0]]]),
    "1.weight": torch.tensor([[[3.0], [0.0], [-4.0]], [[0.3], [0.0], [-0.4]]]),
}


@pytest.mark.parametrize(
    ("name", "reduction", "expected"),
    [
        # |1| + |-2| + |3| + |0| + |-4| = 10, a fifth of it on the average
        ("l1", "sum", [10.0, 1.0]),
        ("l1", "mean", [2.0, 0.2]),
        # 1 + 4 + 9 + 0 + 16 = 30
        ("l2", "sum", [30.0, 0.3]),
        ("l2", "mean", [6.0, 0.06]),
    ],
)
def test_l1_and_l2_by_hand(name: str, reduction: str, expected: list[float]) -> None:
    penalty = changed(name, reduction=reduction).penalty(BY_HAND, {})
    torch.testing.assert_close(penalty, torch.tensor(expected))


@pytest.mark.parametrize(
    ("name", "slope"),
    [("l1", lambda weight: weight.sign() / 5), ("l2", lambda weight: 2 * weight / 5)],
)
def test_l1_pulls_every_weight_alike_and_l2_in_proportion(name: str, slope: Callable[[Tensor], Tensor]) -> None:
    layers = {key: tensor.clone().requires_grad_() for key, tensor in BY_HAND.items()}
    penalty = changed(name, reduction="mean").penalty(layers, {}).sum()
    weights = [layers["0.weight"], layers["1.weight"]]
    for weight, gradient in zip(weights, torch.autograd.grad(penalty, weights), strict=True):
        torch.testing.assert_close(gradient, slope(weight.detach()))


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_hardening_sets_weights_below_the_threshold_to_exactly_zero(name: str) -> None:
    weight = torch.tensor([[[0.5, -0.5, 0.4999, -0.4999, 0.0, 2.0]]])
    layers = {"0.weight": weight, "0.bias": torch.tensor([[[0.1, -0.1, 0.2, 0.0, 0.0, 0.0]]])}
    hardened = changed(name, zero_threshold=0.5).harden(layers, {})
    assert hardened["0.weight"].flatten().tolist() == [0.5, -0.5, 0.0, 0.0, 0.0, 2.0]
    assert hardened["0.bias"] is layers["0.bias"]
    assert torch.equal(changed(name, zero_threshold=0.0).harden(layers, {})["0.weight"], weight)


def test_critics_have_a_coefficient_of_their_own_or_the_policys() -> None:
    """The second member's is null. Penalties of one and the same network differ by just that."""
    own = "algorithm=sac", "environment=pendulum", "regularizer=l1", "regularizer.scope=all", "regularizer.lambda_c=2"
    configs = [compose(*own, f"regularizer.lambda_c_critic={value}") for value in ("0.5", "null")]
    _, parts = build(configs)
    (population,) = parts.populations
    regularizer = population.regularizer
    assert torch.as_tensor(regularizer.coefficient(STEP, deployed=True)).tolist() == [2.0, 2.0]
    assert torch.as_tensor(regularizer.coefficient(STEP, deployed=False)).tolist() == [0.5, 2.0]
    learner = Learner(population.algorithm.bind(parts.environment.spec()), regularizer, population.members)
    assert learner.covered == ("policy", "critic_1", "critic_2")
    plain = {c: regularizer.penalty(learner.weights[c], {}) for c in learner.covered}
    row = learner.update(random_batches(1, 2, 16, "sac")[0], env_step=STEP)
    for component, expected in (("policy", [2.0, 2.0]), ("critic_1", [0.5, 2.0]), ("critic_2", [0.5, 2.0])):
        torch.testing.assert_close(row[f"penalty/{component}"], torch.tensor(expected) * plain[component])


# ---------------------------------------------------------------- l1 with proximal steps


def test_the_proximal_step_by_hand() -> None:
    """By 0.5 in the first member and by 0.05 in the second, under mean a fifth of it: five weights. Biases stay."""
    pull = torch.tensor([0.5, 0.05])
    by_sum, _ = changed("l1", proximal=True, reduction="sum").project(BY_HAND, {}, 0, pull)
    torch.testing.assert_close(by_sum["0.weight"], torch.tensor([[[0.5, -1.5]], [[0.05, -0.15]]]))
    torch.testing.assert_close(by_sum["1.weight"], torch.tensor([[[2.5], [0.0], [-3.5]], [[0.25], [0.0], [-0.35]]]))
    by_mean, _ = changed("l1", proximal=True, reduction="mean").project(BY_HAND, {}, 0, 5 * pull)
    assert equal(by_mean, by_sum)
    assert by_sum["0.bias"] is BY_HAND["0.bias"]
    assert changed("l1").project(BY_HAND, {}, 0, pull)[0] is BY_HAND


def test_what_is_within_reach_of_zero_becomes_exactly_zero() -> None:
    layers = {"0.weight": torch.tensor([[[0.3, -0.3, 0.2, -0.2, 0.3000001, 0.0]]])}
    shrunk, _ = changed("l1", proximal=True, reduction="sum").project(layers, {}, 0, torch.tensor([0.3]))
    assert (shrunk["0.weight"] == 0).flatten().tolist() == [True, True, True, True, False, True]


def test_proximal_steps_find_the_lasso_solution_of_a_quadratic() -> None:
    """Of (w - a)^2 / 2 + lambda |w|: a moved by lambda towards zero, and exactly zero where |a| <= lambda.

    By plain gradient steps the distance becomes 0.9 of itself at each, so 3e-5 of itself in 100.
    """
    a, rate, lambda_c = torch.tensor([[[2.0, -1.5, 0.4, -0.5, 0.6, 0.0]]]), 0.1, torch.tensor([0.5])
    solution = torch.tensor([[[1.5, -1.0, 0.0, 0.0, 0.1, 0.0]]])
    regularizer, layers = changed("l1", proximal=True, reduction="sum"), {"0.weight": torch.ones_like(a)}
    for _ in range(100):
        stepped = {"0.weight": layers["0.weight"] - rate * (layers["0.weight"] - a)}
        layers, _ = regularizer.project(stepped, {}, 0, rate * lambda_c)
    torch.testing.assert_close(layers["0.weight"], solution, atol=1e-4, rtol=0)
    assert ((layers["0.weight"] == 0) == (solution == 0)).all()
    # the negative control: a subgradient in the place of the proximal step leaves no exact zero but where it began
    weight = torch.ones_like(a)
    for _ in range(100):
        weight = weight - rate * (weight - a + lambda_c * weight.sign())
    assert (weight[solution == 0] != 0).any()


def test_the_proximal_penalty_is_reported_and_has_no_gradient() -> None:
    layers = {key: tensor.clone().requires_grad_() for key, tensor in BY_HAND.items()}
    plain, proximal = (changed("l1", proximal=value).penalty(layers, {}) for value in (False, True))
    assert torch.equal(plain, proximal)
    assert plain.requires_grad
    assert not proximal.requires_grad


def test_a_learner_takes_proximal_steps_of_each_members_own_coefficient() -> None:
    """As if the same learner without a penalty had taken its step of Adam, and soft-thresholding came after it.

    Of the member that was stopped nothing moves.
    """
    rate = "algorithm.learning_rate=0.01"
    config = compose("regularizer=l1", "regularizer.proximal=true", "regularizer.reduction=sum", rate)
    configs = [config | {"regularizer": config["regularizer"] | {"lambda_c": value}} for value in (0.0, 1.0, 5.0)]
    _, parts = build(configs)
    (population,) = parts.populations
    learner = Learner(population.algorithm.bind(parts.environment.spec()), population.regularizer, population.members)
    (none,) = build([compose("regularizer=none", rate)] * 3)[1].populations
    plain = Learner(learner.algorithm, none.regularizer, none.members)
    batch = random_batches(1, 3, 16)[0]
    batch["reward"][2] = torch.nan
    fresh = {name: tensor.clone() for name, tensor in learner.weights["policy"].items()}
    learner.update(batch, env_step=10)
    plain.update(batch, env_step=10)
    for name, tensor in learner.weights["policy"].items():
        expected = plain.weights["policy"][name].clone()
        if is_weight(name):
            expected[1] = torch.nn.functional.softshrink(expected[1], 0.01)
            assert (tensor[1] == 0).any()
        expected[2] = fresh[name][2]
        torch.testing.assert_close(tensor, expected)
        assert torch.equal(tensor[0], expected[0])
        assert torch.equal(tensor[2], expected[2])
