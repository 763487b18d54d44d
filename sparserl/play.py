"""Watch or film a trained policy: ``python -m sparserl.play RUN``.

Unless a seed is given it plays the episodes that every run is evaluated on, from the first: what is seen is what
``return_mean`` is the mean of. ``--beside`` films the policy dense, sparse and at a rank, on the same episodes in one file.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain, zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from sparserl.environments.base import Environment
from sparserl.environments.gymnasium import spec_of
from sparserl.films import FORMATS, Picture, Show, captioned, film, side_by_side
from sparserl.loading import described, load_policy, policy_module
from sparserl.lowrank.truncation import is_positive, ranks, text_of
from sparserl.runs import checkpoint
from sparserl.runs.files import components, misfit, read_policy, read_record
from sparserl.runs.schema import Rank, Result
from sparserl.terminal import one_sentence, print_line
from sparserl.training import interrupts
from sparserl.training.evaluation import EVALUATION, EVALUATION_SEED, episode_generators
from sparserl.types import Spec

Rewards = list[float]


def main() -> None:
    """The console script. Errors of the user's end with one sentence."""
    interrupts.prepare()
    arguments = _arguments()
    run, trust, video = arguments.run, arguments.trust, arguments.video
    with ExitStack() as opened:
        with one_sentence(ValueError, FileNotFoundError, ModuleNotFoundError):
            read_policy(run)  # first: without a run, no other remedy helps
            _check(arguments)
            policies = load_policies(arguments)
            mode = "rgb_array" if video else "human"
            recipe = load_recipe(run, trust)
            envs = [opened.enter_context(closing(recipe.single(starts(arguments.seed), mode))) for _ in policies]
        returns: dict[str, list[float]] = {name: [] for name in policies}
        try:
            with film(video, envs[0].metadata.get("render_fps", 30)) as show:
                for episode in range(1, arguments.episodes + 1):
                    if arguments.beside:
                        rewards = play_beside(policies, envs, recipe.measures, show)
                    else:
                        rewards = {name: play(policy, envs[0], show) for name, policy in policies.items()}
                    for name, its in rewards.items():
                        returns[name].append(_told(episode, its, name))
        except KeyboardInterrupt:
            sys.exit(130)
    for name, its in returns.items():
        print_line(f"{_named(name)}mean of {len(its)}: {fmean(its):.1f}")
    if video:
        print_line(f"film: {video}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("sparserl-play", description="Watch or film a trained policy.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--dense", action="store_true", help="the raw weights of the last checkpoint instead of the hardened ones"
    )
    which.add_argument(
        "--beside",
        action="store_true",
        help="film the dense, the hardened and the truncated policy (at --rank K, or the selected rank) side by side",
    )
    parser.add_argument(
        "--rank",
        type=ranks,
        metavar="K[,K...]",
        help="the hardened policy with its layers truncated at this rank, or each at its own, a number or 'full'",
    )
    parser.add_argument(
        "--shrink", action="store_true", help="remove the units that do nothing first; with --beside, before truncating"
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
    if arguments.rank is not None and not is_positive(arguments.rank):
        raise ValueError(f"--rank is {text_of(arguments.rank)}; it must be 1 or more")
    for name, lowest in (("episodes", 1), ("seed", 0)):
        value = getattr(arguments, name)
        if value < lowest:
            raise ValueError(f"--{name} is {value}; it must be {lowest} or more")
    video = arguments.video
    if arguments.dense and (arguments.rank or arguments.shrink):
        raise ValueError(f"--dense is the policy as it was trained; leave out {'--rank' if arguments.rank else '--shrink'}")
    if video is None and arguments.beside:
        raise ValueError("--beside makes a film: add --video FILE.mp4")
    if video is None:
        if sys.platform == "linux" and not any(os.environ.get(k) for k in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")):
            raise ValueError("there is no display to show it on; film it with --video FILE.mp4")
        return
    if video.suffix not in FORMATS:
        raise ValueError(f"--video is {str(video)!r}; it must end with {' or '.join(FORMATS)}")
    if video.is_dir():
        raise ValueError(f"--video is {str(video)!r}, which is a folder; name a file")
    if not video.parent.is_dir():
        raise ValueError(f"--video is {str(video)!r}, but there is no folder {video.parent}")
    if any(importlib.util.find_spec(package) is None for package in ("imageio", FORMATS[video.suffix])):
        raise ModuleNotFoundError("--video needs a package that is not installed: pip install 'sparserl[video]'")
    if sys.platform == "linux":  # to draw without a display
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")


def load_policies(arguments: argparse.Namespace) -> dict[str, nn.Module]:
    """What is to be played: one policy, or with ``beside`` several, by the names that captions have.

    What hardening has left as it was is not among them twice.

    Raises ValueError and FileNotFoundError like ``load_policy`` and ``load_dense``, and ValueError where no rank was selected.
    """
    run, rank, shrink, trust = arguments.run, arguments.rank, arguments.shrink, arguments.trust
    if arguments.dense:
        return {"dense": load_dense(run, trust)}
    if not arguments.beside:
        return {"": load_policy(run, rank=rank, shrink=shrink, trust=trust)}
    if rank is None and (selected := selected_rank(run, shrink)) != "full":
        rank = selected
    cut = f"rank {'full' if rank is None else text_of(rank)}{', shrunken' if shrink else ''}"
    dense, sparse = load_dense(run, trust), load_policy(run, trust=trust)
    both = {"dense": dense} if _same(dense, sparse) else {"dense": dense, "sparse": sparse}
    return both | {cut: load_policy(run, rank=rank, shrink=shrink, trust=trust)}


def _same(policy: nn.Module, other: nn.Module) -> bool:
    """Whether two policies of one network have the same weights, as those of a run without a regulariser."""
    pairs = zip(policy.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def selected_rank(folder: Path, shrink: bool) -> Rank:
    """The rank that a run's sweep has selected, or with ``shrink`` that of the policy without the units that do nothing.

    Raises ValueError where there is none, and FileNotFoundError without a result.
    """
    result = read_record(Result, folder / "result.json")
    rank = result.shrunken_rank if shrink else result.rank
    if rank is None:
        why = "its ranks were not evaluated" if result.rank_reason == "not_swept" else "it is no better than a random policy"
        raise ValueError(f"no rank was selected for {folder}, since {why}; name one: --rank K")
    return rank


def load_dense(folder: Path, trust: bool = False) -> nn.Module:
    """The policy of a run as it was trained, at the last checkpoint: its weights before hardening, called like load_policy's.

    Raises FileNotFoundError where there is none, and ValueError where a file is damaged or, unless it is trusted, names what
    is not sparserl's.
    """
    path, description, tensors = read_policy(folder)
    weights = checkpoint.raw_weights(folder)
    if weights is None:
        raise FileNotFoundError(f"{folder} has no checkpoint any more, so the weights before hardening are gone")
    needed = components(tensors)
    deployed = {component: layers for component, layers in weights.items() if component in needed}
    if fault := misfit(deployed, needed):
        raise ValueError(f"{folder} has a checkpoint that is none of its policy: its {fault}")
    return policy_module(path, description, deployed, trust).eval()


def load_recipe(folder: Path, trust: bool = False) -> Environment:
    """The environment that a run was trained in.

    Raises FileNotFoundError without a policy, and ValueError where the file is damaged or, unless it is trusted, names what is
    not sparserl's.
    """
    path, description, _ = read_policy(folder)
    environment: Environment = described(description.get("config"), "environment", Environment, path, trust)
    return environment


def starts(seed: int) -> Iterator[torch.Generator]:
    """What episodes draw from, one after the other: with the seed of the evaluation, they are the evaluation's."""
    return episode_generators(EVALUATION, seed)


def play(policy: nn.Module, env: gymnasium.Env[Any, Any], show: Show) -> Rewards:
    """Play one episode greedily and ``show`` what is seen before each step and at the end; the reward of each step."""
    episode = _steps(policy, env)
    rewards, _ = next(episode)  # the same list until the end
    for _ in chain([None], episode):
        if env.render_mode == "rgb_array":  # a window shows itself
            show(_picture(env))
    return rewards


def play_beside(
    policies: Mapping[str, nn.Module], envs: Sequence[gymnasium.Env[Any, Any]], measures: Sequence[str], show: Show
) -> dict[str, Rewards]:
    """Play one episode of each policy, each in an environment of its own, and ``show`` them side by side under captions.

    A caption has the policy's name, its return and steps so far, and of the environment's ``measures`` those that ``info`` has
    by their names. What has ended stands still until all have. Returns the reward of each step by the policy's name.
    """
    panels: list[tuple[Picture, Rewards]] = []
    episodes = [_panels(name, policy, env, measures) for (name, policy), env in zip(policies.items(), envs, strict=True)]
    for following in zip_longest(*episodes):
        panels = [panel or panels[index] for index, panel in enumerate(following)]
        show(side_by_side([picture for picture, _ in panels]))
    return {name: rewards for name, (_, rewards) in zip(policies, panels, strict=True)}


def _panels(
    name: str, policy: nn.Module, env: gymnasium.Env[Any, Any], measures: Sequence[str]
) -> Iterator[tuple[Picture, Rewards]]:
    """The part of a film that shows one policy."""
    for rewards, info in _steps(policy, env):
        numbers = f"return {sum(rewards):.1f}", f"step {len(rewards)}"
        measured = (f"{measure} {info[measure]:g}" for measure in measures if measure in info)
        yield captioned(_picture(env), [name, "   ".join([*numbers, *measured])]), rewards


@torch.no_grad()
def _steps(policy: nn.Module, env: gymnasium.Env[Any, Any]) -> Iterator[tuple[Rewards, dict[str, Any]]]:
    """Play one episode greedily: the rewards so far and the last ``info``, before each step and at the end."""
    rewards: Rewards = []
    observation, info = env.reset()
    ended, spec = False, spec_of(env, "the environment")
    yield rewards, info
    while not ended:
        seen = torch.from_numpy(np.array(observation)).to(spec.observation_dtype)  # as members see it
        action, broken = _action(spec, policy(seen.unsqueeze(0)))
        observation, reward, terminated, truncated, info = env.step(action)
        rewards.append(math.nan if broken else float(reward))
        ended = bool(terminated or truncated)
        yield rewards, info


def _action(spec: Spec, output: Tensor) -> tuple[Any, bool]:
    """What a policy's output ``[1, number]`` says to do, as in an evaluation, and whether it was a nan."""
    if spec.discrete_actions is not None:
        return int(output.argmax()), False
    taken, broken = spec.clip_action(output.unsqueeze(0))
    return taken[0, 0].numpy(), bool(broken)


def _picture(env: gymnasium.Env[Any, Any]) -> Picture:
    return np.asarray(env.render())


def _told(episode: int, rewards: Rewards, name: str) -> float:
    print_line(f"{_named(name)}episode {episode}: return {sum(rewards):.1f}, steps {len(rewards)}")
    return sum(rewards)


def _named(policy: str) -> str:
    return f"{policy}: " if policy else ""


if __name__ == "__main__":
    main()
