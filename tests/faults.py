"""Environments of Gymnasium's that go wrong where a test wants it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np

from sparserl.environments.gymnasium import Gymnasium

Given = list[Any]
"""observation, reward, terminated, truncated, info"""


def put(index: int, value: Any) -> Callable[[Given], Any]:
    return lambda given: tuple(value if place == index else item for place, item in enumerate(given))


def throw(error: BaseException) -> Callable[[Given], Any]:
    def fault(_: Given) -> Any:
        raise error

    return fault


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError


FAULTS: dict[str, tuple[Callable[[Given], Any], str]] = {
    "an exception": (throw(RuntimeError("out of\nfuel")), "RuntimeError: out of fuel"),
    "an exception that cannot be printed": (throw(UnprintableError()), "UnprintableError: <exception str() failed>"),
    "sys.exit": (lambda _: sys.exit(3), "SystemExit: 3"),
    "no observation": (put(0, None), "ValueError: its observation has the shape"),
    "an observation of another shape": (
        put(0, np.zeros(4, np.float32)),
        "ValueError: its observation has the shape (4,), not (3,)",
    ),
    "a ragged observation": (put(0, [[1.0], 2.0, 3.0]), "ValueError"),
    "an observation of words": (put(0, ["a", "b", "c"]), "TypeError: its observation is of <U1, not float32"),
    "a complex observation": (put(0, np.zeros(3, complex)), "TypeError: its observation is of complex128, not float32"),
    "no reward": (put(1, None), "TypeError: its reward is None, not a number"),
    "a reward in words": (put(1, "3"), "TypeError: its reward is '3', not a number"),
    "two rewards": (put(1, np.ones(2)), "TypeError: its reward is array([1., 1.]), not a number"),
    "a reward beyond all floats": (put(1, 10**400), "OverflowError"),
    "no end": (put(2, None), "TypeError: its terminated is None, not true or false"),
    "a vague end": (put(3, 0.5), "TypeError: its truncated is 0.5, not true or false"),
    "too little": (lambda given: tuple(given[:4]), "ValueError: not enough values to unpack"),
    "nothing": (lambda _: None, "TypeError: cannot unpack"),
}
"""What a step may do instead of what it should, and what is said of it."""


class Faulty(gymnasium.Env[Any, Any]):
    """Episodes of 6 steps with a reward of 1. Action 1 brings the fault about, action 0 never."""

    observation_space = gymnasium.spaces.Box(-9, 9, (3,))
    action_space = gymnasium.spaces.Discrete(2)
    living: ClassVar[list[Faulty]] = []
    """Made and not yet closed, in this process."""

    def __init__(self, fault: str | None = None) -> None:
        self.fault, self.steps, self.broken = fault, 0, False
        self.living.append(self)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if (self.broken and self.fault == "in reset") or self.fault == "from the start":
            raise RuntimeError("cannot start")
        self.steps = 0
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        return self.np_random.normal(size=3).astype(np.float32)

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.broken = self.broken or action == 1
        given = [self.observe(), 1.0, self.steps >= 6, False, {"own": object()}]
        if action == 1 and self.fault in FAULTS:
            return FAULTS[self.fault][0](given)
        if action == 1 and self.fault == "the process":
            os._exit(3)
        if action == 1 and self.fault == "Ctrl-C":
            raise KeyboardInterrupt
        if action == 1 and self.fault in ("nan", "inf", "1e300"):
            given[1] = float(self.fault)
        return tuple(given)

    def close(self) -> None:
        if self in self.living:
            self.living.remove(self)
        if self.fault == "in close":
            raise RuntimeError("cannot end")


class Fickle(Faulty):
    """The seed of an episode decides what happens: how long it is, or whether it never ends, or a fault in its third step."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed)
        self.fate = self.np_random.choice(["nan", "raises", "endless", "ends"])
        self.length = int(self.np_random.integers(1, 12)) if self.fate == "ends" else 10**6
        return observation, info

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == 3 and self.fate == "raises":
            raise RuntimeError(f"at {self.np_random.random()}")
        reward = np.nan if self.steps == 3 and self.fate == "nan" else float(self.np_random.normal()) + float(action)
        return self.observe(), reward, self.steps >= self.length, False, {}


class Idle(Faulty):
    """Costs 1 a step and ends at action 1 only: whoever idles is there for ever."""

    def step(self, action: Any) -> Any:
        return self.observe(), -1.0, bool(action == 1), False, {}


class Camera(gymnasium.Env[Any, Any]):
    """Shows an image whose pixels are the step modulo 256; action 1 gives it as other numbers than it should."""

    observation_space = gymnasium.spaces.Box(0, 255, (2, 2, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 254
        return np.full((2, 2, 3), 254, np.uint8), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.full((2, 2, 3), self.steps % 256, np.float64 if action == 1 else np.uint8), 0.0, False, False, {}


class Greedy(Faulty):
    """Writes into the action that it is given."""

    action_space = gymnasium.spaces.Box(-1, 1, (2,))  # type: ignore[assignment]

    def step(self, action: Any) -> Any:
        action[:] = 7
        return super().step(0)


for environment in (Faulty, Fickle, Idle, Camera, Greedy):
    gymnasium.register(f"{environment.__name__}-v0", entry_point=environment)
gymnasium.register("Limited-v0", entry_point=Idle, max_episode_steps=30)


def faulty(fault: str | None = None, kind: str = "Faulty-v0", **keys: Any) -> Gymnasium:
    return Gymnasium(kind, None, {} if fault is None else {"fault": fault}, **keys)
