from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparserl import films, load_policy, play
from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.environments.base import Environment
from sparserl.environments.cartpole import CartPole
from sparserl.environments.gymnasium import Gymnasium
from sparserl.runs import checkpoint
from sparserl.runs.files import POLICY_METADATA, read_policy
from sparserl.sweeps.loop import run
from sparserl.training.evaluation import EVALUATION, Evaluator, episode_generators

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse run of a few hundred steps."""
    folder = tmp_path_factory.mktemp("run")
    closing = "regularizer.delay_steps=0", "regularizer.ramp_steps=0", "regularizer.initial_open=0.2", "regularizer.lambda_c=1"
    run(
        [compose("trainer=smoke", *closing, "regularizer.gate_learning_rate=0.06", "trainer.eval_episodes=5")],
        [folder],
    )
    return folder


@pytest.fixture(autouse=True)
def _headless(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["sparserl-play", *map(str, arguments)])
    play.main()


def alone(folder: Path, seed: int) -> Any:
    return play.load_recipe(folder).single(play.starts(seed), "rgb_array")


def told(capsys: pytest.CaptureFixture[str]) -> tuple[list[float], list[int], float]:
    """The returns and steps of the episodes that were printed, and their mean."""
    lines = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()]
    episodes = [line for line in lines if line[0] == "episode"]
    (mean,) = [float(line[-1]) for line in lines if line[0] == "mean"]
    return [float(line[3]) for line in episodes], [int(line[5]) for line in episodes], mean


def evaluated(folder: Path, policy: nn.Module, episodes: int) -> list[float]:
    """The returns of the evaluation's episodes."""
    _, parts = build([json.loads((folder / "config.json").read_text())])
    evaluator = Evaluator(parts.environment, 1, episodes, CPU)
    returns = evaluator(lambda seen, _: policy(seen.flatten(0, 1)).argmax(dim=-1).view(seen.shape[:2])).returns[0].tolist()
    evaluator.close()
    return returns


# ---------------------------------------------------------------- one environment, as members meet it

PUSH: dict[str, tuple[Environment, Callable[[Tensor], Tensor]]] = {
    "CartPole": (CartPole(60), lambda seen: (seen[..., 2] + seen[..., 3] > 0).long()),
    "Acrobot-v1": (Gymnasium("Acrobot-v1", None, {}, max_episode_steps=30), lambda seen: (seen[..., 4] > 0).long() * 2),
    "Pendulum-v1": (Gymnasium("Pendulum-v1", None, {}, max_episode_steps=30), lambda seen: seen[..., 2:].clamp(-2, 2)),
}


@pytest.mark.parametrize("name", PUSH)
def test_its_episodes_are_those_of_the_evaluation(name: str) -> None:
    """The first three, seen from the first observation to the last, step for step."""
    environment, act = PUSH[name]
    shown: list[Tensor] = []
    with closing(Evaluator(environment, 1, 3, CPU)) as evaluator:
        returns = evaluator(lambda seen, _: act(shown.append(seen.clone()) or seen)).returns[0]  # type: ignore[func-returns-value]
    env = environment.single(episode_generators(EVALUATION), "rgb_array")
    for episode in range(3):
        observation, total, ended, step = env.reset()[0], 0.0, False, 0
        assert np.array_equal(observation, shown[0][0, episode])
        while not ended:
            # the vectorised equations may round otherwise in the last bits
            np.testing.assert_allclose(observation, shown[step][0, episode], rtol=1e-4, atol=1e-5)
            action = act(shown[step])[0, episode]
            observation, reward, terminated, truncated, _ = env.step(action.numpy() if action.dim() else int(action))
            total, ended, step = total + float(reward), terminated or truncated, step + 1
        assert step >= 10, "too short to compare"
        assert total == pytest.approx(float(returns[episode]), rel=1e-4)
    env.close()


def test_the_limit_of_steps_is_that_of_the_config() -> None:
    env = CartPole(5).single(episode_generators(EVALUATION), "rgb_array")
    env.reset()
    ended = [env.step(step % 2)[3] for step in range(5)]
    env.close()
    assert ended == [False] * 4 + [True]


# ---------------------------------------------------------------- films


def test_a_film_shows_the_start_and_what_followed_each_step(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "film.mp4"
    command(monkeypatch, trained, "--episodes", "2", "--video", film)
    returns, steps, mean = told(capsys)
    assert returns == [float(count) for count in steps]  # CartPole gives 1 a step
    assert mean == pytest.approx(sum(returns) / 2, abs=0.05)
    frames = imageio.mimread(film)
    assert len(frames) == sum(count + 1 for count in steps)
    assert frames[0].shape[:2] == (400, 600)
    assert (frames[0] != frames[-1]).any()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_environments_are_closed_whatever_ends_a_film(
    error: type[BaseException] | None, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each policy beside the others; an error comes when all of them play."""
    living: list[CartPoleEnv] = []
    begin, step, close = CartPoleEnv.__init__, CartPoleEnv.step, CartPoleEnv.close

    def begun(env: CartPoleEnv, *arguments: Any, **keys: Any) -> None:
        begin(env, *arguments, **keys)
        living.append(env)

    def stepped(env: CartPoleEnv, action: int) -> Any:
        assert len(living) == 3
        if error is not None and env is living[-1]:
            raise error
        return step(env, action)

    def closed(env: CartPoleEnv) -> None:
        close(env)
        living.remove(env)

    for name, function in (("__init__", begun), ("step", stepped), ("close", closed)):
        monkeypatch.setattr(CartPoleEnv, name, function)
    film = "--beside", "--rank", "1", "--video", tmp_path / "film.gif"
    if error is None:
        command(monkeypatch, trained, *film)
    else:
        with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
            command(monkeypatch, trained, *film)
    assert not living


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_film_is_whole_when_it_ends_whatever_ends_it(
    error: type[BaseException] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder has the last pictures until it is closed."""
    happened: list[str] = []
    writer = SimpleNamespace(append_data=lambda _: happened.append("picture"), close=lambda: happened.append("closed"))
    monkeypatch.setattr(imageio, "get_writer", lambda *_, **__: writer)
    with nullcontext() if error is None else pytest.raises(error), films.film(tmp_path / "film.gif", 30) as show:
        show(np.zeros((2, 2, 3), np.uint8))
        if error is not None:
            raise error
    assert happened == ["picture", "closed"]


def test_a_gif_lasts_as_long_as_its_episode(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Frames that look the same are stored as one that lasts longer."""
    film = tmp_path / "film.gif"
    command(monkeypatch, trained, "--video", film)
    _, (steps,), _ = told(capsys)
    with imageio.get_reader(film) as reader:
        milliseconds = sum(reader.get_meta_data(index)["duration"] for index in range(reader.get_length()))
    assert milliseconds == 20 * (steps + 1)  # 50 frames a second


def test_it_plays_the_episodes_of_the_evaluation(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, trained, "--episodes", "5", "--video", tmp_path / "film.mp4")
    returns, _, mean = told(capsys)
    assert returns == evaluated(trained, load_policy(trained), 5)
    assert mean == pytest.approx(json.loads((trained / "result.json").read_text())["return_mean"], abs=0.05)
    assert len(set(returns)) > 1, "and they differ"


def test_another_seed_plays_other_episodes(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = [alone(trained, seed).reset()[0].tolist() for seed in (0, 1, 1)]
    assert starts[0] != starts[1] == starts[2]


def test_the_actions_are_those_of_the_policy(trained: Path) -> None:
    policy, seen, taken = load_policy(trained), [], []
    env = alone(trained, 7)
    step = env.step

    def watched(action: Any) -> Any:
        taken.append(action)
        following = step(action)
        seen.append(following[0])
        return following

    env.step = watched  # type: ignore[method-assign]
    play.play(policy, env, lambda _: None)
    env.close()
    first = alone(trained, 7).reset()[0]
    assert taken == policy(torch.tensor(np.array([first, *seen[:-1]]))).argmax(dim=1).tolist()


# ---------------------------------------------------------------- which policy


def test_dense_is_the_policy_before_hardening(trained: Path) -> None:
    states = checkpoint.load([trained])
    assert states is not None
    raw = states[0]["trainer"]["learner"]["weights"]["policy"]
    dense = [part for part in play.load_dense(trained).modules() if isinstance(part, nn.Linear)]
    for index, part in enumerate(dense):
        assert torch.equal(part.weight.T, raw[f"{index}.weight"])
    assert all((part.weight != 0).all() for part in dense)
    hardened = load_file(trained / "policy.safetensors")
    assert (hardened["policy/1.weight"] == 0).any(), "the same policy hardened is sparse, or this test shows nothing"


@pytest.mark.parametrize("arguments", [(), ("--rank", "3"), ("--rank", "3", "--shrink"), ("--dense",)])
def test_the_policy_that_was_asked_for_is_played(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    asked = []
    monkeypatch.setattr(play, "load_policy", lambda folder, rank, shrink, trust: asked.append((rank, shrink)) or nn.Identity())
    monkeypatch.setattr(play, "load_dense", lambda folder, trust: asked.append("dense") or nn.Identity())
    monkeypatch.setattr(play, "play", lambda *_: [1.0])
    monkeypatch.setattr(play, "_check", lambda _: None)
    command(monkeypatch, trained, *arguments, "--video", tmp_path / "film.gif")
    assert asked == ["dense" if "--dense" in arguments else (3 if "--rank" in arguments else None, "--shrink" in arguments)]


def test_a_rank_above_every_break_even_plays_as_the_whole_policy(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its matrices are whole, or factors at their own rank."""
    command(monkeypatch, trained, "--rank", "1000", "--episodes", "3", "--video", tmp_path / "film.mp4")
    assert told(capsys)[0] == evaluated(trained, load_policy(trained), 3)


def test_a_policy_without_a_checkpoint_has_no_dense_one(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policy.safetensors").write_bytes((trained / "policy.safetensors").read_bytes())
    with pytest.raises(SystemExit, match="no checkpoint any more"):
        command(monkeypatch, tmp_path, "--dense", "--video", tmp_path / "film.mp4")


# ---------------------------------------------------------------- side by side


@pytest.mark.parametrize(("arguments", "cut"), [((), "rank 2"), (("--rank", "3", "--shrink"), "rank 3, shrunken")])
def test_beside_films_dense_sparse_and_truncated_on_the_same_episodes(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    cut: str,
) -> None:
    """Each plays as it does alone; the film is as long as the longest of each episode, and three pictures wide."""
    film, episodes = tmp_path / "film.mp4", 1 if arguments else 2
    monkeypatch.setattr(play, "selected_rank", lambda *_: 2)
    command(monkeypatch, trained, "--beside", "--episodes", str(episodes), "--video", film, *arguments)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rank = 3 if arguments else 2
    policies = {
        "dense": play.load_dense(trained),
        "sparse": load_policy(trained),
        cut: load_policy(trained, rank=rank, shrink=bool(arguments)),
    }
    expected = {name: evaluated(trained, policy, episodes) for name, policy in policies.items()}
    for name, returns in expected.items():
        its = [line for line in lines if " ".join(line).startswith(f"{name}: episode")]
        assert [float(line[line.index("return") + 1].rstrip(",")) for line in its] == returns
    frames = imageio.mimread(film, memtest=False)
    assert len(frames) == sum(int(max(steps)) + 1 for steps in zip(*expected.values(), strict=True))
    assert frames[0].shape[:2] == (400 + 2 * films.LINE + films.MARGIN, 3 * 600 + 2 * films.GAP)


def test_a_policy_that_hardening_leaves_as_it_was_is_beside_its_truncated_one_once(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run([compose("trainer=smoke", "regularizer=none", "network.hidden=[8]", "lowrank.ranks=[]")], [tmp_path])
    names = []
    for folder in (tmp_path, trained):
        monkeypatch.setattr(sys, "argv", ["sparserl-play", str(folder), "--beside", "--rank", "2", "--video", "film.gif"])
        names.append([*play.load_policies(play._arguments())])
    assert names == [["dense", "rank 2"], ["dense", "sparse", "rank 2"]]


def test_what_has_ended_stands_still_until_all_have() -> None:
    """One policy pushes to the left only, and falls first; captions count its steps no further."""

    class Constant(nn.Module):
        def forward(self, seen: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0]])

    shown: list[np.ndarray] = []
    environment, balancing = PUSH["CartPole"]
    envs = [environment.single(episode_generators(EVALUATION), "rgb_array") for _ in range(2)]
    policies = {"falls": Constant(), "stands": Balancing(balancing)}
    rewards = play.play_beside(policies, envs, (), shown.append)
    for env in envs:
        env.close()
    short, long = (len(its) for its in rewards.values())
    assert short < long == len(shown) - 1
    left = [picture[:, :600] for picture in shown]
    assert all(np.array_equal(picture, left[short]) for picture in left[short:])
    assert all((before != after).any() for before, after in pairwise(left[: short + 1])), "its steps are counted until then"
    assert (shown[short][:, 600:] != shown[-1][:, 600:]).any()


class Balancing(nn.Module):
    """Acts as one of PUSH."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._act = act

    def forward(self, seen: Tensor) -> Tensor:
        return nn.functional.one_hot(self._act(seen), 2).float()


def test_a_caption_says_what_the_environment_measures(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[list[str]] = []
    monkeypatch.setattr(play, "captioned", lambda picture, lines: captions.append(lines) or picture)
    env = alone(trained, 0)
    step = env.step

    def measured(action: Any) -> Any:
        observation, reward, terminated, truncated, _ = step(action)
        return observation, reward, terminated, truncated, {"x_pos": 41.0, "other": 1.0}

    env.step = measured
    with closing(env):
        play.play_beside({"sparse": load_policy(trained)}, [env], ("x_pos", "flag_rate"), lambda _: None)
    assert captions[0] == ["sparse", "return 0.0   step 0"]
    assert captions[2] == ["sparse", "return 2.0   step 2   x_pos 41"]


def test_a_caption_is_written_above_the_picture() -> None:
    picture = np.full((10, 200, 3), 7, np.uint8)
    empty, written = films.captioned(picture, ["", ""]), films.captioned(picture, ["dense", "return 1"])
    assert written.shape == (10 + 2 * films.LINE + films.MARGIN, 200, 3)
    assert np.array_equal(written[-10:], picture)
    assert (empty[:-10] == 0).all()
    first, second = written[: films.LINE], written[films.LINE : 2 * films.LINE]
    assert first.any()
    assert second.any()


def test_the_selected_rank_is_the_one_in_the_result(trained: Path, tmp_path: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    given = {"rank": 4, "shrunken_rank": 2, "rank_reason": None}
    (tmp_path / "result.json").write_text(json.dumps(result | given))
    assert [play.selected_rank(tmp_path, shrink) for shrink in (False, True)] == [4, 2]
    (tmp_path / "result.json").write_text(json.dumps(result | {"rank": None, "rank_reason": "not_learned"}))
    with pytest.raises(ValueError, match=r"no rank was selected .* no better than a random policy; name one: --rank K"):
        play.selected_rank(tmp_path, shrink=False)


# ---------------------------------------------------------------- what is refused, in one sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "no display.*--video"),
        (("--video", "film.avi"), "must end with .mp4 or .gif"),
        (("--video", "nowhere/film.mp4"), "no folder nowhere"),
        (("--rank", "0"), "--rank is 0; it must be 1 or more"),
        (("--episodes", "0"), "--episodes is 0"),
        (("--seed", "-1"), "--seed is -1"),
        (("--beside",), "--beside makes a film: add --video FILE.mp4"),
        (("--dense", "--rank", "3"), "--dense is the policy as it was trained; leave out --rank"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    trained: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(SystemExit, match=f"^sparserl: .*{sentence}") as caught:
        command(monkeypatch, trained, *arguments)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_runs_is_said_to_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="not a run's folder"):
        command(monkeypatch, tmp_path, "--video", tmp_path / "film.mp4")
    monkeypatch.delenv("DISPLAY", raising=False)  # of which it spoke first
    with pytest.raises(SystemExit, match="not a run's folder"):
        command(monkeypatch, tmp_path)


def test_a_missing_package_is_named_with_its_remedy(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "imageio_ffmpeg" else find(name))
    with pytest.raises(SystemExit, match=r"pip install 'sparserl\[video\]'"):
        command(monkeypatch, trained, "--video", tmp_path / "film.mp4")


def with_environment(trained: Path, folder: Path, environment: dict[str, Any]) -> Path:
    """The same policy, said to be of another environment."""
    config = json.loads((trained / "config.json").read_text()) | {"environment": environment}
    _, description, _ = read_policy(trained)
    description = json.dumps(description | {"config": config})
    save_file(load_file(trained / "policy.safetensors"), folder / "policy.safetensors", {POLICY_METADATA: description})
    return folder


@pytest.mark.parametrize(
    "environment",
    [
        {"_target_": "stranger.World"},
        {"_target_": "sparserl.environments.stranger.World"},
        {"_target_": "sparserl.environments.cartpole.VectorCartPole", "generators": 1, "envs": 1, "max_episode_steps": 1},
        {"_target_": "sparserl.environments.gymnasium.Gymnasium", "id": "stranger:World-v0", "extra": None, "arguments": {}},
    ],
    ids=["another package", "an unknown module", "not a recipe", "an id with a module"],
)
def test_a_file_from_a_stranger_runs_no_code(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, Any]
) -> None:
    """The stranger's module lies on the path, and importing it leaves a trace."""
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = with_environment(trained, tmp_path, environment)
    with pytest.raises(SystemExit, match=r"^sparserl: "):
        command(monkeypatch, folder, "--video", tmp_path / "film.mp4")
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "film.mp4").exists()


def test_an_environment_that_cannot_be_made_is_one_sentence(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = {"_target_": "sparserl.environments.gymnasium.Gymnasium", "id": "Nowhere-v0", "extra": None, "arguments": {}}
    with pytest.raises(SystemExit, match="Gymnasium cannot make 'Nowhere-v0'"):
        command(monkeypatch, with_environment(trained, tmp_path, unknown), "--video", tmp_path / "film.mp4")


def test_a_window_shows_itself(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # as good as a screen that nobody looks at
    command(monkeypatch, trained)
    returns, steps, mean = told(capsys)
    assert returns == [steps[0]] == [mean]


def test_a_film_cannot_be_a_folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "film.mp4").mkdir()
    with pytest.raises(SystemExit, match=r"--video is '.*film\.mp4', which is a folder; name a file"):
        command(monkeypatch, trained, "--video", tmp_path / "film.mp4")


def test_the_checkpoint_of_another_network_is_not_the_policy_as_it_was_trained(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor that of an algorithm that normalises nothing."""
    other = {"policy": {"0.weight": torch.zeros(1, 1)}}
    monkeypatch.setattr("sparserl.play.checkpoint.raw_weights", lambda _: other)
    with pytest.raises(ValueError, match=r"has a checkpoint that is none of its policy: its observations/count does not fit"):
        play.load_dense(trained)
