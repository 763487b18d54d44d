"""The failure signatures of sparse training: those that rows show, and those that can be told at the end only.

They are the ones that sparse training is known for (arXiv 2403.06313 names gates that collapse and unstable gradients): layers
of which nothing is left, a policy that stayed dense, gates that never move, a policy that no longer looks at what it sees, an
exploding gradient, gates whose gradient turns again and again, and a return that is lost when the policy is factored.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sparserl.runs.schema import Rank

EXPLODING = 100.0
"""A gradient norm this many times the median of the rows before counts as exploding: from one row to the next the norm of
DQN's gradient moves within a factor of about ten, also where gates begin to be random."""

ROWS_BEFORE_EXPLODING = 10
"""How many rows that median is of; before there are so many, nothing counts as exploding."""

CONSTANT_EVALUATIONS = 2
"""In how many evaluations running a policy must be constant: an untrained one may be by chance."""


SWING = 0.1
"""From one row to the next, gates that close or open this share of the weights count as moving one way. Where L0 goes well the
share that is closed rises; it falls by a few hundredths after its height, over many rows."""

TURNS = 2
"""How often they may turn to the other way: with as many the gradient of the gates, whose mean over a row a move follows, has
changed its sign there and back. One turn is an overshoot that comes to rest."""


class WarningDetector:
    """Reads one member's rows as they come and reports each failure signature once.

    ``term`` is the regulariser's ``main_term``, and ``strengths`` are those of that term.
    """

    def __init__(self, term: str, strengths: Sequence[str]) -> None:
        self._term, self._strengths = term, strengths
        self._reported: set[str] = set()
        self._norms: dict[str, list[float]] = {}
        self._constant = 0
        self._moves: dict[str, dict[str, float]] = {}

    @property
    def reported(self) -> list[str]:
        return sorted(self._reported)

    def read(self, row: Mapping[str, Any], stopped: str | None = None, also: Sequence[str] = ()) -> list[str]:
        """The warnings that this row is the first to justify, each a sentence.

        Of a member that was stopped only that: ``stopped`` says why. What else its rows show, it does not do any more. ``also``
        are warnings that do not come from the row.
        """
        found = [*self._empty(row), *self._unmoved(row), *self._constant_policy(row), *self._exploding(row), *also]
        found += self._swinging(row)
        if stopped:
            found = [stopped]
        new = [sentence for sentence in found if sentence not in self._reported]
        self._reported.update(new)
        return new

    def _empty(self, row: Mapping[str, Any]) -> list[str]:
        remedy = _remedy("lower", self._term, self._strengths)
        return [
            f"every weight of layer {key.split('/')[-1]} is zero: nothing passes through it; {remedy}"
            for key, value in row.items()
            if key.startswith("sparsity/exact/") and value == 1
        ]

    def _unmoved(self, row: Mapping[str, Any]) -> list[str]:
        # the penalty's pull and a gate learning rate worth having move gates by far more than this within one row
        stuck = [key for key, value in row.items() if key.endswith("/moved") and value < 1e-3]
        # a rollout in which the delay ends has a penalty, and gates that are fixed until it is over
        learned = any(key.startswith("gradient/gates/") for key in row)
        of_gates = f"/{self._term}" if self._term else ""
        pulled = any(value for key, value in row.items() if key.startswith("penalty/") and key.endswith(of_gates))
        remedy = f"raise {_node(self._term)}.gate_learning_rate"
        return [f"the gates have not moved although the penalty is on: {remedy}"] * bool(stuck and pulled and learned)

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

    def _swinging(self, row: Mapping[str, Any]) -> list[str]:
        sentences = []
        for key, value in row.items():
            if not (key.startswith("gates/") and key.endswith("/closed")) or value is None:
                continue
            seen = self._moves.setdefault(key, {"closed": value, "way": 0.0, "turns": 0.0})
            move, seen["closed"] = value - seen["closed"], value
            if abs(move) >= SWING:
                way = math.copysign(1.0, move)
                seen["turns"] += float(way == -seen["way"])
                seen["way"] = way
            if seen["turns"] >= TURNS:
                which = "the gates" if key.count("/") == 1 else f"the gates of {key.split('/')[1]}"
                sentences.append(f"{which} close and open again and again: lower {_node(self._term)}.gate_learning_rate")
        return sentences

    def state_dict(self) -> dict[str, Any]:
        norms = {key: list(values) for key, values in self._norms.items()}
        moves = {key: dict(seen) for key, seen in self._moves.items()}
        return {"reported": self.reported, "norms": norms, "constant": self._constant, "moves": moves}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._reported = set(state["reported"])
        self._norms = {key: list(values) for key, values in state["norms"].items()}
        self._constant = state["constant"]
        self._moves = {key: dict(seen) for key, seen in state["moves"].items()}


def _node(term: str) -> str:
    """Where the config has the keys of a term of the penalty."""
    return f"regularizer.terms.{term}" if term else "regularizer"


def _remedy(change: str, term: str, strengths: Sequence[str]) -> str:
    """What changes how many zeros there are; masks out of a file have no key that says it."""
    if not strengths:
        return f"choose other masks by {_node(term)}.path"
    return f"{change} {' or '.join(f'{_node(term)}.{key}' for key in strengths)}"


def stayed_dense(
    last: Mapping[str, float], policy: Sequence[str], asked: bool, term: str, strengths: Sequence[str]
) -> list[str]:
    """The warning that a policy whose regulariser ``asked`` for zeros has none, from what ``observe`` says at the end.

    ``policy`` are the deployed components. Where these have gates, all of them are open too: some gates make no zeros. ``term``
    and ``strengths`` are as in ``WarningDetector``.
    """
    gates = [last[key] for key in ("gates/open", *(f"gates/{component}/open" for component in policy)) if key in last]
    if not asked or last["sparsity/exact"] > 0 or not all(share == 1 for share in gates):
        return []
    what = "every gate of the policy is open" if gates else "no weight of the policy is zero"
    earlier = ", or begin earlier" if strengths else ""
    return [f"{what} at the end: {_remedy('raise', term, strengths)}{earlier}"]


def lost_in_ranks(rank: Rank, measured: int, retention: float | None, wanted: float) -> list[str]:
    """The warning that factors lose what was learned.

    ``rank`` was selected of so many that were ``measured``, ``full`` among them; ``retention`` is what it keeps on other seeds,
    where ``wanted`` was asked for.
    """
    if rank == "full":
        found = f"no rank below full keeps {wanted:.0%} of what was learned: the policy cannot be stored as factors"
        return [found] if measured > 1 else []
    if retention is not None and retention < wanted:
        return [f"rank {rank} was selected to keep {wanted:.0%} of what was learned, and keeps {retention:.1%} on other seeds"]
    return []
