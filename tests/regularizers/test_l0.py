"""Hard-concrete gates, against closed forms, against Monte Carlo, and against autograd."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from parts import make_learner, make_regularizer, random_batches
from torch import Tensor

from sparserl.population.members import Population
from sparserl.population.random import Generators
from sparserl.regularizers.hard_concrete import GAMMA, MULTIPLIER, ZETA, hard_sigmoid, log_alphas, random_gate, sigmoid
from sparserl.regularizers.l0 import L0
from sparserl.schedules import Linear
from sparserl.training.learner import Learner
from sparserl.types import Gates, Layers, Noise

LOUIZOS = 2 / 3
"""The temperature of the paper that the gates are from (Louizos, Welling, Kingma 2018)."""

TABLE = [
    # log_alpha, P(z != 0), P(z = 1), E[z], sd[z], z_hat; worked out from the equations, beta = 2/3
    (-4.605, 0.047, 0.002, 0.013, 0.087, 0.0),
    (-2.398, 0.310, 0.018, 0.103, 0.233, 0.0),
    (0.0, 0.832, 0.168, 0.500, 0.385, 0.5),
    (2.197, 0.978, 0.645, 0.878, 0.251, 0.98),
    (4.605, 0.998, 0.953, 0.987, 0.087, 1.0),
]
ROUNDED = 0.0005
"""The table has three decimals."""

STEP = 10
"""Environment steps at which the gates of ``l0()`` move."""

DRAWS = 200_000
"""Of each random gate."""

ERRORS = 4.5
"""Standard errors that a Monte Carlo estimate may be off: exceeded by chance once in 150,000 estimates."""


def l0(beta: Sequence[float] = (LOUIZOS,), **changes: Any) -> L0:
    """Gates as conf/regularizer/l0.yaml describes them, but for what the tests below are about."""
    plain = {"lambda_c": torch.ones(len(beta)), "beta": torch.tensor(beta), "delay_steps": 0, "ramp_steps": 0}
    regularizer = make_regularizer("regularizer=l0")
    assert isinstance(regularizer, L0)
    bound = dataclasses.replace(regularizer, **plain, **changes).bind({})
    assert isinstance(bound, L0)
    return bound


def generators(seeds: Sequence[int], stream: str = "gates") -> Generators:
    return Population(tuple(seeds)).generators(stream)


def layers_of(members: int, seed: int = 0) -> Layers:
    """Two layers, of sizes that fill no vector register evenly, with biases."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"0.weight": (3, 7), "0.bias": (1, 7), "1.weight": (7, 5), "1.bias": (1, 5)}
    return {name: torch.randn(members, *shape, generator=draw) for name, shape in shapes.items()}


def gates_like(layers: Layers, seed: int = 1) -> Gates:
    """log_alpha from closed over undecided to open."""
    draw = torch.Generator().manual_seed(seed)
    return given({n: 3 * torch.randn(t.shape, generator=draw) for n, t in layers.items() if n.endswith("weight")})


def given(log_alphas: dict[str, Tensor]) -> Gates:
    """Gates with these log_alpha, and a multiplier of the penalty that changes nothing."""
    return log_alphas | {MULTIPLIER: torch.ones(len(next(iter(log_alphas.values()))), 2)}


def running(regularizer: L0, layers: Layers, gates: Gates, noise: Noise) -> Layers:
    """What runs under active gates."""
    return regularizer.apply(layers, regularizer.multipliers(regularizer.sample(gates, noise), gates, layers))


def hardened(regularizer: L0, layers: Layers, gates: Gates) -> Layers:
    return regularizer.harden(layers, regularizer.multipliers(regularizer.gate_values(gates), gates, layers))


def draw_z(log_alpha: float, beta: float = LOUIZOS) -> Tensor:
    """Gates drawn by ``sample``."""
    regularizer, gates = l0((beta,)), {"0.weight": torch.full((1, DRAWS, 1), log_alpha)}
    noise = regularizer.noise(gates, generators([0]), STEP)
    return regularizer.sample(gates, noise)["0.weight"].flatten().double()


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(("log_alpha", "p_open", "p_one", "mean", "deviation", "z_hat"), TABLE)
def test_sampled_gates_have_the_distribution_of_the_table(
    log_alpha: float, p_open: float, p_one: float, mean: float, deviation: float, z_hat: float
) -> None:
    z = draw_z(log_alpha)
    assert z.min() >= 0
    assert z.max() <= 1
    for share, expected in (((z != 0).double().mean(), p_open), ((z == 1).double().mean(), p_one)):
        assert abs(share - expected) < ROUNDED + ERRORS * math.sqrt(expected * (1 - expected) / DRAWS)
    spread = z.std()
    assert abs(z.mean() - mean) < ROUNDED + ERRORS * spread / math.sqrt(DRAWS)
    # the variance's standard error is sqrt((fourth moment - variance^2) / n), that of its root half of it over the root
    error = ((z - z.mean()).pow(4).mean() - spread**4).sqrt() / math.sqrt(DRAWS) / (2 * spread)
    assert abs(spread - deviation) < ROUNDED + ERRORS * error


@pytest.mark.parametrize(("log_alpha", "p_open", "p_one", "mean", "deviation", "z_hat"), TABLE)
def test_closed_forms_are_those_of_the_table(
    log_alpha: float, p_open: float, p_one: float, mean: float, deviation: float, z_hat: float
) -> None:
    gates = given({"0.weight": torch.full((1, 1, 1), log_alpha)})
    assert float(l0().open_probability(gates)["0.weight"]) == pytest.approx(p_open, abs=ROUNDED)
    assert float(l0().penalty({"0.weight": torch.ones(1, 1, 1)}, gates)) == pytest.approx(p_open, abs=ROUNDED)
    assert float(l0(deterministic_gate="sigmoid").gate_values(gates)["0.weight"]) == pytest.approx(z_hat, abs=ROUNDED)


@pytest.mark.parametrize("beta", [1 / 3, LOUIZOS, 1.0])
@pytest.mark.parametrize("log_alpha", [-1.5, 0.7])
def test_sampled_gates_have_their_distribution_function(log_alpha: float, beta: float) -> None:
    """P(z <= t) = sigmoid(beta logit((t - gamma) / (zeta - gamma)) - log_alpha) for t from 0 to below 1."""
    z = draw_z(log_alpha, beta)
    for t in (0.0, 0.1, 0.5, 0.9, 0.999):
        s = (t + 0.1) / 1.2
        expected = 1 / (1 + math.exp(log_alpha - beta * math.log(s / (1 - s))))
        assert abs((z <= t).double().mean() - expected) < ERRORS * math.sqrt(expected * (1 - expected) / DRAWS)


def test_a_larger_beta_leaves_more_gates_open() -> None:
    """At log_alpha = 0; and each member has its own beta."""
    regularizer, gates = l0((1 / 3, 2 / 3, 1.0)), {"0.weight": torch.zeros(3, 2, 4)}
    p_open = regularizer.open_probability(gates)["0.weight"]
    for member, expected in enumerate((0.690, 0.832, 0.917)):
        torch.testing.assert_close(p_open[member], torch.full((2, 4), expected), rtol=0, atol=ROUNDED)


# ---------------------------------------------------------------- what is sampled


def test_what_runs_is_the_gate_times_the_weight() -> None:
    """By hand: with beta 1/2 and noise 1, s = sigmoid((1 + log_alpha) / (1/2)), z = 1.2 s - 0.1 cut to [0, 1]."""
    # log_alpha -1: s = 1/2, z = 0.5; -3: s = sigmoid(-4) = 0.018, z < 0; 1: s = sigmoid(4) = 0.982, z > 1
    gates = given({"0.weight": torch.tensor([[[-1.0, -3.0, 1.0]]])})
    layers = {"0.weight": torch.full((1, 1, 3), 4.0), "0.bias": torch.full((1, 1, 3), 9.0)}
    ran = running(l0((0.5,)), layers, gates, {"0.weight": torch.ones(1, 1, 3)})
    torch.testing.assert_close(ran["0.weight"], torch.tensor([[[2.0, 0.0, 4.0]]]))
    assert ran["0.bias"] is layers["0.bias"]


def test_the_same_generators_and_noise_give_the_same_gates_again() -> None:
    regularizer, layers = l0((LOUIZOS,) * 2), layers_of(2)
    gates, draws = gates_like(layers), generators([3, 4])
    state = draws.state_dict()
    first = regularizer.noise(gates, draws, STEP)
    second = regularizer.noise(gates, draws, STEP)
    draws.load_state_dict(state)
    again = regularizer.noise(gates, draws, STEP)
    for name in log_alphas(gates):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], second[name])
        assert torch.equal(regularizer.sample(gates, first)[name], regularizer.sample(gates, again)[name])


def test_a_members_gates_do_not_depend_on_the_others() -> None:
    layers, betas = layers_of(3), (0.4, 0.9, 0.6)
    gates = gates_like(layers)
    together, alone = l0(betas), l0(betas[1:2])
    own = {name: tensor[1:2] for name, tensor in gates.items()}
    noise, own_noise = together.noise(gates, generators([5, 6, 7]), STEP), alone.noise(own, generators([6]), STEP)
    own_layers = {name: tensor[1:2] for name, tensor in layers.items()}
    for hook, own_hook in [
        (noise, own_noise),
        (running(together, layers, gates, noise), running(alone, own_layers, own, own_noise)),
        (hardened(together, layers, gates), hardened(alone, own_layers, own)),
        (together.open_probability(gates), alone.open_probability(own)),
    ]:
        for name, value in own_hook.items():
            assert torch.equal(hook[name][1:2], value)
    assert torch.equal(together.penalty(layers, gates)[1:2], alone.penalty(own_layers, own))
    # and members with other seeds have other noise, also where everything else is equal
    assert not torch.equal(noise["0.weight"][0], noise["0.weight"][1])


def test_every_gate_has_noise_of_its_own() -> None:
    gates = gates_like(layers_of(2))
    noise = l0((LOUIZOS,) * 2).noise(gates, generators([0, 1]), STEP)
    assert {name: value.shape for name, value in noise.items()} == {name: its.shape for name, its in log_alphas(gates).items()}
    numbers = torch.cat([value.flatten() for value in noise.values()])
    # 112 numbers of 24 bits: the chance of a tie is below 112^2 / 2^25 = 4e-4, and the seeds are fixed
    assert numbers.unique().numel() == numbers.numel() == 2 * (3 * 7 + 7 * 5)


class Ends(Generators):
    """Draws the smallest and the largest number that a generator can give, in turn."""

    def uniform(self, *shape: int) -> Tensor:
        numbers = torch.zeros(len(self), *shape)
        numbers[..., 1::2] = 1 - 2**-24
        return numbers


def test_noise_is_finite_for_the_ends_of_the_uniform_numbers() -> None:
    gates = given({"0.weight": torch.zeros(1, 2, 3)})
    noise = l0().noise(gates, Ends((0,), "gates", torch.device("cpu")), STEP)["0.weight"].flatten()
    assert noise.isfinite().all()
    # far enough out to open or close the most stubborn gate of either limit, log_alpha = +-5
    assert (noise[0::2] < -10).all()
    assert (noise[1::2] > 10).all()


# ---------------------------------------------------------------- gradients


def plain(weight: Tensor, log_alpha: Tensor, noise: Tensor, beta: Tensor) -> Tensor:
    """Equations 10 and 11 as they stand, for autograd."""
    s = torch.sigmoid((noise + log_alpha) / beta)
    return weight * torch.clamp(s * 1.2 - 0.1, 0, 1)


def random_gates(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    weight, log_alpha, noise = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(3))
    beta = torch.linspace(0.3, 1.0, shape[0], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
    return weight.requires_grad_(), log_alpha.mul_(2).requires_grad_(), noise.mul_(2), beta


def test_gates_and_their_gradients_are_those_of_the_equations() -> None:
    weight, log_alpha, noise, beta = random_gates((3, 40, 50))
    upstream = torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, theirs = weight * random_gate(log_alpha, noise, beta), plain(weight, log_alpha, noise, beta)
    torch.testing.assert_close(ours, theirs)
    z = (theirs / weight).detach()
    # all three pieces of the gate are there: shut, between, fully open
    assert min((z == 0).sum(), (z == 1).sum(), ((z > 0) & (z < 1)).sum()) > 500
    expected = torch.autograd.grad(theirs, (weight, log_alpha), upstream)
    for mine, its in zip(torch.autograd.grad(ours, (weight, log_alpha), upstream), expected, strict=True):
        torch.testing.assert_close(mine, its)


def test_gates_and_weights_learn_through_sample_and_penalty() -> None:
    """The penalty's gradient is p (1 - p) over the number of gates: p is a sigmoid of log_alpha."""
    layers, regularizer = layers_of(2), l0((0.5, 1.0))
    gates = gates_like(layers)
    learned = [gate.requires_grad_() for gate in log_alphas(gates).values()]
    gradients = torch.autograd.grad(regularizer.penalty(layers, gates).sum(), learned)
    for gradient, p in zip(gradients, regularizer.open_probability(gates).values(), strict=True):
        torch.testing.assert_close(gradient, p * (1 - p) / (3 * 7 + 7 * 5))

    weights = {name: layer.requires_grad_() for name, layer in layers.items()}
    ran = running(regularizer, weights, gates, regularizer.noise(gates, generators([0, 1]), STEP))
    total = sum((layer.sum() for layer in ran.values()), torch.zeros(()))
    for gradient in torch.autograd.grad(total, [*weights.values(), *learned]):
        assert (gradient != 0).any()


# ---------------------------------------------------------------- penalty


@pytest.mark.parametrize(("reduction", "number"), [("mean", 3 * 7 + 7 * 5), ("sum", 1)])
def test_the_penalty_is_the_mean_or_the_sum_over_all_gates(reduction: str, number: int) -> None:
    """One mean over all gates, not a mean of the layers' means: a gate costs the same wherever it is."""
    layers, regularizer = layers_of(2), l0((0.5, 1.0), reduction=reduction)
    gates = gates_like(layers)
    p_open = regularizer.open_probability(gates)
    expected = (p_open["0.weight"].sum(dim=(1, 2)) + p_open["1.weight"].sum(dim=(1, 2))) / number
    torch.testing.assert_close(regularizer.penalty(layers, gates), expected)


# ---------------------------------------------------------------- without noise


def test_hardened_gates_are_exactly_closed_and_open_beyond_the_bounds() -> None:
    """z_hat = 0 where sigmoid(log_alpha) <= 1/12, that is log_alpha <= -log 11 = -2.398; 1 from log 11 on."""
    log_alpha = torch.tensor([-5.0, -2.41, -2.39, 0.0, 2.39, 2.41, 5.0]).view(1, 1, -1)
    layers = {"0.weight": torch.full((1, 1, 7), 3.0), "0.bias": torch.full((1, 1, 7), 9.0)}
    regularizer = l0(deterministic_gate="sigmoid")
    without_noise = hardened(regularizer, layers, {"0.weight": log_alpha})
    weight = without_noise["0.weight"].flatten().tolist()
    assert weight[:2] == [0.0, 0.0]
    assert weight[5:] == [3.0, 3.0]
    assert weight[3] == pytest.approx(1.5)
    assert 0 < weight[2] < 0.01 < 2.99 < weight[4] < 3
    assert without_noise["0.bias"] is layers["0.bias"]


def test_the_mean_gate_has_no_temperature_and_the_median_gate_has() -> None:
    gates = given({"0.weight": torch.full((3, 1, 2), 0.7)})
    betas = (0.25, 2 / 3, 2.0)
    mean, median = (
        l0(betas, deterministic_gate=kind).gate_values(gates)["0.weight"][:, 0, 0] for kind in ("sigmoid", "median")
    )
    # 1.2 sigmoid(0.7) - 0.1 = 0.70182 for every beta; 1.2 sigmoid(0.7 / beta) - 0.1 for the median
    torch.testing.assert_close(mean, torch.full((3,), 0.70182), rtol=0, atol=1e-5)
    torch.testing.assert_close(median, torch.tensor([1.0, 0.78893, 0.60394]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("beta", [1 / 3, LOUIZOS, 1.0])
@pytest.mark.parametrize("log_alpha", [-0.3, 0.2, 0.7])
def test_the_median_gate_is_the_median_of_the_sampled_gates(log_alpha: float, beta: float) -> None:
    gates = given({"0.weight": torch.full((1, 1, 1), log_alpha)})
    median = float(l0((beta,), deterministic_gate="median").gate_values(gates)["0.weight"])
    # half of them below, with a standard error of 1/2 over the root of their number
    assert abs((draw_z(log_alpha, beta) < median).double().mean() - 0.5) < ERRORS * 0.5 / math.sqrt(DRAWS)


# ---------------------------------------------------------------- the rest of the contract


@pytest.mark.parametrize(("initial_open", "log_alpha"), [(0.5, 0.0), (0.9, 2.197), (0.99, 4.595), (0.1, -2.197)])
def test_gates_start_with_the_opening_that_is_asked_for(initial_open: float, log_alpha: float) -> None:
    layers = layers_of(2)
    gates = l0((LOUIZOS,) * 2, initial_open=initial_open).init(layers, generators((0, 1)))
    assert log_alphas(gates).keys() == {"0.weight", "1.weight"}
    for name, gate in log_alphas(gates).items():
        torch.testing.assert_close(gate, torch.full_like(layers[name], log_alpha), rtol=0, atol=1e-3)


def test_log_alpha_is_kept_within_its_limit_and_weights_are_left() -> None:
    layers, gates = layers_of(1), {"0.weight": torch.tensor([[[-9.0, -3.0, 0.0, 2.9, 3.1]]])}
    kept, projected = l0(log_alpha_limit=3.0).project(layers, gates, step=0, pull=0.0)
    assert projected["0.weight"].flatten().tolist() == pytest.approx([-3.0, -3.0, 0.0, 2.9, 3.0])
    assert all(kept[name] is layers[name] for name in layers)


def test_a_gate_at_its_limit_can_still_be_closed_and_opened() -> None:
    """There the hardened gate is exactly shut or open, and the penalty still has a slope."""
    limit = make_regularizer("regularizer=l0").log_alpha_limit
    gates = given({"0.weight": torch.tensor([[[-limit, limit]]], requires_grad=True)})
    assert l0().gate_values(gates)["0.weight"].flatten().tolist() == [0.0, 1.0]
    penalty = l0().penalty({"0.weight": torch.ones(1, 1, 2)}, gates)
    (slope,) = torch.autograd.grad(penalty.sum(), gates["0.weight"])
    assert (slope > 0).all()


def test_the_gates_learning_rate_follows_its_schedule() -> None:
    regularizer = l0(gate_learning_rate=Linear(0.01, 0.0, steps=100))
    assert [regularizer.gate_rate(step) for step in (0, 50, 100)] == pytest.approx([0.01, 0.005, 0.0])


def test_sigmoid_is_torchs_and_the_same_in_every_place_of_a_vector() -> None:
    x = 20 * torch.randn(1003, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sigmoid(x), torch.sigmoid(x))
    one_by_one = torch.cat([sigmoid(x[i : i + 1]) for i in range(len(x))])
    assert torch.equal(sigmoid(x), one_by_one)
    assert sigmoid(torch.tensor([-200.0, 200.0])).tolist() == [0.0, 1.0]


def test_the_stretched_interval_is_the_papers() -> None:
    assert (GAMMA, ZETA) == (-0.1, 1.1)
    assert hard_sigmoid(torch.zeros(1)).item() == pytest.approx(0.5)


def test_gates_are_active_from_the_delay_to_the_freeze() -> None:
    """Before and after: no noise, no learning rate."""
    regularizer = dataclasses.replace(l0(), delay_steps=100, freeze_at_step=200)
    layers = layers_of(1)
    gates = {name: 3 * gate for name, gate in gates_like(layers).items()}  # some are beyond the limit
    for step, active in ((99, False), (100, True), (199, True), (200, False)):
        assert regularizer.gates_active(step) is active
        assert bool(regularizer.noise(gates, generators([0]), step)) is active
        assert (regularizer.gate_rate(step) > 0) is active


class AlwaysActive(L0):
    """Gates that move when those of L0 do, but say that they always are active: what is made of them is made at each step."""

    def gates_active(self, step: int) -> bool:
        return True

    def noise(self, gates: Gates, generators: Generators, step: int) -> Noise:
        return super().noise(gates, generators, step) if L0.gates_active(self, step) else {}

    def sample(self, gates: Gates, noise: Noise) -> dict[str, Tensor]:
        return super().sample(gates, noise) if noise else self.gate_values(gates)

    def gate_rate(self, step: int) -> float:
        return self.gate_learning_rate(step) if L0.gates_active(self, step) else 0.0


@pytest.mark.parametrize("initial_open", [0.99, 0.7], ids=["all open", "half closed"])
def test_what_is_kept_of_fixed_gates_is_what_would_be_made_of_them_each_time(initial_open: float) -> None:
    """Losses, to the bit, before the delay and after the freeze; also where some gates are between 0 and 1 then.

    Gates that are fixed are not stepped, those of the other are with a rate of 0, so moments differ while gates move; the two
    are compared before they do and, given the same gates, after it.
    """
    overrides = "regularizer=l0", "regularizer.delay_steps=4", "regularizer.ramp_steps=2", "regularizer.freeze_at_step=8"
    keeps = make_learner(*overrides, f"regularizer.initial_open={initial_open}", "regularizer.lambda_c=10", members=3)
    fields = (field.name for field in dataclasses.fields(keeps.regularizer) if field.init)
    settings = {name: getattr(keeps.regularizer, name) for name in fields}
    makes = Learner(keeps.algorithm, AlwaysActive(**settings), Population((0, 1, 2)))
    for step, batch in enumerate(random_batches(12, members=3, size=16)):
        if step == 8:
            makes.load_state_dict(keeps.state_dict())
        before = keeps.gates["policy"]["1.weight"].clone()
        rows = [learner.update(batch, step) for learner in (keeps, makes)]
        active = 4 <= step < 8
        assert torch.equal(keeps.gates["policy"]["1.weight"], before) is not active
        assert ("gradient/gates/policy" in rows[0]) is active
        if not active:
            for name, value in rows[0].items():
                assert torch.equal(value, rows[1][name]), (step, name)
            for mine, its in ((keeps.weights, makes.weights), (keeps.deterministic(), makes.deterministic())):
                for component, tensors in mine.items():
                    assert all(torch.equal(tensor, its[component][name]) for name, tensor in tensors.items()), (step, component)
    moved = (keeps.gates["policy"]["1.weight"] - keeps.initial_gates["policy"]["1.weight"]).abs()
    assert moved.max() > 0.1


@pytest.mark.parametrize("delay", [0, 5])
def test_the_first_step_of_gates_is_that_of_a_fresh_adam_whenever_it_comes(delay: int) -> None:
    """While gates are not active Adam does not count: with a gradient of one sign its first step is its learning rate.

    It failed before: five steps of a zero gradient made the first real one smaller by half.
    """
    rate, pull = 0.02, "regularizer.lambda_c=1e6"  # a penalty beside which nothing else counts
    settings = f"regularizer.delay_steps={delay}", "regularizer.ramp_steps=0", f"regularizer.gate_learning_rate={rate}"
    learner = make_learner("regularizer=l0", pull, *settings, members=2)
    batches = random_batches(delay + 2, members=2, size=16)
    for step, batch in enumerate(batches[:-1]):
        before = learner.gates["policy"]["0.weight"].clone()
        learner.update(batch, step)
        if step < delay:
            assert torch.equal(learner.gates["policy"]["0.weight"], before)
    torch.testing.assert_close(learner.gates["policy"]["0.weight"], before - rate, rtol=0, atol=1e-5)
    assert learner.state.gates["policy"].moments["step"] == 1
    assert learner.state.weights["policy"].moments["step"] == delay + 1


def test_a_freeze_before_the_delay_is_refused() -> None:
    with pytest.raises(ValueError, match="no gate ever moves"):
        dataclasses.replace(l0(), delay_steps=100, freeze_at_step=100)
