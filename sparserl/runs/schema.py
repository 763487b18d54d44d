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
"""The fields of Result, RankRow and LayerRanks that are means of an environment's ``measures``; null where it gives none."""
Rank: TypeAlias = int | Literal["full"]
"""The k at which a policy is cut; ``full`` leaves it whole."""
Form: TypeAlias = Literal["plain", "shrunken"]
"""The policy as it is, or without the units that do nothing."""
FORMS: tuple[Form, ...] = get_args(Form)
Way: TypeAlias = Literal["uniform", "energy", "budget", "return"]
"""How the rank of each layer is chosen within a budget of stored numbers: docs/concepts.md."""
WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True)
class Status:
    """``status.json``: how far a run is, and what stopped it: of a run that failed the traceback, or why it was stopped.

    A job of a sweep is ``waiting`` until it begins, and a ``duplicate`` where another one has the same config.
    """

    status: StatusName
    """How the run is doing; a job of a sweep is ``waiting`` until it begins."""
    env_step: int
    """Environment steps that were taken."""
    total_steps: int
    """Environment steps that there are to take."""
    process: int
    """Number of the process that trains it, or trained it last."""
    host: str
    """Machine of that process."""
    error: str | None = None
    """Of a run that failed the traceback, or why it was stopped."""
    of: str | None = None
    """The folder's name of the job that a duplicate is the same as."""
    process_began: float | None = None
    """When the process began, in seconds since 1970, as its machine says: its number may be another's by now."""


@dataclass(frozen=True)
class Result:
    """``result.json``: one flat row for each run, the row of a table. Definitions are in docs/concepts.md."""

    algorithm: str
    """Option of the group ``algorithm``."""
    environment: str
    """Option of the group ``environment``."""
    regularizer: str
    """Option of the group ``regularizer``."""
    lambda_c: float | None
    """``regularizer.lambda_c``; null where it is not used."""
    lambda_c_critic: float | None
    """``regularizer.lambda_c_critic``; null where it is not used."""
    beta: float | None
    """``regularizer.beta``; null where there are no gates."""
    seed: int
    """Seed of all randomness of the run."""
    reduction: str | None
    """Whether the penalty is a ``mean`` or a ``sum`` over the weights."""
    scope: str | None
    """Whose weights are regularised: ``policy`` or ``all``."""
    zero_threshold: float
    """Below it a weight counts as zero in ``sparsity_thresholded``."""
    network: str
    """Option of the group ``network``."""
    num_envs: int
    """Sub-environments of each member."""
    vectorization: str
    """How sub-environments take a step: sync, threads, processes, or batched where the environment computes them as one."""
    backend: str
    """How gradient steps were run: eager, compiled, or mixed where they could not be compiled from some point on."""
    device: str
    """Where tensors were: cpu or cuda."""
    env_steps: int
    """Environment steps that were taken, over all sub-environments."""
    return_mean: float | None
    """Mean return of the last policy, hardened and without exploration, over ``episodes`` episodes."""
    return_std: float | None
    """Standard deviation of these returns; null of one episode."""
    return_random: float | None
    """Mean return of a uniform random policy on the same episodes."""
    success_rate: float | None
    """Of goal environments: the share of these episodes whose last step was a success."""
    x_pos: float | None
    """Of games with levels: the mean of how far to the right these episodes came, in pixels."""
    flag_rate: float | None
    """Of games with levels: the share of these episodes that reached the flag."""
    episodes: int
    """Episodes of the last evaluation, ``trainer.eval_episodes``."""
    sparsity: float
    """Exact zeros among the hardened policy weights, divided by their number."""
    expected_sparsity: float | None
    """1 - mean P(z != 0) under random gates; null without gates."""
    sparsity_thresholded: float
    """Share of the policy weights smaller than ``zero_threshold``."""
    sparsity_critic: float | None
    """Of the regularised components that are not deployed; null unless the regulariser's scope is all."""
    nonzero_weights: int
    """Hardened policy weights that are not zero."""
    policy_weights: int
    """Weights of the deployed components, without biases."""
    alive_units: int | None
    """Hidden units that something enters and leaves."""
    shrunken_weights: int | None
    """Of the network of these units, with all inputs and outputs, zeros included."""
    rank: Rank | None
    """The selected rank; null where nothing was selected."""
    rank_reason: Literal["not_learned", "not_swept"] | None
    """Why there is no rank. ``not_swept``: the run is trained, and its rank sweep has not ended."""
    compression: float | None
    """1 - stored / dense numbers at the selected rank."""
    return_lowrank: float | None
    """Mean return at the selected rank, measured again on other seeds."""
    retention: float | None
    """Share of what was learned that the selected rank keeps, measured again on other seeds."""
    shrunken_rank: Rank | None
    """The selected one of the shrunken network; the next three fields are of the shrunken network at it."""
    shrunken_compression: float | None
    """1 - stored / dense numbers of the shrunken network at its rank; dense is the whole network."""
    shrunken_return_mean: float | None
    """Mean return of the shrunken network at its rank."""
    shrunken_retention: float | None
    """Share of what was learned that the shrunken network keeps at its rank."""
    csr_bytes: int | None
    """Of the sparse policy weights as CSR: float32 values, int32 indices."""
    sparse_bytes: int | None
    """Of the sparse weights, each layer in the smallest of CSR, coordinates and bitmap."""
    warnings: list[str]
    """Every warning of the run, a sentence each."""
    status: StatusName
    """As in ``status.json``."""
    wall_seconds: float
    """Seconds of training, evaluations and records, of all members of the loop and over all starts."""
    train_seconds: float | None
    """Of acting, stepping, storing and updating together."""
    steps_per_second: float
    """``env_steps`` divided by ``wall_seconds``: of this member, while the loop trained its other members too."""
    versions: str
    """Of Python and the packages that matter."""
    commit: str | None
    """Git commit of the checkout, with a + where files had changed; null without one."""
    command: str
    """What was typed."""


@dataclass(frozen=True)
class RankRow:
    """A line of ``lowrank.csv``: the policy cut at one rank. ``energy`` is of all layers, so that of ``full`` is 1."""

    rank: Rank
    """The k at which all layers are cut, or ``full``."""
    return_mean: float | None
    """Mean return at this rank."""
    return_std: float | None
    """Standard deviation of the returns; null of one episode."""
    success_rate: float | None
    """As in result.json, at this rank."""
    x_pos: float | None
    """As in result.json, at this rank."""
    flag_rate: float | None
    """As in result.json, at this rank."""
    episodes: int
    """Episodes at this rank."""
    retention: float | None
    """Share of what was learned that this rank keeps."""
    compression: float
    """1 - stored / dense numbers of the policy weights."""
    parameters: int
    """Numbers stored: factors or whole matrices."""
    bytes: int
    """Bytes of these, as float32."""
    macs: int
    """Multiply-adds of one observation."""
    csr_bytes: int
    """Of the sparse weights, the alternative to factors, as CSR with int32 indices: the same at every rank."""
    sparse_bytes: int | None
    """Of the sparse weights, each layer in the smallest of CSR, coordinates and bitmap."""
    energy: float
    """Kept sigma² divided by all, over all layers; 1 for ``full``."""
    shrunken_return_mean: float | None
    """This and what follows is of the policy without the units that do nothing, cut at the same rank."""
    shrunken_retention: float | None
    """Share of what was learned that is kept."""
    shrunken_compression: float | None
    """1 - stored / dense numbers; dense is the whole network."""
    shrunken_parameters: int | None
    """Numbers stored."""
    shrunken_macs: int | None
    """Multiply-adds of one observation."""


@dataclass(frozen=True)
class LayerRanks:
    """A line of ``layer_ranks.csv``: the policy with the ranks that one way has chosen within one budget."""

    form: Form
    """Whether the policy is ``plain``, or ``shrunken``: without the units that do nothing."""
    way: Way
    """How the ranks were chosen."""
    budget: int
    """Numbers that may be stored at most."""
    ranks: str
    """Rank of each layer, in the order of spectrum.csv; ``full`` where it stays whole."""
    parameters: int
    """Numbers stored: factors or whole matrices."""
    compression: float
    """1 - stored / dense numbers; dense is the whole network."""
    macs: int
    """Multiply-adds of one observation."""
    energy: float
    """Kept sigma² divided by all, over all layers."""
    return_mean: float | None
    """Mean return, on the episodes of lowrank.csv."""
    return_std: float | None
    """Standard deviation of the returns; null of one episode."""
    success_rate: float | None
    """As in result.json, at these ranks."""
    x_pos: float | None
    """As in result.json, at these ranks."""
    flag_rate: float | None
    """As in result.json, at these ranks."""
    episodes: int
    """Episodes of the return, and as many others that the way ``return`` has chosen by."""


@dataclass(frozen=True)
class SingularValue:
    """A line of ``spectrum.csv``. ``effective_rank`` and ``dead_units`` are of the whole layer.

    Dead are hidden units among its outputs that nothing enters or leaves, once other dead ones are gone.
    """

    layer: str
    """Component and layer."""
    index: int
    """1 for the largest."""
    singular_value: float | None
    """Of the hardened weights; null where they are not finite."""
    effective_rank: float | None
    """Exp of the entropy of the normalised singular values of the layer."""
    dead_units: int
    """Hidden units among the outputs of the layer that nothing enters or leaves."""


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


def is_text(cls: type, name: str) -> bool:
    """Whether a field holds words only."""
    hint = _hints(cls)[name]
    return hint is str or get_origin(hint) is Literal


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
