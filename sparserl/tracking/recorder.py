"""From the events of a loop to the files and the log of one member."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparserl.lowrank.sweep import Swept
from sparserl.population.state import State, split
from sparserl.regularizers.base import regularized
from sparserl.runs import provenance
from sparserl.runs.folder import RunFolder
from sparserl.runs.schema import Result, StatusName, as_json
from sparserl.tracking.base import Log
from sparserl.training.metrics import distributions, observe
from sparserl.training.trainer import Finished, Row
from sparserl.training.warnings import Signatures


class Recorder:
    """Records member number ``member`` of a loop, made by ``command``, into its folder, and then tells its log."""

    def __init__(
        self, folder: RunFolder, config: dict[str, Any], identity: dict[str, Any], member: int, log: Log, command: str
    ) -> None:
        self._folder, self.config, self._identity = folder, config, identity
        self._member, self._log, self._command = member, log, command
        self._signatures = Signatures()
        self._env_step = 0
        self._seconds = 0.0
        self._ended = False

    def begin(self, state: State | None) -> None:
        """Start, or go on from what ``state_dict`` gave: whatever was written after it is cut off."""
        if state is None:
            self._folder.cut({"metrics": 0, "timing": 0})
        else:
            self._signatures.load_state_dict(state["signatures"])
            self._env_step, self._seconds = state["env_step"], state["seconds"]
            self._folder.cut(state["offsets"])
        self._folder.status("running", self._env_step)
        self._folder.tell(f"{f'goes on from step {self._env_step}' if state else 'begins'}: {self._command}")
        for row in self._folder.rows():
            self._log.row(row)

    def state_dict(self) -> State:
        """What the checkpoint of this member keeps of its records."""
        return {
            "signatures": self._signatures.state_dict(),
            "env_step": self._env_step,
            "seconds": self._seconds,
            "offsets": self._folder.offsets(),
        }

    def row(self, event: Row) -> dict[str, Any]:
        """Write one row, with the warnings that it is the first to justify; returns it."""
        self._env_step = event.env_step
        values = event.metrics[self._member]
        row: dict[str, Any] = {"env_step": event.env_step} | {k: None if v != v else v for k, v in values.items()}
        warnings = self._signatures.read(row, event.frozen[self._member])
        if warnings:
            row["warnings"] = warnings
        self._folder.metrics(row)
        self._log.row(row)
        self._seconds += sum(event.seconds.values())
        self._folder.timing({"env_step": event.env_step, **event.seconds})
        if "eval/return_mean" in row:
            evaluated, sparsity = row["eval/return_mean"], row["sparsity/exact"]
            self._folder.tell(f"step {event.env_step}: evaluated return {evaluated:.3g}, sparsity {sparsity:.3g}")
        for warning in warnings:
            self._folder.tell(f"step {event.env_step}: warning: {warning}")
        return row

    def swept_in(self, seconds: float) -> None:
        """Write how long the rank sweep of all members took: the last line of timing.jsonl."""
        self._folder.timing({"env_step": self._env_step, "lowrank": seconds})

    def finish(self, event: Finished, random: Tensor, swept: Swept, device: str) -> Result:
        """Write the policy, its ranks, the result and the picture of a whole run, or of one that was frozen: it has failed.

        ``random`` are the returns of the random policy ``[episode]``, ``swept`` what the rank sweep found of this member.
        """
        self._folder.table("lowrank", swept.rows)
        self._folder.table("spectrum", swept.spectrum)
        learner, place = event.company.place(self._member)
        hardened = split(learner.hardened(), place)
        returns, config = event.evaluation.returns[self._member], self.config
        self._folder.policy(
            {f"{component}/{name}": tensor for component, layers in hardened.items() for name, tensor in layers.items()},
            {"config": self._identity, "network": config["network"], "versions": provenance.versions()},
        )
        frozen = learner.frozen()[place]
        status: StatusName = "failed" if frozen else "done"
        selected = swept.selected
        seen = {name: float(value[place]) for name, value in observe(learner).items()}
        weights = torch.cat([weight.flatten() for weight in regularized(hardened["policy"]).values()])
        result = Result(
            algorithm=config["names"]["algorithm"],
            environment=config["names"]["environment"],
            regularizer=config["names"]["regularizer"],
            lambda_c=config["regularizer"]["lambda_c"],
            beta=config["regularizer"]["beta"],
            seed=config["seed"],
            reduction=config["regularizer"]["reduction"],
            scope=config["regularizer"]["scope"],
            zero_threshold=config["regularizer"]["zero_threshold"],
            network=config["names"]["network"],
            num_envs=config["trainer"]["num_envs"],
            backend="compiled" if config["trainer"]["compile"] else "eager",
            device=device,
            env_steps=event.env_step,
            return_mean=float(returns.mean()),
            return_std=float(returns.std()),
            return_random=float(random.mean()),
            episodes=len(returns),
            sparsity=seen["sparsity/exact"],
            expected_sparsity=seen.get("sparsity/expected"),
            sparsity_thresholded=seen["sparsity/thresholded"],
            nonzero_weights=int((weights != 0).sum()),
            policy_weights=weights.numel(),
            rank=selected.rank if selected else None,
            rank_reason=None if selected else "not_learned",
            compression=selected.compression if selected else None,
            return_lowrank=selected.return_lowrank if selected else None,
            retention=selected.retention if selected else None,
            csr_bytes=swept.rows[-1].csr_bytes,
            warnings=self._signatures.said,
            status=status,
            wall_seconds=self._seconds,
            train_seconds=None,
            steps_per_second=event.env_step / self._seconds,
            versions=provenance.versions(),
            commit=provenance.commit(),
            command=self._command,
        )
        self._folder.result(result)
        self._log.sweep([as_json(row) for row in swept.rows])
        self._log.finish(result, {name: values[place] for name, values in distributions(learner).items()})
        return result

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
