"""Masks out of a file: they hold while one learns, with fresh and given weights, and files that do not fit are refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parts import make_learner, make_regularizer, random_batches
from safetensors.torch import save_file
from torch import Tensor

from sparserl import export, train
from sparserl.config.schema import ConfigError
from sparserl.config.validation import compose
from sparserl.population.members import Population
from sparserl.runs.files import joined, read_masks, read_policy, write_masks
from sparserl.sweeps.loop import run
from sparserl.training.learner import Learner
from sparserl.training.metrics import observe
from sparserl.training.warnings import WarningDetector

Masks = dict[str, Tensor]

SHAPES = {"policy/0.weight": (4, 6), "policy/1.weight": (6, 5), "policy/2.weight": (5, 2)}
"""Of DQN on CartPole with hidden layers of 6 and 5 units."""
SMALL = "network.hidden=[6,5]", "regularizer=fixed_mask"


def masks(seed: int = 0) -> Masks:
    """About half of the weights are kept; of the first layer those of the first input are not."""
    draw = torch.Generator().manual_seed(seed)
    found = {name: (torch.rand(shape, generator=draw) < 0.5).float() for name, shape in SHAPES.items()}
    found["policy/0.weight"][0] = 0
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_masks(tmp_path / "masks.safetensors", masks())
    return tmp_path / "masks.safetensors"


def learner_of(path: Path, members: int = 1) -> Learner:
    return make_learner(*SMALL, f"regularizer.path={path}", members=members)


# ---------------------------------------------------------------- what they do


def test_a_file_gives_back_the_masks_that_were_written(path: Path) -> None:
    assert all(torch.equal(mask.float(), masks()[name]) for name, mask in read_masks(path).items())


def test_every_member_learns_under_the_same_masks_from_its_own_weights(path: Path) -> None:
    """A hundred steps of Adam leave what is closed at exactly zero and move what is open."""
    learner = learner_of(path, members=2)
    before = {name: tensor.clone() for name, tensor in learner.deterministic()["policy"].items()}
    for step, batch in enumerate(random_batches(100, 2, 16)):
        learner.update(batch, step + 1)
    after = learner.deterministic()["policy"]
    for name, mask in masks().items():
        layer = name.removeprefix("policy/")
        assert ((after[layer] == 0) == (mask == 0)).all()
        assert not torch.equal(before[layer], after[layer])
        assert not torch.equal(before[layer][0], before[layer][1]), "members have weights of their own"


def test_the_sparsity_that_is_reported_is_that_of_the_file(path: Path) -> None:
    kept = sum(float(mask.sum()) for mask in masks().values())
    number = sum(mask.numel() for mask in masks().values())
    metrics = observe(learner_of(path))
    assert metrics["sparsity/exact"].item() == metrics["sparsity/expected"].item() == pytest.approx(1 - kept / number)


def test_a_seed_gives_the_weights_that_a_dense_run_with_it_begins_with(path: Path) -> None:
    """So a mask with the seed of its run is a lottery ticket, and with another one its control."""
    ticket, dense = learner_of(path), make_learner("network.hidden=[6,5]", "regularizer=none")
    for name, mask in masks().items():
        layer = name.removeprefix("policy/")
        assert torch.equal(ticket.deterministic()["policy"][layer][0], dense.weights["policy"][layer][0] * mask)


def test_without_a_file_every_weight_is_kept(path: Path) -> None:
    learner = make_learner(*SMALL)
    assert observe(learner)["sparsity/exact"].item() == 0
    assert not learner.regularizer.asks_for_zeros(0)
    assert make_regularizer(*SMALL, f"regularizer.path={path}").asks_for_zeros(0)


def test_a_layer_without_any_weight_is_said(tmp_path: Path) -> None:
    """As of every other regulariser."""
    write_masks(tmp_path / "m", masks() | {"policy/1.weight": torch.zeros(6, 5)})
    learner = learner_of(tmp_path / "m")
    row = {name: float(value) for name, value in observe(learner).items()}
    (first,) = WarningDetector("", learner.regularizer.strengths).read(row)
    assert first.startswith("every weight of layer policy.1")
    assert first.endswith("; choose other masks by regularizer.path")


@pytest.mark.usefixtures("undrawn")
def test_masks_are_trained_with_the_weights_of_another_run(path: Path, tmp_path: Path) -> None:
    """So few steps that nothing is learned: what is saved at the end is the start, under the masks."""
    common = "network.hidden=[6,5]", "trainer=smoke", "lowrank.ranks=[]", "logger=disk", "algorithm.normalize_observation=false"
    run([compose(*common, "regularizer=none", "seed=3")], [tmp_path / "dense"], live=False)
    given = f"regularizer.path={path}", f"init_from={tmp_path}/dense", "experience.learning_starts=1000"
    run([compose(*common, "regularizer=fixed_mask", *given)], [tmp_path / "sparse"], live=False)
    dense, sparse = (read_policy(tmp_path / name)[2] for name in ("dense", "sparse"))
    for name, mask in masks().items():
        assert torch.equal(sparse[name], dense[name] * mask)
    result = json.loads((tmp_path / "sparse" / "result.json").read_text())
    assert result["nonzero_weights"] == sum(int(mask.sum()) for mask in masks().values())


@pytest.mark.usefixtures("undrawn")
def test_the_example_of_the_page_trains_the_zeros_of_a_run_from_four_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the masks in so few steps that nothing is learned: what is saved at the end is the start."""
    page = (Path(__file__).parents[2] / "docs" / "sparsity.md").read_text()
    section = page.partition("## Train the zeros of a run again")[2].partition("\n## ")[0]
    small = "network.hidden=[12,8]", "trainer=smoke", "lowrank.ranks=[]", "logger=disk", "trainer.total_steps=400"
    monkeypatch.chdir(tmp_path)
    for name, arguments in re.findall(r"^python -m sparserl\.(train|export) (.+)$", section, re.MULTILINE):
        learns = "fixed_mask" not in arguments
        others = () if name == "export" else small if learns else (*small, "experience.learning_starts=1000")
        monkeypatch.setattr(sys, "argv", [name, *arguments.split(), *others])
        {"train": train, "export": export}[name].main()

    given = read_masks(Path("outputs/ticket/masks.safetensors"))
    kept, number = sum(int(mask.sum()) for mask in given.values()), sum(mask.numel() for mask in given.values())
    assert 1 - kept / number == pytest.approx(0.9, abs=1 / number)
    policies = {path.name: read_policy(path)[2] for path in Path("outputs/ticket").iterdir() if path.is_dir()}
    assert policies.keys() == {"found", "early", "fresh", "control", "rewound", "tuned"}
    dense = make_learner("network.hidden=[12,8]", "regularizer=none").weights["policy"]
    for name, mask in given.items():
        found = {run: tensors[name] for run, tensors in policies.items()}
        first = dense[name.removeprefix("policy/")][0]
        assert torch.equal(found["fresh"], first * mask)
        assert not torch.equal(found["control"], first * mask)
        assert torch.equal(found["control"], found["control"] * mask)
        assert torch.equal(found["rewound"], found["early"] * mask)
        assert not torch.equal(found["early"], first), "the short training has learned"
        assert torch.equal(found["tuned"], found["found"])


def test_each_component_has_its_own_masks(tmp_path: Path) -> None:
    """A trunk and its heads have layers of the same name."""
    ppo = "algorithm=ppo", "algorithm.share_trunk=true", "network.hidden=[6,5]", "regularizer=fixed_mask"
    fresh = make_learner(*ppo).weights
    of = {
        name: torch.ones(tensor.shape[1:]) for name, tensor in joined(fresh, ("encoder", "policy")).items() if "weight" in name
    }
    of["encoder/0.weight"][0] = 0
    write_masks(tmp_path / "m", of)
    learner = make_learner(*ppo, f"regularizer.path={tmp_path}/m")
    metrics = observe(learner)
    assert metrics["sparsity/exact/encoder.0.weight"].item() == pytest.approx(1 / 4)
    assert metrics["sparsity/exact/policy.0.weight"].item() == 0


# ---------------------------------------------------------------- what is refused


def changed(name: str, change: Callable[[Tensor], Tensor | None]) -> Masks:
    found = masks()
    mask = change(found.pop(name))
    return found if mask is None else found | {name: mask}


REFUSED: dict[str, tuple[Masks, str]] = {
    "missing": (changed("policy/1.weight", lambda _: None), "policy/1.weight does not fit: its shape there is missing"),
    "one too many": (masks() | {"critic/0.weight": torch.ones(1)}, r"critic/0.weight does not fit: its shape there is \[1\]"),
    "too wide": (changed("policy/0.weight", lambda m: m[:, :3]), r"shape there is \[4, 3\], and \[4, 6\] is needed"),
    # it would broadcast
    "one row": (changed("policy/0.weight", lambda m: m[:1]), r"shape there is \[1, 6\]"),
    "a half": (changed("policy/2.weight", lambda m: m * 0.5 + 0.25), "policy/2.weight holds numbers that are neither 0 nor 1"),
    "nan": (changed("policy/2.weight", lambda m: m * torch.nan), "neither 0 nor 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_masks_that_do_not_fit_are_refused_before_training(case: str, tmp_path: Path) -> None:
    given, said = REFUSED[case]
    save_file({name: mask.contiguous() for name, mask in given.items()}, tmp_path / "m")
    with pytest.raises(ConfigError, match=said) as error:
        compose(*SMALL, f"regularizer.path={tmp_path}/m")
    assert str(error.value).startswith("regularizer.path is ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"this is no mask"], ids=["none", "empty", "text"])
def test_a_file_that_is_none_of_masks_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "m").write_bytes(content)
    with pytest.raises(ConfigError, match=r"regularizer\.path is .*(does not exist|not a whole safetensors file)"):
        compose(*SMALL, f"regularizer.path={tmp_path}/m")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"regularizer\.path is"):
        compose(*SMALL, f"regularizer.path={tmp_path}")


def test_masks_draw_nothing(path: Path) -> None:
    """So whatever else is drawn under a seed stays as it is."""
    generators = Population((0,)).generators("gates")
    before = generators.state_dict()["states"].clone()
    regularizer = make_regularizer(*SMALL, f"regularizer.path={path}").bind({}, "policy")
    regularizer.init({name.removeprefix("policy/"): mask.unsqueeze(0) for name, mask in masks().items()}, generators)
    assert torch.equal(generators.state_dict()["states"], before)
