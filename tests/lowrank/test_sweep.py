"""The rank sweep: which rank is selected, and that what is measured is what would be shipped."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparserl import load_policy
from sparserl.algorithms.dqn import DQN
from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.environments.cartpole import CartPole
from sparserl.lowrank import sweep as module
from sparserl.lowrank.sweep import Scale, Sweep, Swept, select
from sparserl.population.state import split
from sparserl.runs.folder import RunFolder
from sparserl.runs.schema import Rank, RankRow
from sparserl.sweeps.loop import run
from sparserl.training.evaluation import CONFIRMATION, EVALUATION, Evaluator, random_returns
from sparserl.types import Weights

HIDDEN = [12, 10]
"""Of 4-12-10-2 the layers break even at 2, 5 and 1."""

ENVIRONMENT = CartPole(60)
EPISODES = 10


@cache
def algorithm() -> DQN:
    made = build([compose("regularizer=none", f"network.hidden={HIDDEN}")])[1].algorithm
    assert isinstance(made, DQN)
    return made


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
    return {"policy": layers, "target_policy": {name: torch.zeros_like(tensor) for name, tensor in layers.items()}}


POLICIES = policies((0.0, 0.02, 0.07))
"""At rank 1 all fail; at full rank the first two reach the limit and the third about half of it."""


def swept(ranks: Any, weights: Weights = POLICIES, episodes: int = EPISODES, retention: float = 0.95) -> list[Swept]:
    random = random_returns(ENVIRONMENT, 20)
    return Sweep(ranks, retention, episodes)(ENVIRONMENT, algorithm(), weights, random, lambda: None)


def by_rank(found: Swept) -> dict[Rank, RankRow]:
    return {row.rank: row for row in found.rows}


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
    assert Sweep(ranks, 0.95, 1).numbers(largest) == expected


# ---------------------------------------------------------------- which is selected


def row(rank: Rank, retention: float | None) -> RankRow:
    return RankRow(rank, 0.0, 0.0, 1, retention, 0.0, 0, 0, 0, 0, 0.0)


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
    rows = [row(rank, retention) for rank, retention in enumerate(retentions, start=1)]
    selected = select([*rows, row("full", None if expected is None else 1.0)], 0.95)
    assert (selected.rank if selected else None) == expected


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
    folder = RunFolder(tmp_path, total_steps=1)
    layers = split(POLICIES["policy"], member)
    network = {"_target_": "sparserl.networks.mlp.MLP", "hidden": HIDDEN, "activation": "relu"}
    folder.policy({f"policy/{name}": tensor for name, tensor in layers.items()}, {"network": network})
    folder.close()
    policy = load_policy(tmp_path, rank=rank)
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

    def __init__(self, environment: Any, size: int, episodes: int, device: torch.device, stream: str, heed: Any) -> None:
        super().__init__(environment, size, episodes, device, stream, heed)
        self.played.append((size, stream))


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    monkeypatch.setattr(Watched, "played", [], raising=False)
    monkeypatch.setattr(module, "Evaluator", Watched)
    return Watched.played


def test_equal_networks_are_played_once_and_have_a_row_each(played: list[tuple[int, str]]) -> None:
    """The hidden matrix of member 0 has rank 2, so ranks 3, 4 and 5 are one network; 6 and 7 are the whole one."""
    found = swept([1, 2, 3, 4, 5, 6, 7])
    # member 0 has 1, 2, 3-5 and full (at 2 the first layer is cut too); the other two have 1, 2, 3, 4, 5 and full
    assert played[0] == (4 + 6 + 6, EVALUATION)
    rows = by_rank(found[0])
    assert rows[3] == dataclasses.replace(rows[5], rank=3)
    assert dataclasses.replace(rows[7], rank="full") == rows["full"]


def test_the_selected_rank_is_measured_again_on_other_seeds(played: list[tuple[int, str]]) -> None:
    found = swept("all", policies((0.0, 0.02)))
    assert [size for size, stream in played if stream == CONFIRMATION] == [2]
    for each in found:
        assert each.selected is not None
        chosen = by_rank(each)[each.selected.rank]
        assert chosen.retention is not None
        assert chosen.retention >= 0.95
        assert each.selected.compression == chosen.compression > 0
        random = float(random_returns(ENVIRONMENT, 20).mean())
        kept = (each.selected.return_lowrank - random) / (each.rows[-1].return_mean - random)
        assert each.selected.retention == pytest.approx(kept)


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
    assert played[-1] == (1, CONFIRMATION)


def test_a_member_that_broke_does_not_break_the_others(all_ranks: list[Swept]) -> None:
    weights = {name: {n: t.clone() for n, t in layers.items()} for name, layers in POLICIES.items()}
    weights["policy"]["1.weight"][1, 3, 3] = float("nan")
    found = swept("all", weights)
    assert [found[0], found[2]] == [all_ranks[0], all_ranks[2]]
    assert found[1].selected is None
    assert math.isnan(found[1].rows[0].energy)


def test_what_heed_raises_ends_the_sweep() -> None:
    steps = iter(range(20))

    def heed() -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sweep("all", 0.95, EPISODES)(ENVIRONMENT, algorithm(), POLICIES, random_returns(ENVIRONMENT, 20), heed)


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
            "rank", "return_mean", "return_std", "episodes", "retention", "compression",
            "parameters", "bytes", "macs", "csr_bytes", "energy",
        ]  # fmt: skip
        assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5", "full"]
        assert float(rows[-1]["return_mean"]) == result.return_mean
        assert float(rows[-1]["return_std"]) == result.return_std
        spectrum = lines(folder / "spectrum.csv")
        assert list(spectrum[0]) == ["layer", "index", "singular_value", "effective_rank", "dead_units"]
        assert [line["layer"] for line in spectrum] == ["0"] * 4 + ["1"] * 10 + ["2"] * 2
        written = json.loads((folder / "result.json").read_text())
        assert written["csr_bytes"] == int(rows[-1]["csr_bytes"])
        assert (written["rank"] is None) == (written["rank_reason"] == "not_learned") == (rows[-1]["retention"] == "")
        for name in ("compression", "return_lowrank", "retention"):
            assert (written[name] is None) == (written["rank"] is None)


class Killed(BaseException):
    """As if the process had died: nothing catches it."""


def test_killed_in_the_middle_of_the_sweep_it_sweeps_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(*SETTINGS)
    (whole,) = run([config], [tmp_path / "whole"])
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise Killed

        patch.setattr(module, "select", die)
        with pytest.raises(Killed):
            run([config], [tmp_path / "broken"])
    assert not (tmp_path / "broken" / "result.json").exists()
    (again,) = run([config], [tmp_path / "broken"])
    for name in ("lowrank.csv", "spectrum.csv", "metrics.jsonl", "policy.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    clock = {"wall_seconds": 0.0, "steps_per_second": 0.0}
    assert dataclasses.replace(again, **clock) == dataclasses.replace(whole, **clock)
