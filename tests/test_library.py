"""sparserl as a library: inside another Hydra application, in a thread, and whatever torch's defaults are there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from multiruns import environment

from sparserl import compose, load_policy, run

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL = "trainer=smoke", "logger=disk", "network.hidden=[8]", "regularizer.delay_steps=0"


def train(folder: Path) -> bytes:
    """All that a program may ask for; what was trained, byte for byte."""
    run([compose(*SMALL)], [folder], live=False)
    assert load_policy(folder)(torch.zeros(3, 4, dtype=torch.float32)).shape == (3, 2)
    return (folder / "policy.safetensors").read_bytes() + (folder / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What it gives with nothing around it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
        return train(tmp_path_factory.mktemp("alone"))


# ---------------------------------------------------------------- Hydra


@pytest.fixture
def application(tmp_path: Path) -> Iterator[None]:
    """Another Hydra application, initialised, whose config is set."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/other.yaml").write_text("mine: 1\n")
    with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base="1.2", job_name="other"):
        HydraConfig.instance().set_config(hydra.compose("other", return_hydra_config=True))
        yield
    HydraConfig.instance().cfg = None


def test_inside_another_hydra_application_whose_state_stays(application: None, tmp_path: Path, alone: bytes) -> None:
    """It used to raise: GlobalHydra is already initialized. And HydraConfig was ours from then on."""
    theirs, config = GlobalHydra.instance(), HydraConfig.get()
    assert train(tmp_path / "run") == alone
    assert GlobalHydra.instance() is theirs
    assert HydraConfig.get() is config
    assert hydra.compose("other", ["mine=2"]).mine == 2


def test_without_an_application_nothing_of_hydra_stays() -> None:
    compose(*SMALL)
    assert not GlobalHydra.instance().is_initialized()
    assert not HydraConfig.initialized()


def test_a_config_that_is_refused_leaves_nothing_either(application: None) -> None:
    theirs = GlobalHydra.instance()
    for wrong in ("typo=1", "seed=-1", "algorithm=nowhere"):
        with pytest.raises(Exception, match=wrong.partition("=")[0]):
            compose(wrong)
        assert GlobalHydra.instance() is theirs
        assert HydraConfig.get().job.config_name == "other"


APPLICATION = """
import hydra
from hydra.core.hydra_config import HydraConfig
import sparserl

@hydra.main(version_base="1.3", config_path="conf", config_name="other")
def main(config):
    mine = sparserl.compose("trainer=smoke", "logger=disk", "network.hidden=[8]", f"seed={config.mine}")
    sparserl.run([mine], [HydraConfig.get().runtime.output_dir + "/trained"])
    assert HydraConfig.get().job.name == "application"
    sparserl.load_policy(HydraConfig.get().runtime.output_dir + "/trained")

main()
"""


def test_in_the_jobs_of_an_application_with_a_sweep_of_its_own(application: None, tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    done = subprocess.run(
        [sys.executable, "application.py", "-m", "mine=3,4", "hydra.sweep.dir=out"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("out/*/trained/policy.safetensors"))) == 2


# ---------------------------------------------------------------- threads and torch


def test_in_threads(tmp_path: Path, alone: bytes) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train, tmp_path / "run").result() == alone


def test_threads_that_compose_at_once_do_not_disturb_each_other() -> None:
    def composed(seed: int) -> tuple[int, str]:
        config = compose("trainer=smoke", f"seed={seed}", f"regularizer={('l0', 'l1', 'none')[seed % 3]}")
        return config["seed"], config["names"]["regularizer"]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(composed, range(12))) == [(seed, ("l0", "l1", "none")[seed % 3]) for seed in range(12)]


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_under_another_default_dtype_which_stays(float64: None, tmp_path: Path, alone: bytes) -> None:
    """Two kinds of numbers used to meet in the first product of matrices."""
    assert train(tmp_path / "run") == alone
    assert torch.get_default_dtype() is torch.float64
    assert {parameter.dtype for parameter in load_policy(tmp_path / "run").parameters()} == {torch.float32}


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_with_gradients_off_which_they_stay(off: Callable[[], Any], tmp_path: Path, alone: bytes) -> None:
    with off():
        assert train(tmp_path / "run") == alone
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (off is torch.inference_mode)
