"""From the events of a loop to the files and the log of one member."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparserl.lowrank.accounting import csr_bytes, sparse_bytes
from sparserl.lowrank.shrinking import shrink
from sparserl.lowrank.sweep import Swept
from sparserl.lowrank.truncation import as_matrix
from sparserl.population.state import State, split
from sparserl.regularizers.base import Regularizer, regularized
from sparserl.runs import provenance
from sparserl.runs.files import joined
from sparserl.runs.folder import RunFolder
from sparserl.runs.schema import MEASURES, Result, StatusName, as_json
from sparserl.tracking.base import Log
from sparserl.training.events import Finished, Row
from sparserl.training.metrics import distributions, observe
from sparserl.training.statistics import TRAINING_PHASES
from sparserl.training.warnings import WarningDetector, lost_in_ranks, stayed_dense

CUT_OFF = "an episode was cut off by a limit that is not the environment's own: see environment.max_episode_steps"


class Recorder:
    """Records member number ``member`` of a loop, made by ``command``, into its folder, and then its log.

    ``config`` is the run's, and ``identity`` the part of it that makes it this run; ``regularizer`` is that of its population.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: dict[str, Any],
        identity: dict[str, Any],
        regularizer: Regularizer,
        member: int,
        log: Log,
        command: str,
    ) -> None:
        self._folder, self.config, self._identity = folder, config, identity
        self._member, self._log, self._command = member, log, command
        self._term = regularizer.main_term
        self._strengths = regularizer.summands()[self._term].strengths
        self._warning_detector = WarningDetector(self._term, self._strengths)
        self._env_step = 0
        self._seconds = self._train_seconds = 0.0
        self._result: Result | None = None
        self._at_end: list[str] = []
        self._ended = False

    def begin(self, state: State | None) -> None:
        """Start, or go on from what ``state_dict`` gave: whatever was written after it is cut off."""
        if state is None:
            self._folder.cut({"metrics": 0, "timing": 0})
        else:
            self._warning_detector.load_state_dict(state["warnings"])
            self._env_step, self._seconds, self._train_seconds = state["env_step"], state["seconds"], state["train_seconds"]
            self._folder.cut(state["offsets"])
        self._folder.status("running", self._env_step)
        self._folder.tell(f"{f'goes on from step {self._env_step}' if state else 'begins'}: {self._command}")
        for row in self._folder.rows():
            self._log.row(row)

    def state_dict(self) -> State:
        """What the checkpoint of this member keeps of its records."""
        return {
            "warnings": self._warning_detector.state_dict(),
            "env_step": self._env_step,
            "seconds": self._seconds,
            "train_seconds": self._train_seconds,
            "offsets": self._folder.offsets(),
        }

    def row(self, event: Row) -> dict[str, Any]:
        """Write one row, with the warnings that it is the first to justify; returns it."""
        self._env_step = event.env_step
        values = event.metrics[self._member]
        row: dict[str, Any] = {"env_step": event.env_step} | {k: None if v != v else v for k, v in values.items()}
        also = [CUT_OFF] if self._member in event.limited else []
        warnings = self._warning_detector.read(row, event.stopped[self._member], also)
        if warnings:
            row["warnings"] = warnings
        self._folder.metrics(row)
        self._log.row(row)
        self._seconds += sum(event.seconds.values())
        self._train_seconds += sum(event.seconds.get(phase, 0.0) for phase in TRAINING_PHASES)
        self._folder.timing({"env_step": event.env_step, **event.seconds})
        if row.get("eval/return_mean") is not None:
            evaluated, sparsity = row["eval/return_mean"], row["sparsity/exact"]
            self._folder.tell(f"step {event.env_step}: evaluated return {evaluated:.3g}, sparsity {sparsity:.3g}")
        for warning in warnings:
            self._folder.tell(f"step {event.env_step}: warning: {warning}")
        return row

    def trained(self, event: Finished, random: Tensor, device: str) -> Result:
        """Write the policy and the result of a run that was trained to its end, or stopped before: then it has failed.

        ``random`` are the returns of the random policy ``[episode]``. What is known of ranks comes with ``swept``.
        """
        learner, row = event.group.locate(self._member)
        algorithm, config = learner.algorithm, self.config
        weights = split({component: learner.deterministic()[component] for component in algorithm.policy}, row)
        layers = joined(weights, algorithm.policy)
        self._folder.policy(
            layers, {"config": self._identity, "spec": algorithm.spec.as_json(), "versions": provenance.versions()}
        )
        returns, measures = event.evaluation.returns[self._member], event.evaluation.measures
        seen = {name: float(value[row]) for name, value in observe(learner).items()}
        if learner.stopped.sentences()[row] is None:
            asked = torch.as_tensor(learner.regularizer.asks_for_zeros(event.env_step)).expand(learner.size)
            self._warn(stayed_dense(seen, algorithm.policy, bool(asked[row]), self._term, self._strengths))
        shrunken = shrink(layers, algorithm.policy_structure())
        matrices = [as_matrix(layers[name], its) for name, its in algorithm.policy_structure().items()]
        numbers = torch.cat([weight.flatten() for weight in regularized(layers).values()])
        self._result = Result(
            algorithm=config["names"]["algorithm"],
            environment=config["names"]["environment"],
            regularizer=config["names"]["regularizer"],
            lambda_c=config["regularizer"]["lambda_c"],
            lambda_c_critic=config["regularizer"]["lambda_c_critic"],
            beta=config["regularizer"]["beta"],
            seed=config["seed"],
            reduction=config["regularizer"]["reduction"],
            scope=config["regularizer"]["scope"],
            zero_threshold=config["regularizer"]["zero_threshold"],
            network=config["names"]["network"],
            num_envs=config["trainer"]["num_envs"],
            vectorization=config["environment"].get("vectorization", "batched"),
            backend=learner.backend,
            device=device,
            env_steps=event.env_step,
            return_mean=float(returns.mean()),
            return_std=float(returns.std()) if len(returns) > 1 else None,
            return_random=float(random.mean()),
            **{name: float(measures[name][self._member].mean()) if name in measures else None for name in MEASURES},
            episodes=len(returns),
            sparsity=seen["sparsity/exact"],
            expected_sparsity=seen.get("sparsity/expected"),
            sparsity_thresholded=seen["sparsity/thresholded"],
            sparsity_critic=seen.get("sparsity/critics"),
            nonzero_weights=int((numbers != 0).sum()),
            policy_weights=numbers.numel(),
            alive_units=shrunken.alive_units,
            shrunken_weights=shrunken.weights,
            rank=None,
            rank_reason="not_swept",
            compression=None,
            return_lowrank=None,
            retention=None,
            shrunken_rank=None,
            shrunken_compression=None,
            shrunken_return_mean=None,
            shrunken_retention=None,
            csr_bytes=sum(map(csr_bytes, matrices)),
            sparse_bytes=sum(map(sparse_bytes, matrices)),
            warnings=[*self._warning_detector.reported, *self._at_end],
            status="failed" if learner.stopped.sentences()[row] else "done",
            wall_seconds=self._seconds,
            train_seconds=self._train_seconds,
            steps_per_second=event.env_step / self._seconds,
            versions=provenance.versions(),
            commit=provenance.commit(),
            command=self._command,
        )
        self._folder.result(self._result)
        self._distributions = {name: values[row] for name, values in distributions(learner).items()}
        return self._result

    def swept(self, found: Swept, seconds: float) -> Result:
        """Complete the result with what the rank sweep found; it took so many ``seconds`` for all members."""
        assert self._result is not None
        self._folder.timing({"env_step": self._env_step, "lowrank": seconds})
        self._folder.table("lowrank", found.rows)
        self._folder.table("spectrum", found.spectrum)
        selected, shrunken = found.selected, found.shrunken
        if selected and self._result.status == "done":
            wanted = self.config["lowrank"]["retention"]
            self._warn(lost_in_ranks(selected.rank, len(found.rows), selected.retention, wanted))
        self._result = replace(
            self._result,
            warnings=[*self._warning_detector.reported, *self._at_end],
            rank=selected.rank if selected else None,
            rank_reason=None if selected else "not_learned",
            compression=selected.compression if selected else None,
            return_lowrank=selected.return_lowrank if selected else None,
            retention=selected.retention if selected else None,
            shrunken_rank=shrunken.rank if shrunken else None,
            shrunken_compression=shrunken.compression if shrunken else None,
            shrunken_return_mean=shrunken.return_lowrank if shrunken else None,
            shrunken_retention=shrunken.retention if shrunken else None,
        )
        self._folder.result(self._result)
        self._log.sweep([as_json(row) for row in found.rows])
        self._log.finish(self._result, self._distributions)
        return self._result

    @property
    def at_end(self) -> list[str]:
        """The warnings that no row has, since they came after the last one."""
        return self._at_end

    def _warn(self, warnings: list[str]) -> None:
        self._at_end += warnings
        for warning in warnings:
            self._folder.tell(f"step {self._env_step}: warning: {warning}")

    def end(self, status: StatusName, error: str | None = None) -> None:
        """Close the rows and say how the run ended; after the first time nothing happens."""
        if self._ended:
            return
        self._ended = True
        try:
            self._folder.status(status, self._env_step, error)
            self._folder.tell(f"{status} at step {self._env_step}{f': {error}' if error else ''}")
        finally:
            self._folder.close()
            self._log.end(status)
