"""A member of a population equals its solo run: same weights, same gates, same rows, bit for bit (MLP, eager, CPU)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sparserl.config.schema import CONF, Config
from sparserl.config.validation import compose
from sparserl.sweeps.loop import run
from sparserl.training import parameters

pytestmark = pytest.mark.usefixtures("undrawn")

REGULARIZERS = sorted(path.stem for path in (CONF / "regularizer").glob("*.yaml"))

# past the first updates, over checkpoints (which reset all environments) and evaluations, with gates that move
SETTINGS = (
    "trainer=smoke",
    "trainer.total_steps=600",
    "trainer.num_envs=3",
    "experience.train_freq=5",
    "experience.batch_size=16",
    "algorithm.max_grad_norm=0.5",
    "network.hidden=[13,7]",  # no multiple of any vector width: where neighbours would show
    "lowrank.ranks=[]",  # what comes after the training is not compared
)


def configs(regularizer: str) -> list[Config]:
    """Twelve members with mixed seeds and, where they mean something, lambda_c and beta; the penalty is on throughout."""
    on = ["regularizer.delay_steps=0", "regularizer.ramp_steps=100", "regularizer.scope=all"] if regularizer != "none" else []
    clipped = ["regularizer.max_gate_grad_norm=0.5"] if regularizer == "l0" else []
    config = compose(*SETTINGS, f"regularizer={regularizer}", *on, *clipped)
    members = []
    for index in range(12):
        values = {"lambda_c": 10.0 ** (index % 3), "beta": 0.3 + 0.1 * (index % 4)}
        meant = {key: value for key, value in values.items() if config["regularizer"][key] is not None}
        members.append(config | {"seed": index * 7 % 12, "regularizer": config["regularizer"] | meant})
    return members


def trained(members: Sequence[Config], root: Path) -> list[Path]:
    folders = [root / str(index) for index in range(len(members))]
    run(members, folders)
    return folders


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same rows and the same policy, to the last bit."""
    ours, theirs = (load_file(folder / "policy.safetensors") for folder in (one, other))
    equal = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    return equal and (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_a_member_equals_its_solo_run(regularizer: str, tmp_path: Path) -> None:
    members = configs(regularizer)
    together = trained(members, tmp_path / "together")
    for index in (0, 5, 11):
        alone = trained([members[index]], tmp_path / f"alone{index}")
        assert same(together[index], alone[0])
    assert not same(together[0], together[1]), "members with other seeds must differ, or this test sees nothing"


def test_a_member_equals_its_solo_run_beside_other_regularizers(tmp_path: Path) -> None:
    """Four populations in one loop, of three members each, and one of the second again: a population may be cut."""
    members = [member for regularizer in REGULARIZERS for member in configs(regularizer)[:3]]
    members.append(configs(REGULARIZERS[1])[3])
    together = trained(members, tmp_path / "together")
    for index in (0, 4, 8, 9, 12):
        alone = trained([members[index]], tmp_path / f"alone{index}")
        assert same(together[index], alone[0])
    assert len({(folder / "policy.safetensors").read_bytes() for folder in together}) == len(members)


def test_one_clip_for_all_members_breaks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: with one norm over the whole population a member's step depends on its neighbours."""

    def shared_norm(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.norm().expand(tensor.shape[0])

    members = configs("none")
    monkeypatch.setattr(parameters, "row_norm", shared_norm)
    together = trained(members, tmp_path / "together")
    alone = trained(members[:1], tmp_path / "alone")
    assert not same(together[0], alone[0])
