"""Trained policies as ordinary torch modules. Needs neither Hydra nor whatever trained them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from sparserl.lowrank.truncation import factored
from sparserl.networks.base import Network
from sparserl.records.disk import component, read_policy
from sparserl.trust import UntrustedError, check, find_class


def load_policy(folder: str | Path, rank: int | None = None, trust: bool = False) -> nn.Module:
    """The policy of a finished run, hardened: its zeros are zeros.

    Called with observations ``[batch, *obs]`` it returns what the algorithm acts by (action values for DQN). Weights live
    in ``nn.Linear`` only. With a ``rank`` the policy is cut at it, as in ``lowrank.csv``: there are two layers, without an
    activation between them, in the place of each one that becomes smaller so. Raises FileNotFoundError where the run left no
    policy and ValueError where the rank is below 1, or the file is damaged or names a class that is not sparserl's: a file
    from a stranger runs no code. With ``trust`` such a class is built too, which runs the code of whoever wrote it.
    """
    if rank is not None and rank < 1:
        raise ValueError(f"rank is {rank}; it must be 1 or more, or None for the whole policy")
    path, description, tensors = read_policy(folder)
    network: Network = described(description, "network", Network, path, trust)
    try:
        module = network.module(component(tensors, "policy"))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is not a whole policy: its tensors do not make its network ({error})") from error
    return (module if rank is None else factored(module, rank)).eval()


def described(description: Any, part: str, contract: type, path: Path, trust: bool) -> Any:
    """The ``part`` (``network``, say) that the file at ``path`` describes, of a class that keeps ``contract``.

    Unless the file is trusted, of one of sparserl's: nothing else is imported or called. Raises ValueError where what is
    described is not such a class, or not its fields.
    """
    try:
        fields = dict(description[part])
        if not trust:
            check(part, fields)
        cls = find_class(fields.pop("_target_"))
        if not issubclass(cls, contract):
            raise ValueError(f"{cls.__module__}.{cls.__name__} is not a {part}")
        return cls(**fields)
    except UntrustedError as error:
        raise UntrustedError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole policy, what it describes is not a {part}: {error}") from error
