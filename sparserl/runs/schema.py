"""The rows that a run leaves, as types. What is not known is null, never a made-up number."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

StatusName = Literal["waiting", "running", "interrupted", "done", "failed", "duplicate"]
Rank: TypeAlias = int | Literal["full"]
"""The k at which a policy is cut; ``full`` leaves it whole."""


@dataclass(frozen=True)
class Status:
    """``status.json``: how far a run is, and what stopped it: of a run that failed the traceback, or why it was frozen.

    A job of a sweep is ``waiting`` until it begins, and a ``duplicate`` where another one has the same config.
    """

    status: StatusName
    env_step: int
    total_steps: int
    process: int
    host: str
    error: str | None = None
    of: str | None = None
    """The folder's name of the job that a duplicate is the same as."""


@dataclass(frozen=True)
class Result:
    """``result.json``: one flat row for each run, the row of a table. Definitions are in the README."""

    algorithm: str
    environment: str
    regularizer: str
    lambda_c: float | None
    beta: float | None
    seed: int
    reduction: str | None
    scope: str | None
    zero_threshold: float
    network: str
    num_envs: int
    backend: str
    device: str
    env_steps: int
    return_mean: float
    return_std: float
    return_random: float
    episodes: int
    sparsity: float
    expected_sparsity: float | None
    sparsity_thresholded: float
    nonzero_weights: int
    policy_weights: int
    rank: Rank | None
    rank_reason: Literal["not_learned", "not_swept"] | None
    compression: float | None
    return_lowrank: float | None
    retention: float | None
    csr_bytes: int
    warnings: list[str]
    status: StatusName
    wall_seconds: float
    steps_per_second: float
    versions: str
    commit: str | None
    command: str


@dataclass(frozen=True)
class RankRow:
    """A line of ``lowrank.csv``: the policy cut at one rank. ``energy`` is of all layers, so that of ``full`` is 1."""

    rank: Rank
    return_mean: float
    return_std: float
    episodes: int
    retention: float | None
    compression: float
    parameters: int
    bytes: int
    macs: int
    csr_bytes: int
    """Of the sparse weights, the alternative to factors: the same at every rank."""
    energy: float


@dataclass(frozen=True)
class SingularValue:
    """A line of ``spectrum.csv``. ``effective_rank`` and ``dead_units`` (among its outputs) are of the whole layer."""

    layer: str
    index: int
    singular_value: float
    effective_rank: float
    dead_units: int


def as_json(value: Any) -> Any:
    """Plain JSON of a row: dataclasses become objects, and numbers that are not finite become null."""
    if hasattr(value, "__dataclass_fields__"):
        return as_json(asdict(value))
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
