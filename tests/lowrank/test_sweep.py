"""The rank sweep: which rank is selected, and that what is measured is what would be shipped."""

from __future__ import annotations

import csv
import json
import math
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import Faulty, faulty
from folders import only_policy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparserl import load_policy
from sparserl.algorithms.base import Algorithm
from sparserl.algorithms.dqn import DQN
from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.environments.cartpole import CartPole
from sparserl.lowrank import sweep as module
from sparserl.lowrank.sweep import RankSweep, Scale, Swept, select
from sparserl.networks.base import Network
from sparserl.policies import q_values
from sparserl.population.members import Population
from sparserl.population.state import split
from sparserl.runs.schema import Rank, RankRow
from sparserl.sweeps.loop import run
from sparserl.training.evaluation import CONFIRMATION, EVALUATION, Evaluator, random_returns, rows_of
from sparserl.types import Weights

HIDDEN = [12, 10]
"""Of 4-12-10-2 the layers break even at 2, 5 and 1."""

ENVIRONMENT = CartPole(60)
EPISODES = 10


@cache
def algorithm() -> Algorithm:
    plain = "algorithm.normalize_observation=false"  # the policies below have no statistics
    made = build([compose("regularizer=none", f"network.hidden={HIDDEN}", plain)])[1].algorithm
    return made.bind(ENVIRONMENT.spec())


def policies(noise: tuple[float, ...]) -> Weights:
    """Members that push towards where the pole falls, through a hidden unit for each side, with noise in all weights.

    With a noise of 0 a member's hidden matrix has rank 2; noise may make it fall before the limit.
    """
    shapes = {
        "0.weight": (4, 12),
        "0.bias": (1, 12),
        "1.weight": (12, 10),
        "1.bias": (1, 10),
        "2.weight": (10, 2),
        "2.bias": (1, 2),
    }
    draw = torch.Generator().manual_seed(0)
    scale = torch.tensor(noise).view(-1, 1, 1)
    layers = {name: scale * torch.randn(len(noise), *shape, generator=draw) for name, shape in shapes.items()}
    towards = torch.tensor([0.02, 0.1, 1.0, 0.5])
    layers["0.weight"][:, :, 0] += towards
    layers["0.weight"][:, :, 1] -= towards
    for unit in (0, 1):
        layers["1.weight"][:, unit, unit] += 1
        layers["2.weight"][:, unit, 1 - unit] += 1
    return {"policy": layers}


POLICIES = policies((0.0, 0.02, 0.07))
"""At rank 1 all fail; at full rank the first two reach the limit and the third about half of it."""


def swept(ranks: Any, weights: Weights = POLICIES, retention: float = 0.95, environment: CartPole = ENVIRONMENT) -> list[Swept]:
    return RankSweep(ranks, retention, EPISODES)(environment, algorithm(), weights, lambda: None)


def by_rank(found: Swept) -> dict[Rank, RankRow]:
    return {row.rank: row for row in found.rows}


@pytest.mark.parametrize("steps", [None, 0, 8], ids=["its end", "an error in the first evaluation", "in the second"])
def test_environments_are_closed_whatever_ends_a_sweep(steps: int | None) -> None:
    """The random policy's and that of ranks, of 6 steps each."""
    left = None if steps is None else iter(range(steps))

    def check_interrupt() -> None:
        if left is not None and next(left, None) is None:
            raise KeyboardInterrupt

    environment = faulty()
    network = build([compose("regularizer=none", "network.hidden=[4]", "algorithm.normalize_observation=false")])[1].algorithm
    bound = network.bind(environment.spec())
    policy = {"policy": bound.init(Population((0,)))["policy"]}
    with nullcontext() if steps is None else pytest.raises(KeyboardInterrupt):
        RankSweep([1], 0.95, 2)(environment, bound, policy, check_interrupt)
    assert not Faulty.living


# ---------------------------------------------------------------- which ranks


@pytest.mark.parametrize(
    ("ranks", "largest", "expected"),
    [
        ("all", 5, [1, 2, 3, 4, 5]),
        ("ladder", 49, [1, 2, 4, 8, 16, 32, 49]),
        ("ladder", 32, [1, 2, 4, 8, 16, 32]),
        ("ladder", 1, [1]),
        ("all", 0, []),
        ("ladder", 0, []),
        ([8, 2, 2], 5, [2, 8]),
        ([], 5, []),
    ],
)
def test_the_ranks_are_in_increasing_order_and_each_once(ranks: Any, largest: int, expected: list[int]) -> None:
    assert RankSweep(ranks, 0.95, 1).numbers(largest) == expected


# ---------------------------------------------------------------- which is selected


@pytest.mark.parametrize(
    ("retentions", "expected"),
    [
        ([0.1, 0.5, 0.96, 0.99], 3),
        ([0.96, 0.5, 0.96, 0.99], 3),  # rank 1 is good, but not all larger ones are
        ([0.99, 0.99, 0.99, 0.99], 1),
        ([0.95, 0.95, 0.95, 0.95], 1),  # exactly as much as is asked for
        ([0.99, 0.99, 0.99, 0.94], "full"),
        ([1.3, 1.2, 1.1, 1.0], 1),  # better than whole
        ([-0.1, -2.0, 0.0, 0.95], 4),
        ([], "full"),
        ([None, None, None, None], None),
    ],
)
def test_the_selected_rank_is_the_lowest_from_which_on_all_are_good_enough(
    retentions: list[float | None], expected: Rank | None
) -> None:
    kept: dict[Rank, float | None] = dict(enumerate(retentions, start=1))
    # rounding: a network without its dead units may keep a little less than all
    for whole in (1.0, 0.94):
        assert select(kept | {"full": None if expected is None else whole}, 0.95) == expected


def returns(mean: float, episodes: int = 100) -> Tensor:
    """Half of them one below the mean and half one above: their variance is n / (n - 1)."""
    return mean + torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(episodes // 2)


def test_retention_is_the_share_of_what_was_learned() -> None:
    scale = Scale(random=returns(20.0), full=returns(120.0))
    assert scale.retention(returns(70.0)) == pytest.approx(0.5)
    assert scale.retention(returns(120.0)) == 1.0
    assert scale.retention(returns(10.0)) == pytest.approx(-0.1)
    # costs, where more is nearer to 0
    assert Scale(random=returns(-500.0), full=returns(-100.0)).retention(returns(-200.0)) == pytest.approx(0.75)


@given(
    full=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20), random=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20)
)
def test_full_retains_exactly_one(full: list[float], random: list[float]) -> None:
    """Whatever its returns and those of the random policy are: the same episodes are on both sides of the fraction."""
    returns = torch.tensor(full, dtype=torch.float64)
    scale = Scale(torch.tensor(random, dtype=torch.float64), returns)
    assert scale.retention(returns) == (1.0 if scale.learned else None)


def test_nothing_is_learned_unless_two_standard_errors_say_so() -> None:
    """The error of the difference of two means of 100 episodes: sqrt(2 * (100 / 99) / 100) = 0.142."""
    twice = 2 * math.sqrt(2 * (100 / 99) / 100)
    assert Scale(returns(20.0), returns(20.0 + 1.01 * twice)).learned
    assert not Scale(returns(20.0), returns(20.0 + 0.99 * twice)).learned
    assert not Scale(returns(20.0), returns(10.0)).learned, "what is worse than random is no reference either"
    assert Scale(returns(20.0), returns(10.0)).retention(returns(15.0)) is None
    # with fewer episodes of the one the error is larger: sqrt(100 / 99 / 100 + 2 / 2)
    assert not Scale(returns(20.0), returns(22.0, episodes=2)).learned
    assert not Scale(returns(20.0), torch.tensor([500.0], dtype=torch.float64)).learned, "one episode has no error"


# ---------------------------------------------------------------- what is measured


@pytest.fixture(scope="module")
def all_ranks() -> list[Swept]:
    return swept("all")


def test_there_is_a_row_for_each_rank_and_the_last_is_full(all_ranks: list[Swept]) -> None:
    for found in all_ranks:
        assert [row.rank for row in found.rows] == [1, 2, 3, 4, 5, "full"]
        assert {row.episodes for row in found.rows} == {EPISODES}
        full = found.rows[-1]
        assert (full.compression, full.energy) == (0.0, 1.0)
        assert {row.csr_bytes for row in found.rows} == {full.csr_bytes}
    assert [found.rows[-1].retention for found in all_ranks[:2]] == [1.0, 1.0]
    means = {row.return_mean for found in all_ranks for row in found.rows}
    assert min(means) < 15 < 60 == max(means)
    assert len(means) > 6, "ranks must differ in what they reach, or these tests see nothing"


@pytest.mark.parametrize("member", [0, 1, 2])
@pytest.mark.parametrize("rank", [1, 2, 4, None])
def test_a_row_is_what_the_loaded_policy_gets(all_ranks: list[Swept], member: int, rank: int | None, tmp_path: Path) -> None:
    network = {"_target_": "sparserl.networks.mlp.MLP", "hidden": HIDDEN, "activation": "relu"}
    folder = only_policy(tmp_path, network, ENVIRONMENT.spec(), split(POLICIES, member))
    policy = load_policy(folder, rank=rank)
    evaluator = Evaluator(ENVIRONMENT, 1, EPISODES, torch.device("cpu"))
    played = evaluator(lambda seen, _: policy(seen.flatten(0, 1)).argmax(dim=-1).view(seen.shape[:2])).returns
    found = by_rank(all_ranks[member])["full" if rank is None else rank]
    assert (found.return_mean, found.return_std) == (float(played.mean()), float(played.std()))


def test_all_ranks_together_are_each_rank_alone(all_ranks: list[Swept]) -> None:
    for rank in (1, 2, 3, 4, 5):
        for together, alone in zip(all_ranks, swept([rank]), strict=True):
            assert by_rank(alone)[rank] == by_rank(together)[rank]


def test_a_member_is_swept_as_if_alone(all_ranks: list[Swept]) -> None:
    for member, together in enumerate(all_ranks):
        one = {name: {n: t[member : member + 1] for n, t in layers.items()} for name, layers in POLICIES.items()}
        assert swept("all", one) == [together]


@pytest.mark.parametrize("at_once", [1, 37, 80])
def test_in_pieces_it_is_the_same(all_ranks: list[Swept], at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUB_ENVIRONMENTS", at_once)
    assert swept("all") == all_ranks


class Watched(Evaluator):
    """Tells how many networks were played on which stream."""

    played: list[tuple[int, str]]

    def __init__(self, environment: Any, members: int, episodes: int, device: torch.device, stream: str, check: Any) -> None:
        super().__init__(environment, members, episodes, device, stream, check)
        self.played.append((members, stream))


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    monkeypatch.setattr(Watched, "played", [], raising=False)
    monkeypatch.setattr(module, "Evaluator", Watched)
    return Watched.played


def test_equal_networks_are_played_once_and_have_a_row_each(played: list[tuple[int, str]]) -> None:
    """The first two matrices of member 0 have ranks 1 and 2, so from rank 2 on its networks are one, with these as factors."""
    found = swept([1, 2, 3, 4, 5, 6, 7])
    # member 0 has 1, 2-7 and full, and its two living units of each layer 1 and full; the others have 1, 2, 3, 4, 5 and full
    assert played[0] == (3 + 2 + 6 + 6, EVALUATION)
    rows = by_rank(found[0])
    assert rows[2] == replace(rows[5], rank=2) == replace(rows[7], rank=2)


def test_what_a_sweep_costs_at_most_is_said_before_it(played: list[tuple[int, str]]) -> None:
    """Of three ranks both forms, then the two selected and the whole policy again, and random policies on both streams: 11."""
    sweep = RankSweep([1, 2], 0.95, EPISODES)
    share = 11 * EPISODES * 60 / 1000
    said = f"at the end 3 ranks are evaluated in {EPISODES} episodes each: at most {share:.2g} times the environment steps of "
    assert sweep.cost(ENVIRONMENT, algorithm(), total_steps=1000) == f"{said}training"
    sweep(ENVIRONMENT, algorithm(), policies((0.0,)), lambda: None)
    assert 3 < sum(networks for networks, _ in played) + 2 <= 11


def test_a_rank_at_which_every_layer_stays_whole_has_no_row() -> None:
    """It would be ``full`` under another name, and the selected rank could be one at which nothing is smaller."""
    assert [[row.rank for row in found.rows] for found in swept([5, 6, 7])] == [[5, 6, 7, "full"], [5, "full"], [5, "full"]]
    found = swept([6, 100], {"policy": {name: tensor[1:2] for name, tensor in POLICIES["policy"].items()}})
    assert [row.rank for row in found[0].rows] == ["full"]
    assert found[0].selected is not None
    assert (found[0].selected.rank, found[0].selected.compression) == ("full", 0.0)


def test_the_selected_rank_is_measured_again_on_other_seeds(played: list[tuple[int, str]]) -> None:
    """It, the whole policy and the random one on the same episodes: a scale of other episodes would not fit.

    The limit is so high that two of the policies do not reach it, so that their returns differ from episode to episode.
    """
    environment, weights = CartPole(500), policies((0.0, 0.02, 0.03, 0.05))
    found = swept("all", weights, retention=0.5, environment=environment)
    # the selected rank of each and the whole policy of each; the first has units that do nothing, so one without them
    assert [size for size, stream in played if stream == CONFIRMATION] == [9]
    evaluator = Evaluator(environment, 4, EPISODES, torch.device("cpu"), CONFIRMATION)
    full = evaluator(lambda seen, rows: algorithm().deterministic_action(rows_of(weights, rows), seen)).returns.mean(dim=1)
    random = float(random_returns(environment, EPISODES, CONFIRMATION).mean())
    for each, whole in zip(found, full.tolist(), strict=True):
        assert each.selected is not None
        row = by_rank(each)[each.selected.rank]
        assert row.retention is not None
        assert row.retention >= 0.5
        assert each.selected.compression == row.compression > 0
        assert each.selected.retention == (each.selected.return_lowrank - random) / (whole - random)
    assert sum(each.selected is not None and each.selected.retention != 1 for each in found) == 2


def test_full_retains_exactly_one_where_it_is_selected() -> None:
    """At rank 1 all fail, so where nothing else is listed the whole policy is selected; confirmed it is itself."""
    for found in swept([1], policies((0.0, 0.02))):
        assert [row.retention == 1.0 for row in found.rows] == [False, True]
        assert found.selected is not None
        assert (found.selected.rank, found.selected.retention) == ("full", 1.0)


@dataclass(frozen=True)
class Encoded(DQN):
    """The same policy in two components: an encoder with a hidden layer, and one layer of values behind it."""

    policy = ("encoder", "policy")

    @property
    def networks(self) -> dict[str, Network]:
        return {"encoder": self.network.trunk(), "policy": self.network.head()}

    def deterministic_action(self, weights: Weights, observation: Tensor) -> Tensor:
        encoded = self.networks["encoder"](weights["encoder"], observation)
        return q_values.greedy(self.networks["policy"](weights["policy"], encoded))


def test_several_components_are_swept_as_one_network() -> None:
    """Units of the encoder's last layer are dead where the next component does not use them."""
    made = algorithm()
    encoded = Encoded(**{field.name: getattr(made, field.name) for field in fields(made) if field.init})
    one = {"policy": {name: tensor[:1] for name, tensor in POLICIES["policy"].items()}}
    places = {"0": "encoder/0", "1": "encoder/1", "2": "policy/0"}
    apart: Weights = {"encoder": {}, "policy": {}}
    for name, tensor in one["policy"].items():
        layer, kind = name.split(".")
        component, number = places[layer].split("/")
        apart[component][f"{number}.{kind}"] = tensor
    (expected,) = swept("all", one)
    (found,) = RankSweep("all", 0.95, EPISODES)(ENVIRONMENT, encoded.bind(ENVIRONMENT.spec()), apart, lambda: None)
    assert (found.rows, found.selected) == (expected.rows, expected.selected)
    assert found.spectrum == [replace(line, layer=places[line.layer.removeprefix("policy/")]) for line in expected.spectrum]
    # without noise two units of each hidden layer are used
    assert {line.layer: line.dead_units for line in found.spectrum} == {"encoder/0": 10, "encoder/1": 8, "policy/0": 0}


def starts(stream: str) -> Tensor:
    seen: list[Tensor] = []

    def act(observation: Tensor, _: slice) -> Tensor:
        seen.append(observation.clone())
        return torch.zeros(observation.shape[:2], dtype=torch.long)

    Evaluator(ENVIRONMENT, 2, 5, torch.device("cpu"), stream)(act)
    return seen[0]


def test_the_other_seeds_are_others_and_the_same_for_all_members() -> None:
    first, other = starts(EVALUATION), starts(CONFIRMATION)
    assert not (first == other).any()
    assert torch.equal(other[0], other[1])


def test_where_nothing_was_learned_nothing_is_selected(played: list[tuple[int, str]]) -> None:
    """Weights of 0 push to one side, which is worse than random; the others of the population are selected for."""
    weights = policies((0.0, 0.0))
    for tensor in weights["policy"].values():
        tensor[0] = 0
    nothing, something = swept("all", weights)
    assert nothing.selected is None
    assert {row.retention for row in nothing.rows} == {None}
    assert something.selected is not None
    # the selected rank of the second, with and without the units that do nothing, and both whole policies
    assert played[-1] == (4, CONFIRMATION)


def test_a_member_that_broke_does_not_break_the_others(all_ranks: list[Swept]) -> None:
    weights = {name: {n: t.clone() for n, t in layers.items()} for name, layers in POLICIES.items()}
    weights["policy"]["1.weight"][1, 3, 3] = float("nan")
    found = swept("all", weights)
    assert [found[0], found[2]] == [all_ranks[0], all_ranks[2]]
    assert found[1].selected is None
    assert math.isnan(found[1].rows[0].energy)


def test_what_check_interrupt_raises_ends_the_sweep() -> None:
    steps = iter(range(20))

    def check_interrupt() -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RankSweep("all", 0.95, EPISODES)(ENVIRONMENT, algorithm(), POLICIES, check_interrupt)


# ---------------------------------------------------------------- a run

SETTINGS = (
    "trainer=smoke",
    "lowrank.ranks=all",
    f"network.hidden={HIDDEN}",
    "environment.max_episode_steps=60",
    "trainer.eval_episodes=4",
)


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_its_ranks_and_its_spectrum(tmp_path: Path) -> None:
    folders = [tmp_path / "0", tmp_path / "1"]
    results = run([compose(*SETTINGS, f"seed={seed}") for seed in (0, 1)], folders)
    for folder, result in zip(folders, results, strict=True):
        rows = lines(folder / "lowrank.csv")
        assert list(rows[0]) == [
            "rank", "return_mean", "return_std", "success_rate", "x_pos", "flag_rate", "episodes", "retention", "compression",
            "parameters", "bytes", "macs", "csr_bytes", "sparse_bytes", "energy", "shrunken_return_mean",
            "shrunken_retention", "shrunken_compression", "shrunken_parameters", "shrunken_macs",
        ]  # fmt: skip
        assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5", "full"]
        assert float(rows[-1]["return_mean"]) == result.return_mean
        assert float(rows[-1]["return_std"]) == result.return_std
        spectrum = lines(folder / "spectrum.csv")
        assert list(spectrum[0]) == ["layer", "index", "singular_value", "effective_rank", "dead_units"]
        assert [line["layer"] for line in spectrum] == ["policy/0"] * 4 + ["policy/1"] * 10 + ["policy/2"] * 2
        written = json.loads((folder / "result.json").read_text())
        for name in ("csr_bytes", "sparse_bytes"):
            assert written[name] == int(rows[0][name]) == int(rows[-1][name])
        assert (written["rank"] is None) == (written["rank_reason"] == "not_learned") == (rows[-1]["retention"] == "")
        for name in ("compression", "return_lowrank", "retention"):
            assert (written[name] is None) == (written["rank"] is None)
