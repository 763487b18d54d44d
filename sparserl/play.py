"""Watch or film a trained policy: ``python -m sparserl.play RUN``.

Unless a seed is given it plays the episodes that every run is evaluated on, from the first: what is seen is what
``return_mean`` is the mean of.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from sparserl.environments.base import Environment
from sparserl.environments.gymnasium import spec_of
from sparserl.loading import described, load_policy, policy_module
from sparserl.runs import checkpoint
from sparserl.runs.files import components, read_policy
from sparserl.terminal import print_line
from sparserl.training import interrupts
from sparserl.training.evaluation import EVALUATION, EVALUATION_SEED, episode_generators
from sparserl.types import Spec

FILMS = {".mp4": "imageio_ffmpeg", ".gif": "imageio"}
"""The endings that a film may have, and the package that writes each."""

Show = Callable[[np.ndarray], None]


def main() -> None:
    """The console script. Errors of the user's end with one sentence."""
    interrupts.prepare()
    arguments = _arguments()
    try:
        _check(arguments)
        run, trust = arguments.run, arguments.trust
        policy = load_dense(run, trust) if arguments.dense else load_policy(run, rank=arguments.rank, trust=trust)
        env = load_environment(run, arguments.seed, "rgb_array" if arguments.video else "human", trust)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        sys.exit(f"sparserl: {' '.join(str(error).split())}")
    try:
        with _film(arguments.video, env) as show:
            returns = [_told(episode, play(policy, env, show)) for episode in range(1, arguments.episodes + 1)]
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        env.close()
    print_line(f"mean of {len(returns)}: {fmean(returns):.1f}")
    if arguments.video:
        print_line(f"film: {arguments.video}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("sparserl-play", description="Watch or film a trained policy.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--rank", type=int, metavar="K", help="the hardened policy with its layers truncated at this rank")
    which.add_argument(
        "--dense", action="store_true", help="the raw weights of the last checkpoint instead of the hardened ones"
    )
    parser.add_argument("--episodes", type=int, default=1, metavar="N", help="how many episodes (1)")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED, metavar="S", help="of the episodes (the evaluation's)")
    parser.add_argument("--video", type=Path, metavar="FILE", help="film into this .mp4 or .gif instead of showing")
    parser.add_argument(
        "--trust", action="store_true", help="build what is not sparserl's too, which runs the code of whoever wrote it"
    )
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> None:
    """Raises ValueError or ModuleNotFoundError, before anything is loaded, where a film or a window cannot be."""
    for name, lowest in (("rank", 1), ("episodes", 1), ("seed", 0)):
        value = getattr(arguments, name)
        if value is not None and value < lowest:
            raise ValueError(f"--{name} is {value}; it must be {lowest} or more")
    video = arguments.video
    if video is None:
        if sys.platform == "linux" and not any(os.environ.get(k) for k in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")):
            raise ValueError("there is no display to show it on; film it with --video FILE.mp4")
        return
    if video.suffix not in FILMS:
        raise ValueError(f"--video is {str(video)!r}; it must end with {' or '.join(FILMS)}")
    if not video.parent.is_dir():
        raise ValueError(f"--video is {str(video)!r}, but there is no folder {video.parent}")
    if any(importlib.util.find_spec(package) is None for package in ("imageio", FILMS[video.suffix])):
        raise ModuleNotFoundError("--video needs a package that is not installed: pip install 'sparserl[video]'")
    if sys.platform == "linux":  # to draw where nobody looks
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")


def load_dense(folder: Path, trust: bool = False) -> nn.Module:
    """The policy of a run as it was trained, at the last checkpoint: its weights before hardening, called like load_policy's.

    Raises FileNotFoundError where there is none, and ValueError where a file is damaged or, unless it is trusted, names what
    is not sparserl's.
    """
    path, description, tensors = read_policy(folder)
    weights = checkpoint.raw_weights(folder)
    if weights is None:
        raise FileNotFoundError(f"{folder} has no checkpoint any more, so the weights before hardening are gone")
    deployed = {component: weights[component] for component in components(tensors)}
    return policy_module(path, description, deployed, trust).eval()


def load_environment(folder: Path, seed: int, render_mode: str, trust: bool = False) -> gymnasium.Env[Any, Any]:
    """The environment that a run was trained in. With the seed of the evaluation, its resets begin the evaluation's episodes.

    Raises FileNotFoundError without a policy, ModuleNotFoundError without a package that the environment needs, and
    ValueError where the file is damaged, has an environment with nothing to show or, unless it is trusted, names what is not
    sparserl's.
    """
    path, description, _ = read_policy(folder)
    environment: Environment = described(description.get("config"), "environment", Environment, path, trust)
    return environment.single(episode_generators(EVALUATION, seed), render_mode)


@torch.no_grad()
def play(policy: nn.Module, env: gymnasium.Env[Any, Any], show: Show) -> list[float]:
    """Play one episode greedily and ``show`` what is seen before each step and at the end; the reward of each step."""
    rewards: list[float] = []
    observation, _ = env.reset()
    ended, spec = False, spec_of(env, "the environment")
    _show(env, show)
    while not ended:
        seen = torch.from_numpy(np.array(observation)).to(spec.observation_dtype)  # as members see it
        action, broken = _action(spec, policy(seen.unsqueeze(0)))
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(math.nan if broken else float(reward))
        ended = bool(terminated or truncated)
        _show(env, show)
    return rewards


def _action(spec: Spec, output: Tensor) -> tuple[Any, bool]:
    """What a policy's output ``[1, number]`` says to do, as in an evaluation, and whether it was a nan."""
    if spec.discrete_actions is not None:
        return int(output.argmax()), False
    taken, broken = spec.clip_action(output.unsqueeze(0))
    return taken[0, 0].numpy(), bool(broken)


def _show(env: gymnasium.Env[Any, Any], show: Show) -> None:
    if env.render_mode == "rgb_array":  # a window shows itself
        show(np.asarray(env.render()))


def _told(episode: int, rewards: list[float]) -> float:
    print_line(f"episode {episode}: return {sum(rewards):.1f}, steps {len(rewards)}")
    return sum(rewards)


@contextmanager
def _film(path: Path | None, env: gymnasium.Env[Any, Any]) -> Iterator[Show]:
    """What takes the frames of all episodes and, without a film, drops them."""
    if path is None:
        yield lambda _: None
        return
    import imageio.v2 as imageio  # an extra

    rate = env.metadata.get("render_fps", 30)
    # even sides are all that the codec of mp4 asks for
    how: dict[str, Any] = (
        {"duration": 1000 / rate, "loop": 0} if path.suffix == ".gif" else {"fps": rate, "macro_block_size": 2}
    )
    with closing(imageio.get_writer(path, **how)) as writer:
        yield writer.append_data


if __name__ == "__main__":
    main()
