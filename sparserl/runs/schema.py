"""The rows that a run leaves, as types, and what checks them when they are read.

What is not known is null, never a made-up number: a field that says ``None`` is one that readers may find empty. A number that
is not finite, such as the deviation of one episode, is written as null too. A field that may be null may also be missing, and
is read as null then: the version that wrote the file did not know it. So a field that is added later says ``None``.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from types import NoneType
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

StatusName = Literal["waiting", "running", "interrupted", "done", "failed", "duplicate"]
MEASURES = ("success_rate", "x_pos", "flag_rate")
"""The fields of Result and RankRow that are means of an environment's ``measures``; null where it does not give them."""
Rank: TypeAlias = int | Literal["full"]
"""The k at which a policy is cut; ``full`` leaves it whole."""


@dataclass(frozen=True)
class Status:
    """``status.json``: how far a run is, and what stopped it: of a run that failed the traceback, or why it was stopped.

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
    lambda_c_critic: float | None
    beta: float | None
    seed: int
    reduction: str | None
    scope: str | None
    zero_threshold: float
    network: str
    num_envs: int
    vectorization: str
    """How sub-environments take a step: sync, threads, processes, or batched where the environment computes them as one."""
    backend: str
    device: str
    env_steps: int
    return_mean: float | None
    return_std: float | None
    return_random: float | None
    success_rate: float | None
    """Of goal environments: the share of these episodes whose last step was a success."""
    x_pos: float | None
    """Of games with levels: the mean of how far to the right these episodes came, in pixels."""
    flag_rate: float | None
    """Of games with levels: the share of these episodes that reached the flag."""
    episodes: int
    sparsity: float
    expected_sparsity: float | None
    sparsity_thresholded: float
    sparsity_critic: float | None
    """Of the regularised components that are not deployed; null unless the regulariser's scope is all."""
    nonzero_weights: int
    policy_weights: int
    alive_units: int | None
    """Hidden units that something enters and leaves."""
    shrunken_weights: int | None
    """Of the network of these units, with all inputs and outputs, zeros included."""
    rank: Rank | None
    rank_reason: Literal["not_learned", "not_swept"] | None
    """Why there is no rank. ``not_swept``: the run is trained, and its rank sweep has not ended."""
    compression: float | None
    return_lowrank: float | None
    retention: float | None
    shrunken_rank: Rank | None
    """The selected one of the shrunken network; the next three fields are of the shrunken network at it."""
    shrunken_compression: float | None
    shrunken_return_mean: float | None
    shrunken_retention: float | None
    csr_bytes: int | None
    """Of the sparse weights as CSR with int32 indices."""
    sparse_bytes: int | None
    """Of the sparse weights, each layer in the smallest of CSR, coordinates and bitmap."""
    warnings: list[str]
    status: StatusName
    wall_seconds: float
    train_seconds: float | None
    """Of acting, stepping, storing and updating together."""
    steps_per_second: float
    versions: str
    commit: str | None
    command: str


@dataclass(frozen=True)
class RankRow:
    """A line of ``lowrank.csv``: the policy cut at one rank. ``energy`` is of all layers, so that of ``full`` is 1."""

    rank: Rank
    return_mean: float | None
    return_std: float | None
    success_rate: float | None
    x_pos: float | None
    flag_rate: float | None
    episodes: int
    retention: float | None
    compression: float
    parameters: int
    bytes: int
    macs: int
    csr_bytes: int
    """Of the sparse weights, the alternative to factors, as CSR with int32 indices: the same at every rank."""
    sparse_bytes: int | None
    """Of the sparse weights, each layer in the smallest of CSR, coordinates and bitmap."""
    energy: float
    shrunken_return_mean: float | None
    """This and what follows is of the policy without the units that do nothing, cut at the same rank."""
    shrunken_retention: float | None
    shrunken_compression: float | None
    shrunken_parameters: int | None
    shrunken_macs: int | None


@dataclass(frozen=True)
class SingularValue:
    """A line of ``spectrum.csv``. ``effective_rank`` and ``dead_units`` are of the whole layer.

    Dead are hidden units among its outputs that nothing enters or leaves, once other dead ones are gone.
    """

    layer: str
    index: int
    singular_value: float | None
    effective_rank: float | None
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


def from_json(cls: type[T], row: Any) -> T:
    """A dataclass from the JSON object of its fields; those with a default, or that may be null, may be missing.

    Raises ValueError where a field is missing, unknown, or of another type than the dataclass says.
    """
    if not isinstance(row, dict):
        raise ValueError("it is not an object")
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    hints = _hints(cls)  # type: ignore[arg-type]  # a class can be hashed
    absent = [name for name, field in known.items() if name not in row and field.default is MISSING]
    lacking = [name for name in absent if not may_be_null(cls, name)]
    unknown = [name for name in row if name not in known]
    wrong = [name for name in row if name in known and not _fits(hints[name], row[name])]
    faults = [
        *(f"it has no {name}" for name in lacking),
        *(f"{name} is not a field of it" for name in unknown),
        *(f"its {name} is {row[name]!r:.80}" for name in wrong),
    ]
    if faults:
        raise ValueError("; ".join(faults))
    return cls(**dict.fromkeys(absent), **{name: _of(hints[name], value) for name, value in row.items()})


def may_be_null(cls: type, name: str) -> bool:
    """Whether a field may be empty, and so missing in a file of an earlier version."""
    return NoneType in get_args(_hints(cls)[name])


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _of(hint: Any, value: Any) -> Any:
    """JSON has one kind of number: 1.0 may have become 1 on its way."""
    return float(value) if type(value) is int and float in (hint, *get_args(hint)) else value


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value of JSON is of a type: a class, a Literal, a list or a union of these."""
    if get_origin(hint) is Literal:
        return any(value == allowed and type(value) is type(allowed) for allowed in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(get_args(hint)[0], item) for item in value)
    if get_args(hint):
        return any(_fits(allowed, value) for allowed in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is (NoneType if hint is None else hint)
