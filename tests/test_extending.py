"""Every example of docs/extending.md works as printed: its files are written to an empty folder, its commands are run there."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
import torch

from sparserl.config.validation import compose
from sparserl.loading import load_policy
from sparserl.runs.files import read_json
from sparserl.sweeps.loop import run

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
TEXT = PAGE.read_text()

FILES = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))
"""The text of each file by its path, which is the first line of its block."""

COMMANDS = re.findall(r"^python -m sparserl\.train --config-dir my_conf (.*)$", TEXT, re.MULTILINE)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with all files of the page, whose packages can be imported. No figures are drawn."""
    monkeypatch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    gymnasium.registry.pop("Target-v0", None)


def test_there_is_an_example_of_each_kind() -> None:
    kinds = {Path(name).parts[1] for name in FILES if name.startswith("my_conf/")}
    assert kinds == {"algorithm", "regularizer", "network", "environment"}
    chosen = " ".join(COMMANDS)
    assert all(f"{Path(name).parts[1]}={Path(name).stem}" in chosen for name in FILES if name.startswith("my_conf/"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_trains(command: str, examples: Path) -> None:
    """A sweep is tried with its first and its last job, in one population."""
    overrides = [each for each in shlex.split(command) if each != "-m"]
    search = f"hydra.searchpath=[file://{examples / 'my_conf'}]"
    jobs = [overrides]
    if "-m" in shlex.split(command):
        assert "regularizer.lambda_c=0.1,1,10" in overrides
        kept = [each for each in overrides if not each.startswith(("regularizer.lambda_c", "seed"))]
        jobs = [[*kept, "regularizer.lambda_c=0.1", "seed=0"], [*kept, "regularizer.lambda_c=10", "seed=3"]]
    folders = [examples / f"run{index}" for index in range(len(jobs))]
    results = run([compose(search, *job) for job in jobs], folders, live=False)
    for folder, result, job in zip(folders, results, jobs, strict=True):
        assert result.status == "done"
        assert result.return_mean is not None
        chosen = dict(each.split("=") for each in job)
        for group in ("algorithm", "regularizer", "network", "environment"):
            assert getattr(result, group) == chosen.get(group, getattr(result, group))
        config = read_json(folder / "config.json")
        assert any(str(config[group]["_target_"]).startswith("mine.") for group in ("algorithm", "regularizer", "network")) or (
            config["environment"]["id"].startswith("mine.")
        )


def test_a_policy_of_ones_own_classes_is_loaded_where_they_are_trusted(examples: Path) -> None:
    search = f"hydra.searchpath=[file://{examples / 'my_conf'}]"
    overrides = "algorithm=boltzmann", "network=linear", "regularizer=log_sum", "trainer=smoke", "logger=disk"
    run([compose(search, *overrides)], [examples / "run"], live=False)
    with pytest.raises(ValueError, match=r"mine\.boltzmann"):
        load_policy(examples / "run")
    assert load_policy(examples / "run", trust=True)(torch.zeros(5, 4)).shape == (5, 2)


def test_the_softmax_of_the_example_is_one(examples: Path) -> None:
    """Of the two action values that differ by log 3, the better is chosen three times in four."""
    from mine.boltzmann import Boltzmann

    class Network:
        def __call__(self, layers: object, observation: torch.Tensor) -> torch.Tensor:
            return torch.tensor([0.0, torch.log(torch.tensor(3.0))]).expand(*observation.shape[:2], 2)

    class Rng:
        def uniform(self, *shape: int) -> torch.Tensor:
            return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))

    config = compose(f"hydra.searchpath=[file://{examples / 'my_conf'}]", "algorithm=boltzmann")["algorithm"]
    fields = {key: value for key, value in config.items() if key != "_target_"} | {"network": Network()}
    algorithm = Boltzmann(**fields)
    action = algorithm.act({"policy": {}}, torch.zeros(1, 10_000, 4), 0, Rng()).action
    # the deviation of the share is 0.0043: five of them
    assert action.float().mean().item() == pytest.approx(0.75, abs=0.022)
