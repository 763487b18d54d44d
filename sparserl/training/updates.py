"""What some gradient steps, taken one after another, say of themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.types import Metrics


@dataclass(frozen=True)
class Updates:
    """The metrics of some gradient steps."""

    names: Sequence[str]
    rows: Float[Tensor, "step member name"]
    env_steps: Sequence[int]
    """Environment steps of each member before each."""

    @classmethod
    def of(cls, metrics: Metrics, env_step: int) -> Updates:
        """Those of one gradient step."""
        return cls([*metrics], torch.stack([*metrics.values()], dim=1).unsqueeze(0), [env_step])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Metrics]:
        """The metrics ``[member]`` of each step."""
        for row in self.rows:
            yield dict(zip(self.names, row.unbind(1), strict=True))
