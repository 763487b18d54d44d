"""Tasks of a surgical robot: SurRoL (Xu et al. 2021, https://github.com/med-air/SurRoL), from a clone of the user's.

SurRoL is on no package index and nothing of it is here: the user clones it and says where. Its tasks are goal environments:
the reward of a step is 0 where the achieved goal is near the desired one and -1 elsewhere. See surrol_shims.py for what makes
it run on current packages.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit

from sparserl.environments.base import BrokenEnvironmentError
from sparserl.environments.gymnasium import GymnasiumEnvironment
from sparserl.environments.observations import ACHIEVED, DESIRED, OBSERVATION
from sparserl.environments.surrol_shims import CAMERA_VELOCITY, Clone, load
from sparserl.fields import Count, located
from sparserl.terminal import describe

COMMIT = "a903fa6de40b41e1cad12ddd2d4a6758ec78e817"
"""The commit whose code is run: the last one of this layout."""

FOLDER = "SURROL_PATH"
"""The environment variable that names the clone where the config does not."""

CLONING = f"git clone https://github.com/med-air/SurRoL && git -C SurRoL checkout {COMMIT} && export {FOLDER}=$PWD/SurRoL"

NEEDED = {"pybullet": "pybullet", "cv2": "opencv-python-headless"}
"""The modules that SurRoL imports and sparserl does not, and the packages that they are in."""

PYTHON = (3, 11)
"""The newest Python that pybullet has wheels for."""


@dataclass(frozen=True, kw_only=True)
class SurRoL(GymnasiumEnvironment):
    """One task of SurRoL's, by the name of its class. ``path`` is the clone; None is what SURROL_PATH names.

    Keys (``make docs`` copies them from ``conf/environment/surrol.yaml``):
        task (text): Its class in SurRoL: NeedleReach, GauzeRetrieve, NeedlePick, PegTransfer, NeedleRegrasp, BiPegTransfer,
            ECMReach or MisOrient.
        path (text or ``null``): The folder of the clone, whose code is run; null is the one that the environment variable
            SURROL_PATH names.
        max_episode_steps (integer, at least 1 or ``null``): Steps after which an episode is truncated; null is SurRoL's own
            limit of 50.
        vectorization (``sync``, ``processes``): How sub-environments take a step: sync (one after the other) or processes (one
            for each sub-environment, which is faster where cores are idle). The results are the same.
        at_once (integer, at least 1 or ``null``): How many sub-environments an evaluation may keep open at once; null opens one
            for each episode of each member.
    """

    task: str
    path: str | None = located(FOLDER)
    vectorization: Literal["sync", "processes"] = "sync"  # not threads: see surrol_shims.py
    at_once: Count | None = 20

    @property
    def name(self) -> str:
        return f"SurRoL's {self.task}"

    def make(self, render_mode: str | None = None) -> tuple[gymnasium.Env[Any, Any], int | None]:
        if render_mode == "human":
            raise ValueError(f"{self.name} has no window; film it: --video FILE")
        folder = clone_folder(self.path)
        check_packages()
        try:
            clone = load(folder)
        except Exception as error:
            raise BrokenEnvironmentError(f"the clone of SurRoL in {folder} cannot be imported: {describe(error)}") from error
        if self.task not in clone.tasks:
            raise ValueError(f"environment.task is {self.task!r}; SurRoL has {', '.join(sorted(clone.tasks)) or 'nothing'}")
        own = clone.tasks[self.task][1]
        try:
            env = SurgicalTask(clone, self.task, render_mode)
        except Exception as error:
            raise BrokenEnvironmentError(f"{self.name} cannot be made: {describe(error)}") from error
        return TimeLimit(env, self.max_episode_steps or own), own


class SurgicalTask(gymnasium.Env[Any, Any]):
    """One task of a clone's as a goal environment of Gymnasium's, in a simulation and with a generator of its own.

    It never terminates; a step limit is up to a wrapper. What an episode is depends on its seed only: of what an episode leaves
    behind, SurRoL's reset forgets all but which arm has gripped something, which is forgotten here.
    """

    def __init__(self, clone: Clone, task: str, render_mode: str | None = None) -> None:
        """Raises ValueError where the task is no goal environment, or steers a camera by its velocity."""
        self.render_mode = render_mode
        # of an action's time in the simulation: 0.1 s with the endoscope, 0.2 s with the others; films are played at this speed
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
        self.spec = EnvSpec(f"{task}-v0", lambda **keys: SurgicalTask(clone, task, **keys), disable_env_checker=True)
        self._clone, self._client, self._random = clone, clone.connect(), _generator(0)
        # also of one that was never closed: pybullet keeps simulations until then, and holds 1,024 at most
        self._disconnect = weakref.finalize(self, clone.disconnect, self._client)
        try:
            with clone.bound(self._client, self._random):
                self._task = clone.tasks[task][0]()
        except BaseException:
            self.close()
            raise
        if getattr(self._task, "ACTION_MODE", None) == "cVc":
            self.close()
            raise ValueError(CAMERA_VELOCITY)
        shapes = {key: self._task.observation_space[key].shape for key in (OBSERVATION, ACHIEVED, DESIRED)}
        self.observation_space = spaces.Dict(
            [(key, spaces.Box(-np.inf, np.inf, shape, np.float64)) for key, shape in shapes.items()]
        )
        self.action_space = self._task.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self._random = _generator(int(self.np_random.integers(2**32)))
        with self._clone.bound(self._client, self._random):
            self._task._activated = -1  # noqa: SLF001 (no arm has gripped anything)
            return self._task.reset(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        with self._clone.bound(self._client, self._random):
            observation, reward, _, info = self._task.step(action)
        return observation, float(reward), False, False, {"is_success": bool(info["is_success"])}

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> Any:
        """0 where the achieved goal ``[..., goal]`` is near the desired one, -1 elsewhere."""
        return self._task.compute_reward(achieved_goal, desired_goal, info)

    def render(self) -> Any:
        with self._clone.bound(self._client, self._random):
            return self._task.render("rgb_array")

    def close(self) -> None:
        self._disconnect()


def _generator(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed)


# ---------------------------------------------------------------- what the user has to install


def check_packages() -> None:
    """Raises ModuleNotFoundError, in a sentence with the command, where a package is missing that SurRoL needs."""
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return
    if "pybullet" in missing and sys.version_info[:2] > PYTHON:
        newest, this = (".".join(map(str, version)) for version in (PYTHON, sys.version_info[:2]))
        raise ModuleNotFoundError(
            f"SurRoL needs pybullet, which has wheels for Python {newest} at most, and this is Python {this}: "
            f"python{newest} -m venv .venv && .venv/bin/pip install 'sparserl[surrol]'"
        )
    raise ModuleNotFoundError(f"SurRoL needs {' and '.join(missing)}: pip install 'sparserl[surrol]'")


def clone_folder(path: str | None) -> Path:
    """The folder of the clone that ``path``, or else SURROL_PATH, names.

    Raises ModuleNotFoundError where neither names one, and ValueError where it is no clone or at another commit; files that
    were changed since are not noticed.
    """
    given = path or os.environ.get(FOLDER)
    if not given:
        raise ModuleNotFoundError(f"neither environment.path nor {FOLDER} names a clone of SurRoL: {CLONING}")
    key = f"environment.path, or {FOLDER} where that is null,"
    folder = Path(given).expanduser().resolve()
    if not (folder / "surrol").is_dir():
        raise ValueError(f"{key} is {given!r}, where there is no clone of SurRoL: {CLONING}")
    commit = _commit(folder)
    if commit != COMMIT:
        raise ValueError(f"{key} is {given!r}, a clone of SurRoL at {commit or 'no commit'}: git -C {given} checkout {COMMIT}")
    return folder


def _commit(folder: Path) -> str | None:
    """The commit that is checked out in ``folder``, read from files: git would run what a stranger's clone is configured to."""
    with suppress(OSError, UnicodeDecodeError):
        git = folder / ".git"
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        branch = head.removeprefix("ref: ")
        with suppress(OSError):
            return (git / branch).read_text().strip()
        for line in (git / "packed-refs").read_text().splitlines():
            commit, _, name = line.partition(" ")
            if name == branch:
                return commit
    return None
