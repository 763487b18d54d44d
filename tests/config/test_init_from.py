"""A run may start from the policy of another one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparserl.config.schema import Config, ConfigError
from sparserl.config.validation import compose
from sparserl.runs import checkpoint
from sparserl.runs.files import joined
from sparserl.sweeps.loop import run

pytestmark = pytest.mark.usefixtures("undrawn")

# so few steps that nothing is learned: what is saved at the end is what was there at the start
COMMON = "trainer=smoke", "lowrank.ranks=[]", "algorithm.normalize_observation=false"  # statistics would go on
UNTRAINED = *COMMON, "experience.learning_starts=1000"


def config(*overrides: str) -> Config:
    return compose(*UNTRAINED, *overrides)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dense runs of which something was learned."""
    root = tmp_path_factory.mktemp("dense")
    configs = [compose(*COMMON, "regularizer=none", f"seed={seed}") for seed in (1, 2)]
    run(configs, [root / f"run-seed{seed}-abc" for seed in (1, 2)], live=False)
    return root


@pytest.mark.parametrize("regularizer", ["none", "l0"])
def test_each_member_starts_from_its_own_policy_and_so_does_its_target(regularizer: str, trained: Path, tmp_path: Path) -> None:
    """Open gates are 1 when hardened, so under L0 too the weights are those that were given."""
    configs = [config(f"regularizer={regularizer}", f"seed={seed}", f"init_from={trained}/*-seed{seed}-*") for seed in (1, 2)]
    run([*configs, config(f"regularizer={regularizer}", "seed=1")], [tmp_path / name for name in "abc"], live=False)
    fresh = load_file(tmp_path / "c" / "policy.safetensors")
    for name, seed in (("a", 1), ("b", 2)):
        given = load_file(trained / f"run-seed{seed}-abc" / "policy.safetensors")
        mine = load_file(tmp_path / name / "policy.safetensors")
        raw = checkpoint.raw_weights(tmp_path / name)
        assert raw is not None
        assert mine.keys() == given.keys() == joined(raw, ("policy",)).keys()
        for key in mine:
            assert torch.equal(mine[key], given[key])
            assert torch.equal(raw["target_policy"][key.removeprefix("policy/")], given[key])
            assert not torch.equal(fresh[key], given[key])


def test_a_run_that_goes_on_needs_its_start_no_more(tmp_path: Path) -> None:
    given = compose(*COMMON, "regularizer=none")
    run([given], [tmp_path / "given"], live=False)
    started = config("regularizer=none", "seed=1", f"init_from={tmp_path / 'given'}")
    (first,) = run([started], [tmp_path / "mine"], live=False)
    shutil.rmtree(tmp_path / "given")
    (again,) = run([started], [tmp_path / "mine"], live=False)
    assert again.return_mean == first.return_mean


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["init_from={root}/nowhere"], "matches no finished run"),
        (["init_from={root}/*"], "matches 2 finished runs; name the folder of one"),
        (
            ["init_from={root}/run-seed1-abc", "network.hidden=[8]"],
            r"0.weight does not fit: .* \[4, 120\], and \[4, 8\] is needed; choose the algorithm and the network",
        ),
        (["init_from={root}/run-seed1-abc", "environment=acrobot"], "a policy of another environment"),
    ],
)
def test_what_cannot_be_started_from_is_refused_before_training(overrides: list[str], sentence: str, trained: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config(*(override.format(root=trained) for override in overrides))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensors: tensors | {"policy/0.weight": torch.ones(1)}, r"0.weight does not fit: its shape there is \[1\]"),
        (lambda tensors: tensors | {"policy/1.bias": torch.ones(84, 1)}, r"1.bias does not fit: .* and \[1, 84\] is needed"),
        (lambda tensors: tensors | {"policy/3.bias": torch.ones(1)}, r"3.bias does not fit: .* and none is needed"),
        (
            lambda tensors: {key: value for key, value in tensors.items() if key != "policy/1.weight"},
            r"1.weight does not fit: its shape there is missing, and \[120, 84\] is needed",
        ),
    ],
    ids=["broadcast", "transposed", "too many", "missing"],
)
def test_a_policy_whose_tensors_do_not_fit_is_refused_before_training(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], sentence: str, trained: Path, tmp_path: Path
) -> None:
    """A weight of shape (1,) was broadcast, and a layer that is missing stayed random, without a word."""
    given = trained / "run-seed1-abc" / "policy.safetensors"
    with safe_open(given, framework="pt") as file:
        metadata = file.metadata()
    save_file(change(load_file(given)), tmp_path / "policy.safetensors", metadata)
    with pytest.raises(ConfigError, match=sentence):
        config(f"init_from={tmp_path}")


def test_run_refuses_a_policy_that_does_not_fit_too(trained: Path, tmp_path: Path) -> None:
    """Configs may be made in Python, without ``compose``; nothing is trained, so nothing is left but a folder."""
    given = config("regularizer=none", "network.hidden=[8]") | {"init_from": str(trained / "run-seed1-abc")}
    with pytest.raises(ConfigError, match=r"0.weight does not fit: .* \[4, 120\], and \[4, 8\]"):
        run([given], [tmp_path / "mine"], live=False)
    assert not (tmp_path / "mine" / "status.json").exists()


def test_a_damaged_policy_is_refused(trained: Path, tmp_path: Path) -> None:
    whole = (trained / "run-seed1-abc" / "policy.safetensors").read_bytes()
    (tmp_path / "policy.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="not a whole policy"):
        config(f"init_from={tmp_path}")
