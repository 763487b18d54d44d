"""Hydra looks for launchers in this namespace, and imports whatever is here at every start: so nothing heavy is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PopulationLauncher(Launcher):
    """Jobs of a multirun that differ only in the values of members train as one population: see sparserl/sweeps/launcher.py.

    Keys (``make docs`` copies them from ``conf/hydra/launcher/population.yaml``):
        executor: Where populations train: inline (in this process), processes (in as many at once as there are workers) or
            slurm (each population a task of a job array, in a loop of its own).
        workers: Loops that train at once, each in a process with one thread; null is one for each core. Only of processes.
        max_members: Members of one loop at most: more of them take less time each, and 27 to 50 MiB of memory each.
        slurm: What is asked of Slurm for each population. Only of slurm.
        slurm.partition: null is the cluster's own.
        slurm.timeout_min: Minutes until a task is queued again, to go on from its last checkpoint: 5 or more, for it is told 90
            s before they are over.
        slurm.max_timeouts: How often that may be.
        slurm.mem_gb: Memory, GB: 27 to 50 MiB a member, and 1 GB.
        slurm.cpus_per_task: Cores of each task.
        slurm.gpus_per_node: null asks for none.
        slurm.more: Whatever else submitit knows, by its own names: +hydra.launcher.slurm.more.slurm_account=mine
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._context: HydraContext
        self._config: DictConfig
        self._composer: Any

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """``task_function`` would train one job; it is not asked."""
        from sparserl.sweeps.composer import Composer

        self._composer = Composer(hydra_context.config_loader)
        self._context, self._config = HydraContext(hydra_context.config_loader, hydra_context.callbacks), config
        hydra_context.config_loader = self._composer  # what the sweeper composes jobs with, to see whether they can be

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What came of each job, in their order."""
        from sparserl.sweeps.launcher import Settings, launch

        configs = [self._composer.take(self._config, overrides) for overrides in job_overrides]
        return launch(Settings(**self._settings), self._context, self._config, configs, initial_job_idx)
