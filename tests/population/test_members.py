"""A member of a population equals its solo run: same weights, same gates, same rows, bit for bit (MLP, eager, CPU)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from parts import immediately
from safetensors.torch import load_file

from sparserl.config.build import build
from sparserl.config.schema import CONF, Config
from sparserl.config.validation import compose
from sparserl.population.state import State
from sparserl.sweeps.loop import run
from sparserl.training import parameters
from sparserl.training.events import Row, Snapshot

pytestmark = pytest.mark.usefixtures("undrawn")

REGULARIZERS = sorted(path.stem for path in (CONF / "regularizer").glob("*.yaml"))

# past the first updates, over checkpoints (which reset all environments) and evaluations, with gates that move
SETTINGS = (
    "trainer=smoke",
    "trainer.total_steps=540",  # checkpoints and evaluations are at 200, 400 and the end; gates move until 324
    "trainer.num_envs=3",
    "experience.batch_size=16",
    "algorithm.max_grad_norm=0.5",
    "network.hidden=[13,7]",  # no multiple of any vector width: where neighbours would show
    "lowrank.ranks=[]",  # what comes after the training is not compared
)


# short episodes, random actions and noise, and an actor that is due at every second gradient step
PENDULUM = (
    "environment=pendulum",
    "environment.max_episode_steps=40",
    "experience.learning_starts=60",
    "experience.train_freq=2",
)
NORMALIZED = "algorithm.normalize_observation=true", "algorithm.normalize_reward=true"

# some members leave some rollouts early
STOPPING = "algorithm.target_kl=1e-4", "algorithm.clip_range_vf=0.2"

# By algorithm, and form of it. Rollouts are of 60 transitions, which checkpoints at every 200 steps cut: those of normalised
# observations keep what their statistics have not taken in.
SHAPED = {
    "dqn": ("experience.train_freq=5",),
    "ppo": ("experience.n_steps=20", *NORMALIZED),
    "ppo-wide": ("experience.n_steps=20", "network.hidden=[64,64]", "experience.batch_size=60"),
    "ppo-trunk": ("experience.n_steps=20", "algorithm.share_trunk=true", *STOPPING, *NORMALIZED),
    "ppo-continuous": (*PENDULUM[:2], "experience.n_steps=20", "algorithm.share_trunk=true", *STOPPING, *NORMALIZED),
    "a2c": ("experience.batch_size=null", *NORMALIZED),
    "a2c-continuous": (*PENDULUM[:2], "experience.batch_size=null"),
    "ddpg": (*PENDULUM, *NORMALIZED),
    "td3": (*PENDULUM, *NORMALIZED),
    "sac": (*PENDULUM, *NORMALIZED),
}


def configs(regularizer: str, algorithm: str = "dqn", number: int = 12, steps: int = 540) -> list[Config]:
    """Members with mixed seeds and, where they mean something, lambda_c and beta; the penalty is on throughout.

    With fewer ``steps`` the training ends sooner, on the same schedules.
    """
    on = immediately(regularizer, ramp_steps=100, end_step=400, smallest_side=2)
    clipped = ["regularizer.max_gate_grad_norm=0.5"] if regularizer == "l0" else []
    shaped = f"algorithm={algorithm.partition('-')[0]}", *SETTINGS, *SHAPED[algorithm]
    config = compose(*shaped, f"regularizer={regularizer}", *on, *clipped)
    members = []
    for index in range(number):
        values = {"lambda_c": 10.0 ** (index % 3), "beta": 0.3 + 0.1 * (index % 4), "target_sparsity": 0.3 + 0.2 * (index % 3)}
        own = {"seed": index * 7 % number, "regularizer": with_values(config["regularizer"], values)}
        members.append(config | own | {"trainer": config["trainer"] | {"total_steps": steps}})
    return members


def with_values(node: Config, values: dict[str, float]) -> Config:
    """A regulariser with other values in it and its terms, wherever it has them and they are not null."""
    terms = {name: with_values(term, values) for name, term in node.get("terms", {}).items()}
    meant = {key: value for key, value in values.items() if node.get(key) is not None}
    return node | meant | ({"terms": terms} if terms else {})


def trained(members: Sequence[Config], root: Path) -> list[Path]:
    folders = [root / str(index) for index in range(len(members))]
    run(members, folders)
    return folders


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same rows and the same policy, to the last bit."""
    ours, theirs = (load_file(folder / "policy.safetensors") for folder in (one, other))
    equal = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    return equal and (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def test_a_member_equals_its_solo_run(tmp_path: Path) -> None:
    """Under the regulariser with the most values that may differ; the others are below."""
    members = configs("l0")
    together = trained(members, tmp_path / "together")
    for index in (0, 5, 11):
        alone = trained([members[index]], tmp_path / f"alone{index}")
        assert same(together[index], alone[0])
    assert not same(together[0], together[1]), "members with other seeds must differ, or this test sees nothing"


def learned(members: Sequence[Config], states: Sequence[State] = ()) -> tuple[list[list[State]], list[list[dict[str, float]]]]:
    """The states of all members at each checkpoint, and the rows of each member, without what a run leaves on the disk."""
    trainer, parts = build(members)
    rows: list[list[dict[str, float]]] = [[] for _ in members]
    snapshots: list[list[State]] = []
    for event in trainer.run(parts, list(states)):
        if isinstance(event, Row):
            for own, metrics in zip(rows, event.metrics, strict=True):
                own.append(metrics)
        elif isinstance(event, Snapshot):
            snapshots.append(deepcopy(event.states))
    return snapshots, rows


def equal(one: State, other: State) -> bool:
    """Of states, to the last bit; nan equals nan."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other) or (one != one and other != other)


# what DDPG and TD3 do, SAC does, with more noise; A2C acts on Pendulum as PPO does; masks change at gradient steps or between
# rollouts
SLOWER = "ddpg", "td3", "a2c-continuous"
SOONER = [("l0", name) for name in SHAPED if name not in SLOWER] + [("magnitude", "dqn"), ("magnitude", "ppo")]
SOONER += [("l0_group_lasso", "dqn")]


@pytest.mark.parametrize(
    ("regularizer", "algorithm"),
    [
        pytest.param(*case, marks=() if case in SOONER else pytest.mark.slow)
        for case in product(("none", "l0", "magnitude", "l0_group_lasso"), sorted(SHAPED))
    ],
)
def test_sixteen_members_equal_their_solo_runs_and_go_on_from_a_checkpoint(regularizer: str, algorithm: str) -> None:
    """Everything that a checkpoint keeps, and every row: 16 members fill a vector register, which 12 do not.

    The last of them is trained alone, and the first two go on without the others.
    """
    members = configs(regularizer, algorithm, 16, steps=300)
    (first, last), rows = learned(members)
    (_, alone), its = learned(members[-1:])
    assert equal(last[-1], alone[0])
    assert equal(rows[-1], its[0])
    if regularizer.startswith("l0"):
        assert last[0]["learner"]["gates_active"], "gates must be active, or this test sees less than it says"
    if STOPPING[0] in SHAPED[algorithm]:
        early = torch.tensor([row.get("policy/stopped_early", 0.0) for own in rows for row in own])
        assert ((early > 0) & (early < 1)).any(), "members must leave a rollout early, or this test sees less than it says"
    if regularizer == "magnitude":
        shares = [{row["sparsity/expected"] for row in own} for own in rows]
        assert all(len(its) > 2 for its in shares), "masks must close one after another, or this test sees less than it says"
    assert not equal(last[0], last[1])
    (resumed,), later = learned(members[:2], first[:2])
    for index in range(2):
        assert equal(resumed[index], last[index])
        assert equal(later[index], rows[index][-len(later[index]) :])


def test_a_member_equals_its_solo_run_beside_other_regularizers() -> None:
    """All in one loop, of three members each, and one of the second again: a population may be cut."""
    members = [member for regularizer in REGULARIZERS for member in configs(regularizer, steps=300)[:3]]
    members.append(configs(REGULARIZERS[1], steps=300)[3])
    (_, last), rows = learned(members)
    for index in [*(3 * number + number % 3 for number in range(len(REGULARIZERS))), len(members) - 1]:
        (_, alone), its = learned([members[index]])
        assert equal(last[index], alone[0])
        assert equal(rows[index], its[0])
    assert not any(equal(one, other) for one, other in combinations(last, 2))


def test_one_clip_for_all_members_breaks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: with one norm over the whole population a member's step depends on its neighbours."""

    def shared_norm(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.norm().expand(tensor.shape[0])

    members = configs("none")
    monkeypatch.setattr(parameters, "row_norm", shared_norm)
    together = trained(members, tmp_path / "together")
    alone = trained(members[:1], tmp_path / "alone")
    assert not same(together[0], alone[0])
