"""Where runs go: what conf/train.yaml asks for as ``${run_folder:}`` and its like, in every process that trains a job."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sparserl.config.schema import ConfigError
from sparserl.config.validation import to_plain, without_hydra
from sparserl.sweeps.jobs import CONFIG_FILE, digest, file_name, job_name


def _run_folder(*, _root_: DictConfig) -> str:
    """``${run_folder:}``: where a single run goes. Raises ConfigError where there is no run to resume."""
    if _root_.resume:
        if not Path(str(_root_.resume), CONFIG_FILE).is_file():
            raise ConfigError(f"resume is {_root_.resume}; there is no run to go on with")
        return str(_root_.resume)
    choices = _root_.hydra.runtime.choices
    name = file_name(f"{choices.algorithm}-{choices.environment}-{choices.regularizer}")
    return f"outputs/{name}/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"


def _job_folder(*, _root_: DictConfig) -> str:
    """``${job_folder:}``: where a job of a multirun goes. The same config has the same folder, today and tomorrow."""
    job = without_hydra(_root_)
    try:
        return job_name(to_plain(job))
    except Exception:  # noqa: BLE001 (the job itself will say so; until then it needs a folder)
        return f"invalid-{digest(OmegaConf.to_yaml(job))}"


def _composed_folder(*, _root_: DictConfig) -> str | None:
    """``${composed_folder:}``: where in a run's folder Hydra keeps what it composed; of a run that goes on, nothing is kept."""
    return None if _root_.resume else ".hydra"


OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
OmegaConf.register_new_resolver("job_folder", _job_folder, replace=True)
OmegaConf.register_new_resolver("composed_folder", _composed_folder, replace=True)
