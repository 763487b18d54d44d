"""What a row says of the weights and gates, and the failure signatures that can be seen in rows.

The signatures are the ones that sparse training is known for (arXiv 2403.06313 names the first two and unstable gradients):
a map of gates that collapses, gates that never move, a policy that no longer looks at what it sees, an exploding gradient.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

EXPLODING = 100.0
"""A gradient norm this many times the median of the rows before counts as exploding: from one row to the next the norm of
DQN's gradient moves within a factor of about ten, also where gates begin to be random."""

ROWS_BEFORE_EXPLODING = 10
"""How many rows that median is of; before there are so many, nothing counts as exploding."""

CONSTANT_EVALUATIONS = 2
"""In how many evaluations running a policy must be constant: an untrained one may be by chance."""


class Signatures:
    """Reads one member's rows as they come and says each failure signature once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._norms: dict[str, list[float]] = {}
        self._constant = 0

    @property
    def said(self) -> list[str]:
        return sorted(self._said)

    def read(self, row: Mapping[str, Any], stopped: str | None = None, also: Sequence[str] = ()) -> list[str]:
        """The warnings that this row is the first to justify, each a sentence.

        Of a member that was stopped only that: ``stopped`` says why. What else its rows show, it does not do any more. ``also``
        are warnings that do not come from the row.
        """
        found = [*self._closed(row), *self._unmoved(row), *self._constant_policy(row), *self._exploding(row), *also]
        if stopped:
            found = [stopped]
        new = [sentence for sentence in found if sentence not in self._said]
        self._said.update(new)
        return new

    def _closed(self, row: Mapping[str, Any]) -> list[str]:
        return [
            f"every gate of layer {key.split('/')[-1]} is closed: nothing passes through it; lower regularizer.lambda_c"
            for key, value in row.items()
            if "/closed/" in key and value == 1
        ]

    def _unmoved(self, row: Mapping[str, Any]) -> list[str]:
        # the penalty's pull and a gate learning rate worth having move gates by far more than this within one row
        stuck = [key for key, value in row.items() if key.endswith("/moved") and value < 1e-3]
        pulled = any(value for key, value in row.items() if key.startswith("penalty/"))
        return ["the gates have not moved although the penalty is on: raise regularizer.gate_learning_rate"] * bool(
            stuck and pulled
        )

    def _constant_policy(self, row: Mapping[str, Any]) -> list[str]:
        if "eval/constant_action" in row:
            self._constant = self._constant + 1 if row["eval/constant_action"] else 0
        return ["the evaluated policy always takes the same action"] * (self._constant >= CONSTANT_EVALUATIONS)

    def _exploding(self, row: Mapping[str, Any]) -> list[str]:
        sentences = []
        for key, value in row.items():
            if key.count("/") != 2 or not key.startswith("gradient/") or "." in key:
                continue
            earlier = self._norms.setdefault(key, [])
            if value is None or not math.isfinite(value):  # a member with such a gradient was stopped, and that is reported
                continue
            if len(earlier) >= ROWS_BEFORE_EXPLODING and value > EXPLODING * statistics.median(earlier) > 0:
                sentences.append(f"{key} exploded to over {EXPLODING:.0f} times its median of the last rows")
            if value > 0:
                self._norms[key] = [*earlier, value][-ROWS_BEFORE_EXPLODING:]
        return sentences

    def state_dict(self) -> dict[str, Any]:
        return {"said": self.said, "norms": {k: list(v) for k, v in self._norms.items()}, "constant": self._constant}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._said = set(state["said"])
        self._norms = {key: list(values) for key, values in state["norms"].items()}
        self._constant = state["constant"]
