"""Sums of penalties: each term as if it were alone, on the weights that run, with a coefficient and a schedule of its own."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from parts import learner_of, make_learner, make_regularizer, random_batches
from torch import Tensor
from torch.nn.functional import softshrink

from sparserl.config.identity import populations
from sparserl.config.schema import Config, ConfigError
from sparserl.config.validation import compose
from sparserl.networks.base import Matrix
from sparserl.regularizers.l0 import L0
from sparserl.regularizers.sum import Sum
from sparserl.runs.reader import flat
from sparserl.sweeps.jobs import label
from sparserl.training.learner import Learner
from sparserl.training.metrics import observe
from sparserl.training.parameters import views
from sparserl.training.warnings import WarningDetector, stayed_dense

SMALL = "network.hidden=[13,7]"
STEPS = 0, 100, 250, 300, 550, 600, 900
"""Environment steps of updates: before, while and after the gates of MOVING are active."""

MOVING = {"delay_steps": 100, "ramp_steps": 100, "freeze_at_step": 600}


def moving(path: str) -> list[str]:
    """Gates of L0 that are active from 100 to 600 steps, by where the config has them."""
    return [f"{path}.{key}={value}" for key, value in MOVING.items()]


def trained(learner: Learner, first: int = 0) -> tuple[Learner, list[dict[str, Tensor]]]:
    """After an update at each of STEPS, on the batches of three members from the ``first`` on, with the metrics of each."""
    rows, members = [], slice(first, first + learner.size)
    for step, batch in zip(STEPS, random_batches(len(STEPS), 3, 16), strict=True):
        rows.append(learner.update({name: its[members] for name, its in batch.items()}, env_step=step))
    return learner, rows


def numbers(learner: Learner, member: int = 0) -> list[Tensor]:
    groups = (*learner.weights.values(), *learner.gates.values(), *learner.deterministic().values())
    return [tensor[member].clone() for layers in groups for tensor in layers.values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(mine, its) for mine, its in zip(one, other, strict=True))


# ---------------------------------------------------------------- a term in a sum is what it is alone


@pytest.mark.parametrize(("alone", "left_out"), [("l0", "l1"), ("l1", "l0"), ("l2", "l0"), ("group_lasso", "l0")])
def test_a_sum_of_one_term_is_that_term(alone: str, left_out: str) -> None:
    """Bit for bit: weights, gates, hardened weights and metrics."""
    name = "l0_l1" if alone == "l0" else f"l0_{alone}"
    on = moving("regularizer.terms.l0") if alone == "l0" else []
    one_term = f"regularizer={name}", f"regularizer.terms.{left_out}=null", f"regularizer.terms.{alone}.lambda_c=3"
    of_sum, rows = trained(make_learner(*one_term, SMALL, *on))
    by_itself, expected = trained(
        make_learner(f"regularizer={alone}", SMALL, *(moving("regularizer") if on else []), "regularizer.lambda_c=3"),
    )
    assert list(of_sum.regularizer.summands()) == [alone]
    assert same(numbers(of_sum), numbers(by_itself))
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours.keys() - theirs.keys() == {f"penalty/policy/{alone}", f"coefficient/policy/{alone}"}
        assert all(torch.equal(ours[key], its) for key, its in theirs.items())
    assert any(row["penalty/policy"] > 0 for row in expected), "or this test sees nothing"


@pytest.mark.parametrize("other", ["l1", "l2", "group_lasso"])
def test_a_term_with_coefficient_0_changes_nothing(other: str) -> None:
    """But for its threshold in the hardened weights, which is none here."""
    on = *moving("regularizer.terms.l0"), f"regularizer.terms.{other}.zero_threshold=0", SMALL
    alone = make_learner("regularizer=l0", *moving("regularizer"), SMALL)
    sums = [make_learner(f"regularizer=l0_{other}", *on, f"regularizer.terms.{other}.lambda_c={value}") for value in (0, 1)]
    without, nothing, some = (numbers(trained(learner)[0]) for learner in (alone, *sums))
    assert same(without, nothing)
    assert not same(without, some), "or this test sees nothing"


# ---------------------------------------------------------------- penalties, by hand


def test_each_term_is_logged_with_its_coefficient_on_a_schedule_of_its_own() -> None:
    """Under fixed, open gates, so that |w z| is |w|: the mean, times lambda_c, and the sum of both terms."""
    keys = (
        *("regularizer.terms.l0.delay_steps=100", "regularizer.terms.l0.ramp_steps=100", "regularizer.terms.l0.lambda_c=5"),
        *("regularizer.terms.l1.delay_steps=200", "regularizer.terms.l1.ramp_steps=200", "regularizer.terms.l1.lambda_c=2"),
        *("regularizer.terms.l1.reduction=sum", "regularizer.terms.l0.freeze_at_step=101"),
    )
    learner = make_learner("regularizer=l0_l1", SMALL, *keys)
    batches = random_batches(5, 1, 16)
    for step, batch, of_l0, of_l1 in zip((0, 150, 300, 400, 10**6), batches, (0, 2.5, 5, 5, 5), (0, 0, 1, 2, 2), strict=True):
        before = learner.deterministic()["policy"]
        l1 = sum(weight.abs().sum() for name, weight in before.items() if name.endswith("weight"))
        row = learner.update(batch, env_step=step)
        assert row["coefficient/policy/l0"].tolist() == [of_l0]
        assert row["coefficient/policy/l1"].tolist() == [of_l1]
        torch.testing.assert_close(row["penalty/policy/l1"], of_l1 * torch.as_tensor(l1).view(1), atol=of_l1 * 0.05, rtol=0.01)
        assert torch.equal(row["penalty/policy"], row["penalty/policy/l0"] + row["penalty/policy/l1"])
        torch.testing.assert_close(row["objective/policy"], row["loss/policy"] + row["penalty/policy"])


STRUCTURE = {"0.weight": Matrix("linear", ("1.weight",), activation="relu"), "1.weight": Matrix("linear")}


@pytest.mark.parametrize(
    ("term", "penalty", "gradient"),
    [
        # under the gates the weights are 2, 0 and -1: the mean of their sizes, and in w by the chain rule z * sign(w z) / 3
        ("l1", (2 + 0 + 1) / 3, [1 / 3, 0, -0.5 / 3]),
        # the mean of 4, 0 and 1, and 2 z * w z / 3
        ("l2", 5 / 3, [4 / 3, 0, 2 * 0.5 * -1 / 3]),
        # one unit, of (2, 0, -1), and z * w z / |w z| * sqrt(3) / 3
        ("group_lasso", math.sqrt(3) * math.sqrt(5) / 3, [2 * 3**0.5 / 3 / 5**0.5, 0, 0.5 * -1 * 3**0.5 / 3 / 5**0.5]),
    ],
)
def test_a_penalty_of_weights_is_of_the_weights_that_run(term: str, penalty: float, gradient: list[float]) -> None:
    """w = (2, 3, -2) under gates of 1, 0 and 1/2. A weight under a closed gate costs nothing and is not pulled."""
    regularizer = make_regularizer(f"regularizer=l0_{term}").bind(STRUCTURE if term == "group_lasso" else {})
    w, z = torch.tensor([[[2.0], [3.0], [-2.0]]], requires_grad=True), torch.tensor([[[1.0], [0.0], [0.5]]])
    layers = {"0.weight": w} | ({"1.weight": torch.zeros(1, 1, 1)} if term == "group_lasso" else {})
    found = regularizer.summands()[term].penalty(regularizer.apply(layers, {"0.weight": z}), {})
    torch.testing.assert_close(found, torch.tensor([penalty]))
    (pulled,) = torch.autograd.grad(found.sum(), w)
    torch.testing.assert_close(pulled.flatten(), torch.tensor(gradient))
    assert pulled[0, 1, 0] == 0


@pytest.mark.parametrize("step", [0, 10**6], ids=["before the delay is over", "when gates are frozen"])
def test_weights_are_penalised_while_gates_are_fixed(step: int) -> None:
    """The gates' own penalty is then a constant; that of the weights pulls those under open gates, and no others.

    The gradients of two learners that differ in its coefficient differ by just the coefficient times sign(w) / n.
    """
    learners = [make_learner("regularizer=l0_l1", SMALL, f"regularizer.terms.l1.lambda_c={value}") for value in (0.0, 6.0)]
    gradients = []
    for learner in learners:
        for gate in (its for name, its in learner.gates["policy"].items() if name.endswith("weight")):
            gate[:, ::2] = -7.0  # every second row is closed, the others are open
            gate[:, 1::2] = 7.0
        weights = {name: tensor.clone() for name, tensor in learner.weights["policy"].items()}
        learner.update(random_batches(1, 1, 16)[0], env_step=step)
        parameters = learner.state.weights["policy"]
        gradients.append({name: its.clone() for name, its in views(parameters.gradient, weights).items()})
    names = [name for name in weights if name.endswith("weight")]
    n = sum(weights[name].numel() for name in names)
    for name in names:
        pull = gradients[1][name] - gradients[0][name]
        assert (pull[:, ::2] == 0).all()
        torch.testing.assert_close(pull[:, 1::2], 6 / n * weights[name][:, 1::2].sign(), atol=1e-5, rtol=1e-3)


def test_the_penalty_under_random_gates_is_an_unbiased_sample() -> None:
    """Its mean over many samples is sum_i |w_i| E[z_i] / n, with E[z] of one gate by numerical integration over its noise."""
    regularizer = make_regularizer("regularizer=l0_l1").bind({})
    w, log_alpha, samples = torch.tensor([2.0, -3.0]), torch.tensor([0.5, -1.0]), 20_000
    u = (torch.arange(100_000) + 0.5) / 100_000
    noise = torch.logit(u)
    beta = 2 / 3
    mean = torch.stack([(torch.sigmoid((noise + a) / beta) * 1.2 - 0.1).clamp(0, 1).mean() for a in log_alpha])
    expected = (w.abs() * mean).sum() / 2
    # one matrix whose columns are the samples
    draw = torch.logit(torch.rand(1, 2, samples, generator=torch.Generator().manual_seed(0)), eps=1e-6)
    gates, layers = ({"0.weight": its.view(1, 2, 1).expand(1, 2, samples)} for its in (log_alpha, w))
    running = regularizer.apply(layers, regularizer.sample(gates, {"0.weight": draw}))
    (found,) = regularizer.summands()["l1"].penalty(running, {})
    # a mean of 20,000 numbers of a deviation below 1.5: its own is below 0.011
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    assert abs(expected - w.abs().mean()) > 0.5, "or raw weights would do"


# ---------------------------------------------------------------- members


def test_members_have_coefficients_of_their_own_and_equal_their_solo_runs() -> None:
    """Bit for bit, in one population."""
    base = compose("regularizer=l0_group_lasso", SMALL, *moving("regularizer.terms.l0"))
    configs = [changed(base, lambda_c=value) | {"seed": seed} for seed, value in enumerate((0.0, 1.0, 100.0))]
    assert len(populations(configs, lambda config: config)) == 1
    together, rows = trained(learner_of(configs))
    assert rows[-1]["coefficient/policy/group_lasso"].tolist() == [0.0, 1.0, 100.0]
    for member, config in enumerate(configs):
        alone, its_rows = trained(learner_of([config]), member)
        assert same(numbers(alone), numbers(together, member))
        for row, its in zip(rows, its_rows, strict=True):
            assert all(torch.equal(row[key][member : member + 1], value) for key, value in its.items())
    assert not same(numbers(together, 0), numbers(together, 1))


def changed(config: Config, term: str = "group_lasso", **values: Any) -> Config:
    terms = config["regularizer"]["terms"]
    return config | {"regularizer": config["regularizer"] | {"terms": terms | {term: terms[term] | values}}}


def test_what_is_not_per_member_makes_another_population_and_names_say_the_strengths() -> None:
    base = compose("regularizer=l0_group_lasso")
    later = changed(base, delay_steps=7)
    assert len(populations([base, later], lambda config: config)) == 2
    strong = changed(changed(base, lambda_c=0.25), "l0", lambda_c=3.0)
    assert label(strong) == "dqn-cartpole-l0_group_lasso-l0-lambda3-group_lasso-lambda0.25-seed0"
    assert dict(flat(strong))["regularizer.terms.group_lasso.lambda_c"] == 0.25


# ---------------------------------------------------------------- whose weights


def test_critics_have_coefficients_of_their_own_term_by_term() -> None:
    of_critics = "regularizer.scope=all", "regularizer.terms.l1.lambda_c=2", "regularizer.terms.l1.lambda_c_critic=0.5"
    learner = make_learner("algorithm=sac", "environment=pendulum", "regularizer=l0_l1", SMALL, *of_critics)
    assert learner.covered == ("policy", "critic_1", "critic_2")
    assert all(learner.gates[component] for component in learner.covered)
    row = learner.update(random_batches(1, 1, 16, "sac")[0], env_step=10**6)
    found = [row[f"coefficient/{component}/l1"].item() for component in learner.covered]
    assert found == [2.0, 0.5, 0.5]


def test_a_term_may_cover_less_than_another() -> None:
    """L1 on critics too, gates on the policy only."""
    scopes = "regularizer.scope=all", "regularizer.terms.l0.scope=policy"
    learner = make_learner("algorithm=sac", "environment=pendulum", "regularizer=l0_l1", SMALL, *scopes)
    assert {c: list(its.summands()) for c, its in learner.bound.items()} == {
        "policy": ["l0", "l1"],
        "critic_1": ["l1"],
        "critic_2": ["l1"],
    }
    assert [bool(learner.gates[c]) for c in learner.covered] == [True, False, False]
    for step, batch in enumerate(random_batches(2, 1, 16, "sac")):
        row = learner.update(batch, env_step=10**6 + step)
    assert "penalty/critic_1/l0" not in row
    assert row["penalty/critic_1/l1"] > 0


# ---------------------------------------------------------------- sums without gates


def test_proximal_steps_of_terms_follow_one_another() -> None:
    """L1, then the group lasso: the proximal operator of their sum (Simon et al. 2013, A Sparse-Group Lasso, equation 12).

    That is a condition on the solution x of |x - v|^2 / 2 + a |x|_1 + b |x|_2: v - x - b x / |x| is a sign(x) where x is not 0.
    """
    terms = {
        name: dataclasses.replace(make_regularizer(f"regularizer={name}"), proximal=True, reduction="sum")
        for name in ("l1", "group_lasso")
    }
    regularizer = made(terms).bind(STRUCTURE)
    v, a = torch.tensor([[[2.0, 0.3], [-1.5, 0.4], [0.1, -0.2]]]), 0.2
    layers, b = {"0.weight": v, "1.weight": torch.zeros(1, 2, 1)}, 0.2 * math.sqrt(3)
    for term in regularizer.summands().values():
        layers, _ = term.project(layers, {}, 0, a)
    x = layers["0.weight"]
    assert (x == 0).flatten().tolist() == [False, True, False, True, True, True]
    kept = x[0, :2, 0]
    torch.testing.assert_close((v[0, :2, 0] - kept - b * kept / kept.norm()), a * kept.sign())
    # all of the second unit is 0, since what L1 leaves of it is shorter than b
    assert softshrink(v[0, :, 1], a).norm() < b


def made(terms: dict[str, Any], **changes: Any) -> Sum:
    return Sum(**{"zero_threshold": 1e-3, "scope": "policy", "terms": terms} | changes)


def test_a_file_of_ones_own_names_any_terms(tmp_path: Path) -> None:
    """As docs/sparsity.md has it."""
    path = tmp_path / "regularizer" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(
        "defaults:\n  - shared/sum@_here_\n  - l1@terms.small\n  - group_lasso@terms.units\n  - _self_\n"
        "terms:\n  small:\n    lambda_c: 0.5\n    proximal: true\n  units:\n    lambda_c: 0.25\n    delay_steps: 9\n"
    )
    config = compose(f"hydra.searchpath=[file://{tmp_path}]", "regularizer=mine", SMALL)
    regularizer = learner_of([config]).regularizer
    assert {name: type(term).__name__ for name, term in regularizer.summands().items()} == {
        "small": "L1",
        "units": "GroupLasso",
    }
    assert regularizer.gated is None
    assert not regularizer.gates_active(0)


# ---------------------------------------------------------------- hardening, rows and warnings


def test_hardening_closes_gates_and_cuts_what_is_small() -> None:
    regularizer = make_regularizer("regularizer=l0_l1", "regularizer.zero_threshold=0.5").bind({})
    layers, z = {"0.weight": torch.tensor([[[0.4, 0.6, 0.6, 9.0]]])}, torch.tensor([[[1.0, 1.0, 0.5, 0.0]]])
    assert regularizer.harden(layers, {"0.weight": z})["0.weight"].flatten().tolist() == [0.0, pytest.approx(0.6), 0.0, 0.0]


def test_a_target_is_reached_when_the_gates_of_a_sum_freeze() -> None:
    """To a single gate, where no two are equal: they move slowly, so that none comes to the limit."""
    at = "regularizer.terms.l0"
    slowly = f"{at}.target_sparsity=0.5", f"{at}.lambda_c=1e-3", f"{at}.gate_learning_rate=0.01"
    learner = make_learner("regularizer=l0_l1", "regularizer.zero_threshold=0", SMALL, *moving(at), *slowly)
    for step, batch in enumerate(random_batches(40, 1, 16)):
        learner.update(batch, env_step=20 * step)
    (share,) = observe(learner)["sparsity/exact"].tolist()
    assert share == pytest.approx(0.5, abs=2 / 157)  # of 4 * 13 + 13 * 7 + 7 * 2 gates


def test_warnings_go_by_the_term_that_has_the_gates_and_name_its_keys() -> None:
    both = "lambda_c", "target_sparsity"
    stuck = {
        "gates/moved": 0.0,
        "gradient/gates/policy": 0.1,
        "penalty/policy": 1.0,
        "penalty/policy/l1": 1.0,
        "penalty/policy/l0": 0.0,
    }
    assert WarningDetector("l0", both).read(stuck) == []
    (said,) = WarningDetector("l0", both).read(stuck | {"penalty/policy/l0": 0.5})
    assert said.endswith("raise regularizer.terms.l0.gate_learning_rate")
    (said,) = WarningDetector("l0", both).read({"sparsity/exact/policy.0.weight": 1.0})
    assert said.endswith("lower regularizer.terms.l0.lambda_c or regularizer.terms.l0.target_sparsity")
    (said,) = stayed_dense({"sparsity/exact": 0.0}, ["policy"], True, "l1", ["lambda_c"])
    assert said.endswith("at the end: raise regularizer.terms.l1.lambda_c, or begin earlier")


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["regularizer.terms.l1=null", "regularizer.terms.l0=null"], r"regularizer\.terms is empty"),
        (
            ["regularizer.terms.l1.proximal=true"],
            r"regularizer\.terms\.l1\.proximal is true, but regularizer\.terms\.l0 has gates",
        ),
        (
            ["regularizer.terms.l1.scope=all"],
            r"regularizer\.scope is 'policy', but the widest scope of regularizer\.terms is 'all'",
        ),
        (
            ["regularizer.terms.l0.freeze_at_step=1"],
            r"^regularizer\.terms\.l0\.freeze_at_step is 1; .* regularizer\.terms\.l0\.delay",
        ),
        (["regularizer.terms.l1.lambda_c=-1"], r"^regularizer\.terms\.l1\.lambda_c is -1"),
        (["+regularizer.terms.l1.lambda=1"], r"^regularizer\.terms\.l1\.lambda is not a key of L1; did you mean lambda_c\?"),
        (["regularizer.terms.l1._target_=sparserl.regularizers.l0.L0"], r"regularizer\.terms\.l1\.proximal is not a key of L0"),
    ],
)
def test_what_cannot_be_is_one_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        compose("regularizer=l0_l1", *overrides)


def test_two_terms_with_gates_and_sums_of_sums_are_refused() -> None:
    terms = {name: make_regularizer(f"regularizer={name}") for name in ("l0", "l0_units", "magnitude", "l1")}
    assert isinstance(terms["l0"], L0)
    for other in ("l0_units", "magnitude"):
        with pytest.raises(ValueError, match=f"has gates in l0 and {other}; one term at most"):
            made({"l0": terms["l0"], other: terms[other]})
    with pytest.raises(ValueError, match="is a sum"):
        made({"inner": made({"l1": terms["l1"]})})
    assert made({"magnitude": terms["magnitude"], "l1": terms["l1"]}).gated == "magnitude"
