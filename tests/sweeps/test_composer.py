"""The configs of the jobs of a multirun."""

from __future__ import annotations

import pytest
import yaml
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from launching import Sweep, jobs
from omegaconf import DictConfig, OmegaConf

from sparserl.config.schema import CONF
from sparserl.runs.files import read_json
from sparserl.sweeps.composer import Composer


def test_a_key_that_some_options_of_a_sweep_have_is_set_where_they_are_chosen(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only l0 has gates that can be open at first; what differs in that alone is one run under none."""
    root = sweep("regularizer=none,l0", "regularizer.initial_open=0.7,0.8", "network.hidden=[8]", "trainer.eval_episodes=1")
    configs = [read_json(folder / "config.json") for folder in jobs(root)]
    assert {config["regularizer"].get("initial_open") for config in configs} == {0.7, 0.8, None}
    assert len(configs) == 3
    assert "4 jobs: 3 to train, 1 the same as another" in (said := capsys.readouterr().err)
    assert said.count("regularizer.initial_open is left out of the jobs with regularizer=none, which have no such key") == 1
    (folder,) = root.glob("*-none-seed0-??????????")
    assert yaml.safe_load((folder / ".hydra/overrides.yaml").read_text())[-1] == "trainer.eval_episodes=1"
    assert "initial_open" not in (folder / ".hydra/overrides.yaml").read_text()


def test_a_key_that_the_default_option_lacks_is_set_where_it_can_be(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    """The example of docs/sweeps.md, which was refused: Hydra composes single values with the default algorithm, dqn, first."""
    root = sweep("algorithm=dqn,ppo", "algorithm.target_kl=0.01", "network.hidden=[8]", "trainer.eval_episodes=1")
    found = {config["names"]["algorithm"]: config for config in (read_json(job / "config.json") for job in jobs(root))}
    assert found["ppo"]["algorithm"]["target_kl"] == 0.01
    assert "target_kl" not in found["dqn"]["algorithm"]
    assert "algorithm.target_kl is left out of the jobs with algorithm=dqn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["seed=range(0)"], "the sweep has no jobs: a list of values is empty"),
        (["algorithm=dqn,ppo", "algorithm.target_kll=0.01"], "algorithm.target_kll is not a key"),
        (["algorithm=dqn,pppo", "algorithm.target_kl=0.01"], "algorithm=pppo is not there to be chosen"),
        (["regularizer=none,l1", "regularizer.initial_open=0.7"], "regularizer.initial_open is not a key"),
        (["regularizer=none,l0", "regularizer.initial_opn=0.7"], "regularizer.initial_opn is not a key"),
        (["regularizer=none,l0", "algorithm.gama=0.7"], "algorithm.gama is not a key of the config; did you mean"),
    ],
)
def test_what_no_job_of_a_sweep_can_have_is_refused(overrides: list[str], sentence: str, sweep: Sweep) -> None:
    with pytest.raises(SystemExit, match=f"^sparserl: {sentence}"):
        sweep(*overrides)


def test_every_job_is_composed_once_and_has_a_config_of_its_own(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[str] = []
    original = ConfigLoaderImpl.load_sweep_config

    def load(self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        composed.append(sweep_overrides[-1])
        return original(self, master_config, sweep_overrides)

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", load)
    root = sweep("regularizer=none", "seed=3,3,4")
    assert composed == ["seed=3"], "the others differ in their seed only, or not at all"
    assert len(jobs(root)) == 2
    numbers = [
        yaml.safe_load((folder / ".hydra/hydra.yaml").read_text())["hydra"]["job"]["num"]
        for folder in root.iterdir()
        if folder.is_dir()
    ]
    assert sorted(numbers) == [0, 1, 2]


@pytest.mark.parametrize("separator", ["=", "_"])
def test_a_job_of_another_seed_has_the_config_that_hydra_gives_it(separator: str) -> None:
    """Hydra's own part of it, too: overrides, and the name that folders may be called by."""
    overrides = ["regularizer=l1", "seed=0", "regularizer.lambda_c=1e-3"]
    overrides += [f"hydra.job.config.override_dirname.kv_sep={separator}"] * (separator != "=")  # which is the default
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        sweep = loader.load_configuration("train", ["hydra.job.name=any"], RunMode.MULTIRUN)
        composer = Composer(loader)
        for seed in (0, 17):
            overrides[1] = f"seed={seed}"
            composed, expected = (each.load_sweep_config(sweep, overrides) for each in (composer, loader))
            assert OmegaConf.to_container(composed) == OmegaConf.to_container(expected)
            assert f"seed{separator}{seed}" in composed.hydra.job.override_dirname
    first, second = (composer.take(sweep, overrides) for _ in range(2))
    first.regularizer.lambda_c = 1.0
    assert second.regularizer.lambda_c == 1e-3, "each job's config is its own"
