"""SurRoL's tasks as they are here, which needs a clone; and what a user is told without one, which does not."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from sparserl.config.build import build
from sparserl.config.schema import ConfigError
from sparserl.config.validation import compose, read_back
from sparserl.environments import surrol
from sparserl.environments.gymnasium import _spec
from sparserl.environments.observations import ACHIEVED, DESIRED
from sparserl.environments.surrol import CLONING, COMMIT, FOLDER, SurgicalTask, SurRoL
from sparserl.environments.surrol_shims import load
from sparserl.loading import UntrustedError, check
from sparserl.population.members import Population
from sparserl.runs.files import write_json
from sparserl.sweeps.loop import run
from sparserl.train import main

TASKS = ["ECMReach", "MisOrient", "NeedleReach", "GauzeRetrieve", "NeedlePick", "PegTransfer"]

with_clone = pytest.mark.skipif(
    not os.environ.get(FOLDER) or any(find_spec(module) is None for module in surrol.NEEDED),
    reason=f"needs a clone of SurRoL that {FOLDER} names, and pybullet: make install-surrol",
)


def made(task: str) -> SurgicalTask:
    env = SurRoL(task=task, path=None).make()[0].unwrapped
    assert isinstance(env, SurgicalTask)
    return env


@pytest.fixture(params=TASKS)
def env(request: pytest.FixtureRequest) -> Iterator[SurgicalTask]:
    with closing(made(request.param)) as env:
        yield env


def episode(env: SurgicalTask, seed: int, steps: int = 8) -> Iterator[np.ndarray]:
    """What is shown in the first steps of an episode, whose actions are random, but the same for the same seed."""
    observation, _ = env.reset(seed=seed)
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)  # type: ignore[misc]
    yield np.concatenate([*observation.values()])
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        assert (reward in (-1, 0), terminated, truncated) == (True, False, False)
        yield np.concatenate([*observation.values()])


def scripted(env: SurgicalTask, observation: dict[str, np.ndarray]) -> np.ndarray:
    """The action of SurRoL's scripted policy after the last observation of this episode."""
    with env._clone.bound(env._client, env._random):
        action: np.ndarray = env._task.get_oracle_action(observation)
    return action


def same(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(*pair) for pair in zip(first, second, strict=True))


# ---------------------------------------------------------------- what the tasks are


@with_clone
def test_gymnasiums_checker_only_warns_that_the_three_observations_have_no_bounds(env: SurgicalTask) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    bounds = [word for each in found for word in ("minimum", "maximum") if f"Box observation space {word}" in str(each.message)]
    assert bounds == ["minimum", "maximum"] * 3
    assert len(found) == len(bounds)


@with_clone
def test_gymnasiums_checker_refuses_a_task_that_ignores_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(made("ECMReach")) as env, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reset = env.reset
        monkeypatch.setattr(env, "reset", lambda *, seed=None, options=None: reset(options=options))
        with pytest.raises(AssertionError, match="seed"):
            check_env(env, skip_render_check=True)


@with_clone
def test_the_sizes_of_the_docs_are_those_of_the_tasks() -> None:
    page = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    told = re.findall(r"^\| `(surrol\S*)(?: (\S+))?` \| .*? \| (\d+) \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    assert len(told) == 8
    for option, task, *sizes in told:
        chosen = f"environment={option}", *([task] if task else [])
        _, parts = build([compose("algorithm=ddpg", *chosen)])
        spec = parts.environment.spec()
        assert [*spec.observation_shape, spec.goal_size, len(spec.action_low)] == [int(size) for size in sizes], option


def drawn() -> tuple[bytes, int]:
    """Where numpy's global generator is: its words, and how many of them are drawn."""
    _, words, position, *_ = np.random.get_state()  # noqa: NPY002 (it is what is meant)
    return words.tobytes(), position  # type: ignore[union-attr, return-value]


@with_clone
def test_an_episode_depends_on_its_seed_only(env: SurgicalTask) -> None:
    """Not on what was played before, nor on numpy's global generator, which stays as it was."""
    before = drawn()
    first, other = list(episode(env, 1)), list(episode(env, 2))
    assert same(first, list(episode(env, 1)))
    assert not np.array_equal(first[0], other[0])
    assert drawn() == before
    np.random.seed(5)  # noqa: NPY002
    assert same(other, list(episode(env, 2)))


@with_clone
@pytest.mark.parametrize("task", TASKS)
def test_an_episode_is_the_same_in_the_company_of_another(task: str) -> None:
    with closing(made(task)) as one, closing(made(task)) as two, closing(made("NeedleReach")) as third:
        alone = list(episode(one, 3)), list(episode(two, 4))
        together = list(zip(episode(one, 3), episode(third, 9), episode(two, 4), strict=True))
    assert same(alone[0], [shown[0] for shown in together])
    assert same(alone[1], [shown[2] for shown in together])


@with_clone
def test_threads_that_call_environments_at_the_same_time_do_not_mix_them() -> None:
    """``sparserl.run`` may be called in several threads; without turns steps reached each other's simulations and raised."""
    with closing(made("ECMReach")) as one, closing(made("ECMReach")) as two, ThreadPoolExecutor(2) as pool:
        alone = [list(episode(env, seed)) for seed, env in enumerate((one, two))]
        together = [pool.submit(list, episode(env, seed)) for seed, env in enumerate((one, two))]
        assert all(same(first, second.result()) for first, second in zip(alone, together, strict=True))


@with_clone
def test_what_an_arm_has_gripped_is_forgotten_in_reset() -> None:
    """SurRoL's own reset keeps it, and would then tie the needle to an arm that has not gripped it in this episode."""
    with closing(made("NeedlePick")) as env:
        observation, _ = env.reset(seed=0)
        assert env._task._activated == -1
        for _ in range(50):
            observation, _, _, _, info = env.step(scripted(env, observation))
        assert info["is_success"]
        assert env._task._activated == 0, "nothing was gripped, so this shows nothing"
        env.reset(seed=1)
        assert env._task._activated == -1


@with_clone
def test_the_scripted_policy_succeeds_and_success_is_what_the_reward_says(env: SurgicalTask) -> None:
    """So that the simulation is SurRoL's: its policy needs contacts and the inverse kinematics of its arms to be right."""
    observation, _ = env.reset(seed=0)
    rewards, successes, goals = [], [], []
    for _ in range(50):
        observation, reward, _, _, info = env.step(scripted(env, observation))
        rewards.append(reward)
        successes.append(info["is_success"])
        goals.append([observation[ACHIEVED], observation[DESIRED]])
    assert successes[-1]
    assert rewards == [float(success) - 1 for success in successes]
    achieved, desired = np.moveaxis(np.array(goals), 1, 0)
    assert env.compute_reward(achieved, desired, {}).tolist() == rewards
    assert env.compute_reward(achieved[0], achieved[0], {}) == 0


@with_clone
@pytest.mark.parametrize("vectorization", ["sync", "processes"])
def test_members_meet_the_same_episodes_however_steps_are_taken(vectorization: str) -> None:
    environment = SurRoL(task="ECMReach", path=None, max_episode_steps=4, vectorization=vectorization)  # type: ignore[arg-type]
    members = Population((0, 1))
    vector = environment.open(members.generators("environment"), 1)
    with closing(vector):
        shown = [vector.reset()]
        for step in range(1, 6):
            outcome = vector.step(torch.full((2, 1, 3), 0.5))
            assert not outcome.failures
            # time is up: the episode is cut, and what follows counts
            assert outcome.truncated.flatten().tolist() == [float(step == 4)] * 2
            assert not outcome.terminated.any()
            assert outcome.measures["success_rate"].flatten().tolist() == [0, 0]
            achieved, desired = outcome.extras[ACHIEVED], outcome.next_observation[..., -3:]
            reward, terminated = environment.relabel(achieved, desired)
            assert torch.equal(reward, outcome.reward)
            assert environment.relabel(achieved, achieved)[0].tolist() == [[0], [0]]
            assert not terminated.any()
            shown.append(outcome.observation)
    with closing(SurRoL(task="ECMReach", path=None).open(members.generators("environment"), 1)) as again:
        assert torch.equal(again.reset(), shown[0])
        assert torch.equal(again.step(torch.full((2, 1, 3), 0.5)).observation, shown[1])
    assert not torch.equal(shown[0][0], shown[0][1])


@with_clone
def test_it_is_quiet_and_leaves_no_module_behind(capfd: pytest.CaptureFixture[str]) -> None:
    path, modules = list(sys.path), {name: sys.modules.get(name) for name in ("gym", "roboticstoolbox", "surrol", "numpy")}
    load.cache_clear()
    for task in TASKS:
        with closing(made(task)) as env:
            list(episode(env, 0))
    assert capfd.readouterr() == ("", "")
    assert (path, modules) == (sys.path, {name: sys.modules.get(name) for name in modules})
    assert not hasattr(np, "float")


@with_clone
def test_a_film_shows_the_task() -> None:
    generators = iter(Population((0,)).generators("environment"))
    with closing(SurRoL(task="ECMReach", path=None).single(generators, "rgb_array")) as env:
        env.reset()
        image = env.render()
    assert isinstance(image, np.ndarray)
    assert (image.shape, image.dtype) == ((480, 640, 3), np.uint8)
    assert len(np.unique(image)) > 50  # neither empty nor of one colour
    with pytest.raises(ValueError, match="SurRoL's ECMReach has no window; film it: --video FILE"):
        SurRoL(task="ECMReach", path=None).single(generators, "human")


@with_clone
def test_environments_in_turn_leave_no_simulation_behind() -> None:
    """pybullet holds 1,024 at most: the numbers of those that ended are free again, also where nobody closed them."""
    clients = set()
    for _ in range(3):
        with closing(made("ECMReach")) as env:
            clients.add(env._client)
        clients.add(made("ECMReach")._client)
    assert len(clients) == 1


@with_clone
@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("Suture", r"environment\.task is 'Suture'; SurRoL has ActiveTrack, .*PegTransfer"),
        ("StaticTrack", r"environment=surrol: SurRoL's StaticTrack cannot be made: .*roboticstoolbox; sparserl does without"),
        ("ActiveTrack", r"environment=surrol: SurRoL's ActiveTrack cannot be made: "),
    ],
)
def test_what_is_no_task_here_is_one_sentence(task: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{sentence}") as caught:
        compose("algorithm=ddpg", "environment=surrol", f"environment.task={task}")
    assert len(str(caught.value).splitlines()) == 1


@with_clone
@pytest.mark.slow
def test_ddpg_learns_to_move_the_endoscope(tmp_path: Path) -> None:
    settings = (
        "algorithm=ddpg", "environment=surrol_ecm_reach", "regularizer=none", "logger=disk", "lowrank.ranks=[]",
        "trainer.total_steps=2500", "trainer.eval_every=2500", "trainer.checkpoint_every=2500", "trainer.log_every=2500",
    )  # fmt: skip
    (result,) = run([compose(*settings)], [tmp_path])
    assert result.success_rate is not None
    # the goal is within 5 mm in a cube of 10 cm: random actions were never there at the end of 100 episodes, so that 10 of 20
    # are no chance
    assert result.success_rate >= 0.5


# ---------------------------------------------------------------- what a user is told


NAMED = f"environment.path, or {FOLDER} where that is null,"
OTHER = "1" * 40
"""No commit that can be used."""


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules that are installed, as far as SurRoL's part of sparserl can see."""
    installed = set(surrol.NEEDED)
    find = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: name if name in installed else None))
    monkeypatch.setattr(surrol, "importlib", find)
    monkeypatch.delenv(FOLDER, raising=False)
    _spec.cache_clear()  # which a test with a clone may have filled
    return installed


def fake(folder: Path, head: str = COMMIT, **files: str) -> Path:
    """What looks like a clone of SurRoL, with these files in its .git."""
    (folder / "surrol" / "gym").mkdir(parents=True)
    (folder / "surrol" / "gym" / "__init__.py").write_text("raise RuntimeError('this is no\\nSurRoL')")
    for name, text in {"HEAD": head, **files}.items():
        path = folder / ".git" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return folder


def told(path: Path | str | None) -> str:
    """The sentence of a run in ``environment=surrol_ecm_reach`` from this clone."""
    given = [] if path is None else [f"environment.path={path}"]
    with pytest.raises(ConfigError) as caught:
        compose("algorithm=ddpg", "environment=surrol_ecm_reach", *given)
    return str(caught.value)


@pytest.mark.usefixtures("packages")
def test_without_a_clone_it_is_said_how_to_get_one() -> None:
    sentence = f"neither environment.path nor {FOLDER} names a clone of SurRoL: {CLONING}"
    assert told(None) == f"environment=surrol_ecm_reach: {sentence}"
    assert f"checkout {COMMIT}" in CLONING


@pytest.mark.usefixtures("packages")
def test_a_folder_that_is_no_clone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"'{tmp_path}', where there is no clone of SurRoL: {CLONING}"
    assert told(tmp_path) == f"{NAMED} is {said}"
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert told(None) == f"{NAMED} is {said}"


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("is_variable", [True, False], ids=[FOLDER, "environment.path"])
def test_a_relative_path_starts_where_the_command_was_typed_also_where_hydra_left_it(
    is_variable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clone that is found there is at another commit, so that nothing of it is run."""
    folder = fake(tmp_path / "clone", OTHER)
    if is_variable:
        monkeypatch.setenv(FOLDER, "clone")
    given = [] if is_variable else ["environment.path=clone"]
    monkeypatch.chdir(tmp_path)
    chosen = "algorithm=ddpg", "environment=surrol_ecm_reach", "logger=disk", "hydra.job.chdir=true", *given
    monkeypatch.setattr(sys, "argv", ["sparserl-train", *chosen])
    with pytest.raises(SystemExit) as ended:
        main()
    assert f"is '{folder}', a clone of SurRoL at {OTHER}" in str(ended.value.code)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("head", "files", "commit"),
    [
        (OTHER, {}, OTHER),
        ("ref: refs/heads/main", {"refs/heads/main": OTHER}, OTHER),
        ("ref: refs/heads/main", {"packed-refs": f"# pack-refs with: peeled\n{OTHER} refs/heads/main"}, OTHER),
        ("ref: refs/heads/main", {}, "no commit"),
    ],
    ids=["a commit", "a branch", "a packed branch", "nothing"],
)
def test_a_clone_at_another_commit_is_refused(tmp_path: Path, head: str, files: dict[str, str], commit: str) -> None:
    folder = fake(tmp_path / "clone", head, **files)
    remedy = f"git -C {folder} checkout {COMMIT}"
    assert told(folder) == f"{NAMED} is '{folder}', a clone of SurRoL at {commit}: {remedy}"


@pytest.mark.parametrize("name", ["refs/heads/main", "packed-refs"])
def test_a_branch_at_the_commit_will_do(tmp_path: Path, name: str) -> None:
    text = COMMIT if name != "packed-refs" else f"{COMMIT} refs/heads/main"
    folder = fake(tmp_path / "clone", "ref: refs/heads/main", **{name: text})
    assert surrol.clone_folder(str(folder)) == folder


def test_without_its_packages_it_is_said_how_to_install_them(tmp_path: Path, packages: set[str]) -> None:
    folder = fake(tmp_path / "clone")
    packages.remove("cv2")
    said = "environment=surrol_ecm_reach: SurRoL needs"
    assert told(folder) == f"{said} opencv-python-headless: pip install 'sparserl[surrol]'"
    packages.clear()
    newer = sys.version_info[:2] > surrol.PYTHON
    both = "pybullet and opencv-python-headless: pip install 'sparserl[surrol]'"
    assert newer or told(folder) == f"{said} {both}"


def test_a_python_that_pybullet_has_no_wheels_for_is_said(
    tmp_path: Path, packages: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fake(tmp_path / "clone")
    monkeypatch.setattr(surrol.sys, "version_info", (3, 13, 1))
    packages.remove("pybullet")
    assert told(folder) == (
        "environment=surrol_ecm_reach: SurRoL needs pybullet, which has wheels for Python 3.11 at most, and this is Python "
        "3.13: python3.11 -m venv .venv && .venv/bin/pip install 'sparserl[surrol]'"
    )


@pytest.mark.skipif(find_spec("pybullet") is None, reason="needs pybullet")
@pytest.mark.usefixtures("packages")
def test_a_clone_that_cannot_be_imported_is_one_sentence(tmp_path: Path) -> None:
    folder = fake(tmp_path / "clone")
    path, modules = list(sys.path), set(sys.modules)
    said = f"the clone of SurRoL in {folder} cannot be imported: RuntimeError: this is no SurRoL"
    assert told(folder) == f"environment=surrol_ecm_reach: {said}"
    assert sys.path == path
    assert not [name for name in set(sys.modules) - modules if name.partition(".")[0] in ("gym", "surrol", "roboticstoolbox")]


@pytest.mark.parametrize("vectorization", ["threads", "fibers"])
def test_threads_are_refused(vectorization: str) -> None:
    """A clone calls one simulation at a time."""
    with pytest.raises(ConfigError, match=rf"environment.vectorization is '{vectorization}'.*'sync' or 'processes'"):
        compose("algorithm=ddpg", "environment=surrol_ecm_reach", f"environment.vectorization={vectorization}")


# ---------------------------------------------------------------- files of others


@pytest.mark.parametrize("where", ["path", "arguments.deep.path"])
def test_a_stranger_may_not_say_which_clone_is_run(where: str) -> None:
    value: object = "/home/stranger/evil"
    for key in reversed(where.split(".")):
        value = {key: value}
    with pytest.raises(UntrustedError, match=rf"environment\.{where} is '/home/stranger/evil'.*trust=true"):
        check("", {"environment": value})


@with_clone
def test_a_clone_that_a_strangers_run_names_is_not_run_without_trust(tmp_path: Path) -> None:
    trace, folder, file = tmp_path / "trace", fake(tmp_path / "clone"), tmp_path / "config.json"
    (folder / "surrol" / "gym" / "__init__.py").write_text(f"import os; os.mkdir({str(trace)!r})")
    config = compose("algorithm=ddpg", "environment=surrol_ecm_reach")
    config["environment"]["path"] = str(folder)
    write_json(file, config)
    with pytest.raises(ConfigError, match=r"environment\.path is .*trust=true"):
        read_back(file, trust=False)
    assert not trace.exists()
    with pytest.raises(ConfigError, match="SurRoL has nothing"):  # it ran, and registered no task
        read_back(file, trust=True)
    assert trace.exists()


def test_a_run_from_the_clone_that_the_user_names_needs_no_trust() -> None:
    named = {"_target_": "sparserl.environments.surrol.SurRoL", "task": "ECMReach", "path": None}
    check("", {"environment": named})
    with pytest.raises(UntrustedError, match=r"environment\.path is"):
        check("", {"environment": named | {"path": "/home/stranger/clone"}})
