"""The members of a population that learn no more, and why."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sparserl.training.step import CHECKED
from sparserl.training.updates import Updates
from sparserl.types import Metrics

SENTENCE_BYTES = 500
"""What a checkpoint keeps of why a member was stopped."""


class StoppedMembers:
    """Of each member why it was stopped. ``learns`` is the state's own: 1, and 0 of a member that was stopped."""

    def __init__(self, learns: Float[Tensor, "member 1"]) -> None:
        self._learns = learns
        self._sentences: list[str | None] = [None] * len(learns)
        self._learning = len(learns)  # how many were not stopped

    @property
    def are_all(self) -> bool:
        """Whether no member learns any more."""
        return self._learning == 0

    def sentences(self) -> list[str | None]:
        """Of each member why it was stopped, and when, in a sentence; None of those that learn."""
        return list(self._sentences)

    def stop(self, member: int, reason: str, env_step: int) -> None:
        """Stop a member for a reason that lies outside of its learning, unless it was stopped before."""
        if self._sentences[member] is None:
            self._sentences[member] = f"{reason}: stopped at step {env_step}"
            self._learning -= 1
            self._learns[member] = 0.0

    def update(self, metrics: Metrics, env_step: int) -> None:
        """Keep why a gradient step stopped members, if it did; ``metrics`` are its own."""
        if self._learns.sum().item() == self._learning:
            return
        checked = {name: value.isfinite().tolist() for name, value in metrics.items() if name.startswith(CHECKED)}
        for member, learns in enumerate(self._learns[:, 0].tolist()):
            if not learns and self._sentences[member] is None:
                name = next((name for name, finite in checked.items() if not finite[member]), None)
                if name is None:  # a later one of several steps has stopped it
                    continue
                what = name.replace("objective/", "loss of ").replace("gradient/", "gradient of ").replace("/", " of ")
                self._sentences[member] = f"the {what} is not finite: stopped at its last finite weights at step {env_step}"
        self._learning = self._sentences.count(None)

    def update_all(self, updates: Sequence[Updates]) -> None:
        """The same after several gradient steps."""
        if self._learns.sum().item() != self._learning:
            for its in updates:
                for metrics, env_step in zip(its, its.env_steps, strict=True):
                    self.update(metrics, env_step)

    def state(self) -> UInt8[Tensor, "member byte"]:
        """The sentences as bytes, since only tensors may differ between members in a checkpoint."""
        return torch.stack([_as_bytes(sentence) for sentence in self._sentences])

    def load_state(self, saved: UInt8[Tensor, "member byte"]) -> None:
        """Go on from a ``state``."""
        self._sentences = [_from_bytes(row) for row in saved]
        self._learning = self._sentences.count(None)
        self._learns.copy_(torch.tensor([[float(sentence is None)] for sentence in self._sentences]))


def _as_bytes(sentence: str | None) -> UInt8[Tensor, "byte"]:
    """Zeros for None."""
    kept = (sentence or "").encode(errors="replace")[:SENTENCE_BYTES]
    return torch.tensor(list(kept.ljust(SENTENCE_BYTES, b"\0")), dtype=torch.uint8)


def _from_bytes(kept: UInt8[Tensor, "byte"]) -> str | None:
    """The inverse of ``_as_bytes``, but for what did not fit."""
    return bytes(kept.tolist()).rstrip(b"\0").decode(errors="ignore") or None
