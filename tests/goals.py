"""Goal environments whose numbers can be worked out by hand."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sparserl.environments.gymnasium import Gymnasium

LENGTH = 8
"""Steps of an episode that does not end before."""


class Line(gymnasium.Env[Any, Any]):
    """A point on a line, moved by 1 to the left or to the right, that is to be within 0.5 of a goal. -1 a step until it is.

    The achieved goal is (position, 10), the desired one (goal, 10). Action 2 brings a fault about.
    """

    observation_space = spaces.Dict(
        {
            "observation": spaces.Dict({"moved": spaces.Discrete(2), "at": spaces.Box(-99, 99, (1,))}),
            "achieved_goal": spaces.Box(-99, 99, (2,)),
            "desired_goal": spaces.Box(-99, 99, (2,)),
        }
    )
    action_space = spaces.Discrete(3)

    def __init__(self, success: str | None = "is_success") -> None:
        self.success = success

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.goal, self.moved, self.steps = 0.0, float(self.np_random.choice([-2, 1, 3])), 0, 0
        return self.observe(), {}

    def observe(self) -> dict[str, Any]:
        return {
            "observation": {"moved": self.moved, "at": np.array([self.at], np.float32)},
            "achieved_goal": np.array([self.at, 10]),
            "desired_goal": np.array([self.goal, 10]),
        }

    def step(self, action: Any) -> Any:
        if action == 2:
            raise RuntimeError("fell off the line")
        self.steps += 1
        self.at, self.moved = self.at + (1 if action == 1 else -1), 1 - self.moved
        observation = self.observe()
        goals = observation["achieved_goal"], observation["desired_goal"]
        reached = bool(np.abs(goals[0] - goals[1]).max() < 0.5)
        info = {} if self.success is None else {self.success: np.float32(reached)}
        terminated = bool(self.compute_terminated(*goals, {}))
        return observation, float(self.compute_reward(*goals, {})), terminated, self.steps == LENGTH, info

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return (np.abs(achieved_goal - desired_goal).max(axis=-1) < 0.5) - 1.0

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return False


class EndingLine(Line):
    """Ends at the goal, and computes one reward at a time only: of several it would give one, and a wrong one.

    Nothing brings a fault about.
    """

    action_space = spaces.Discrete(2)

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> float:
        return 0.0 if np.linalg.norm(achieved_goal - desired_goal) < 0.5 else -1.0

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> bool:
        return bool(np.linalg.norm(achieved_goal - desired_goal) < 0.5)


class ScalarLine(EndingLine):
    """Raises where it is asked for several rewards."""

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> float:
        return 0.0 if abs(achieved_goal[0] - desired_goal[0]) < 0.5 and len(achieved_goal) == 2 else -1.0


class BitFlip(gymnasium.Env[Any, Any]):
    """Flip one of n bits a step until they are as the goal's (Andrychowicz et al. 2017, section 3.1). -1 a step until then."""

    def __init__(self, bits: int) -> None:
        bit = spaces.Box(0, 1, (bits,))
        self.observation_space = spaces.Dict({"observation": bit, "achieved_goal": bit, "desired_goal": bit})
        self.action_space = spaces.Discrete(bits)
        self.bits = bits

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.goal = self.np_random.integers(0, 2, (2, self.bits)).astype(np.float32)
        self.steps = 0
        return self.observe(), {}

    def observe(self) -> dict[str, Any]:
        return {"observation": self.state.copy(), "achieved_goal": self.state.copy(), "desired_goal": self.goal.copy()}

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.state[action] = 1 - self.state[action]
        reached = bool((self.state == self.goal).all())
        return self.observe(), float(reached) - 1, reached, self.steps == self.bits, {"is_success": reached}

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return (achieved_goal == desired_goal).all(axis=-1) - 1.0

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return (achieved_goal == desired_goal).all(axis=-1)


for environment in (Line, EndingLine, ScalarLine, BitFlip):
    gymnasium.register(f"{environment.__name__}-v0", entry_point=environment, disable_env_checker=True)


def goals(kind: str = "Line-v0", arguments: dict[str, Any] | None = None, **keys: Any) -> Gymnasium:
    return Gymnasium(kind, None, arguments or {}, **keys)
