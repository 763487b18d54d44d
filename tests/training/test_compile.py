"""Programs on disk, and what happens where there is none; what is in a program, ``traced_steps.py`` and
``compiled_steps.py`` test."""

from __future__ import annotations

import importlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compiling import EACH_STEP, LOOPS, MEMBERS, TOGETHER, difference, learner_of, member_of, run_loop, train
from filelock import Timeout
from parts import as_kind, make_learner, modules, random_batches
from torch import Tensor

from sparserl.algorithms.dqn import DQN
from sparserl.environments.base import FunctionalEnvironment
from sparserl.environments.cartpole import CartPole
from sparserl.experience.selection import Selection
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.training import compiled, dependencies, programs
from sparserl.training.calls import ActingCall, StepCall
from sparserl.training.collecting_call import CollectingCall
from sparserl.training.compiled import Compiled
from sparserl.training.dependencies import CompileError
from sparserl.training.deterministic_call import DeterministicPolicies
from sparserl.training.episodes_under_way import EpisodesUnderWay
from sparserl.training.interrupts import Interrupts
from sparserl.training.learner import Learner
from sparserl.training.preparing_call import PreparingCall
from sparserl.training.programs import CacheError, Description
from sparserl.training.repeated import Repeated
from sparserl.training.step_inputs import Scalars, StepInputs
from sparserl.types import Action, Time, Weights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


# ---------------------------------------------------------------- the cache


def keep(key: str = "k", guards: Any = ()) -> None:
    programs.keep(key, Description(guards, [], ["loss"], []), lambda library: library.write_text("library"))


def test_a_program_is_found_by_its_key_and_its_guards(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "load", lambda library: lambda tensors: library)
    keep(guards=[(["ge", "step", 10], True)])
    assert programs.find("k", {"step": 10}) is not None
    assert programs.find("k", {"step": 9}) is None
    assert programs.find("other", {"step": 10}) is None


def test_a_compilation_that_fails_leaves_nothing(cache: Path) -> None:
    def fail(library: Path) -> None:
        library.write_text("half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        programs.keep("k", Description([], [], [], []), fail)
    assert programs.find("k", {}) is None
    assert not any((cache / "sparserl" / "programs").iterdir())


def test_the_cache_is_the_users_own(cache: Path) -> None:
    keep()
    paths = [cache / "sparserl" / "programs", *(cache / "sparserl" / "programs").rglob("*")]
    assert len(paths) == 4
    for path in paths:
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path


@pytest.mark.parametrize("pattern", [".", "k", "k/*.pt2", "k/*.json"])
def test_what_another_user_can_write_is_not_loaded(pattern: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "load", lambda library: lambda tensors: library)
    keep()
    root = cache / "sparserl" / "programs"
    (path,) = [root] if pattern == "." else root.glob(pattern)
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(CacheError, match="another user"):
        programs.find("k", {})


def test_what_another_user_owns_is_not_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep()
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(CacheError, match="another user"):
        programs.find("k", {})


def test_who_waits_for_another_process_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = programs.lock("k")
    other.acquire()
    monkeypatch.setattr(compiled, "check_all", lambda: other.release(force=True))  # which it asks while it waits
    with compiled._alone("k", "the gradient step"):
        assert capsys.readouterr().err == "waiting for another process that compiles the gradient step\n"
        with pytest.raises(Timeout):
            other.acquire(timeout=0)
        programs.lock("of something else").acquire(timeout=0)


def test_ctrl_c_is_noticed_before_something_is_compiled(cache: Path) -> None:
    with Interrupts() as interrupts:
        interrupts._receive(signal.SIGINT, None)
        with pytest.raises(KeyboardInterrupt), compiled._alone("k", "the gradient step"):
            raise AssertionError("compiled")
        programs.lock("k").acquire(timeout=0)


def test_ctrl_c_that_ends_the_compiler_too_is_no_failure_of_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to all processes of a terminal."""
    learner = learner_of("dqn", "none")

    with Interrupts() as interrupts:

        def end(call: object) -> None:
            interrupts._receive(signal.SIGINT, None)
            raise RuntimeError("g++ was ended by a signal")

        monkeypatch.setattr(compiled, "Trace", end)
        monkeypatch.setattr(compiled, "has_compiler", lambda: True)
        with pytest.raises(KeyboardInterrupt):
            learner.update(random_batches(1, MEMBERS, 8)[0], env_step=0)


# ---------------------------------------------------------------- what a program is found by

MINE = {
    "mine/__init__.py": "",
    "mine/algorithm.py": """
from mine.losses import halved
from sparserl.algorithms.dqn import DQN
from sparserl.environments.base import FunctionalEnvironment
from sparserl.environments.cartpole import CartPole

class Mine(DQN):
    def losses(self, *given):
        return halved(super().losses(*given))
""",
    "mine/losses.py": """
from constants_of_mine import FACTOR

def halved(objectives):
    return objectives
""",
    "constants_of_mine.py": "FACTOR = 0.5",
    "mine/report.py": "",
}
"""An algorithm of a user's own: it imports a module beside it, which imports one outside. The last is not imported."""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of that package, which can be imported."""
    (tmp_path / "mine").mkdir()
    for name, source in MINE.items():
        (tmp_path / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "constants_of_mine")]:
        del sys.modules[name]


def looked_for(kind: type[DQN], monkeypatch: pytest.MonkeyPatch) -> str:
    """The key under which the program of a step of an algorithm is looked for."""
    keys: list[str] = []

    def find(key: str, numbers: Any) -> None:
        keys.append(key)
        raise CompileError("the key is all that is wanted")

    learner = learner_of("dqn", "none")
    algorithm = as_kind(kind, learner.algorithm).bind(learner.algorithm.spec)
    with monkeypatch.context() as patch:
        patch.setattr(programs, "find", find)
        patch.setattr(compiled, "has_compiler", lambda: True)
        train(Learner(algorithm, learner.regularizer, Population(tuple(range(MEMBERS))), True), random_batches(1, MEMBERS, 8))
    (key,) = keys
    return key


def test_a_program_is_of_all_modules_that_its_code_may_come_from(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that only helps the module of the class was left out, and its old program ran on."""
    kind = importlib.import_module("mine.algorithm").Mine
    before = looked_for(kind, monkeypatch)
    assert looked_for(kind, monkeypatch) == before
    for name, source in MINE.items():
        (mine / name).write_text(source + "\n# changed\n")
        is_another = looked_for(kind, monkeypatch) != before
        assert is_another == (name != "mine/report.py"), name
        (mine / name).write_text(source)
    assert looked_for(kind, monkeypatch) == before


def test_a_class_whose_source_is_in_no_file_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that was typed into an interpreter: typed again it may be another, under the same name."""
    typed = type("Typed", (DQN,), {"__module__": "typed"})
    with pytest.raises(ValueError, match="not enough values"):
        looked_for(typed, monkeypatch)
    assert "the source of typed is in no file" in capsys.readouterr().err


def test_a_program_is_of_one_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(folder: str, version: str) -> str:
        compiler = tmp_path / folder / "g++"
        compiler.parent.mkdir(exist_ok=True)
        compiler.write_text(f"#!/bin/sh\necho '{version}'\necho 'This is free software.'")
        compiler.chmod(0o700)
        monkeypatch.setenv("CXX", str(compiler))
        dependencies._version.cache_clear()
        return looked_for(DQN, monkeypatch)

    keys = [key("one", "g++ 12"), key("one", "g++ 13"), key("other", "g++ 13"), key("one", "g++ 12")]
    assert keys[3] == keys[0]
    assert len(set(keys)) == 3


def test_weights_that_are_made_already_run_in_programs_of_any_regulariser() -> None:
    """And of any length of training: acting and what is made of rollouts read neither. They read the algorithm."""

    def keys(*overrides: str) -> list[str]:
        learner = make_learner("algorithm=ppo", "trainer.num_envs=2", *overrides)
        learner.begin_rollout(0)
        step, state, running = learner._step, learner.state, learner._running.for_programs()
        inputs, numbers = learner._programs._inputs_to_act, torch.zeros(1, 5, 2)
        rollout = {"observation": torch.zeros(1, 5, 2, 4), "reward": numbers}
        calls = (
            ActingCall(step, inputs, state, running, torch.zeros(1, 2, 4), 0),
            PreparingCall(step, inputs, state, running, rollout),
        )
        return [compiled.key_of(call) for call in calls]

    one = keys("regularizer=none")
    assert keys("regularizer=l0", "trainer.total_steps=2000") == keys("regularizer=l1") == one
    assert all(other != mine for other, mine in zip(keys("regularizer=none", "algorithm.gamma=0.5"), one, strict=True))


# ---------------------------------------------------------------- where there is no program


@pytest.mark.parametrize("reason", ["no compiler", "a full disk", "a cache of another user"])
def test_what_cannot_be_compiled_runs_eagerly_and_says_so(
    reason: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    if reason == "a full disk":
        monkeypatch.setattr(compiled, "Trace", fail)
    elif reason == "no compiler":
        monkeypatch.setenv("PATH", str(cache))
        monkeypatch.delenv("CXX", raising=False)
    else:
        (cache / "sparserl" / "programs").mkdir(parents=True)
        (cache / "sparserl").chmod(0o777)
    asked, eager = (learner_of("dqn", "l0", MEMBERS, is_compiled) for is_compiled in (True, False))
    for learner in (asked, eager):
        train(learner, random_batches(3, MEMBERS, 32))
    assert difference(asked, eager) == 0
    assert asked.backend == eager.backend == "eager"
    policies, weights = DeterministicPolicies(asked.algorithm, compiles=lambda: True), asked.deterministic()
    seen = torch.randn(MEMBERS, 10, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        assert torch.equal(policies(weights, seen), asked.algorithm.deterministic_action(weights, seen))
    said = capsys.readouterr().err
    assert said.count("run eagerly, since they cannot be compiled") == 1
    assert said.count("policies are evaluated eagerly, since they cannot be compiled") == 1


@pytest.mark.parametrize(
    "algorithm", ["dqn", "ppo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a2c", "double_dqn"))]
)
def test_a_loop_that_cannot_be_compiled_is_the_eager_one(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within rounding, though it goes on in calls of many steps; under l0 and without."""
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)
    more = EACH_STEP if "dqn" in algorithm else ("algorithm.normalize_observation=true",)
    asked, eager = (run_loop(algorithm, TOGETHER, its, more=more)[0] for its in (True, False))
    assert {learner.backend for learner in asked.learners} == {"eager"}
    for member in range(len(TOGETHER)):
        for mine, its in zip(member_of(asked, member), member_of(eager, member), strict=True):
            torch.testing.assert_close(mine, its, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("regularizer", "changing"),
    [
        ("magnitude", ("regularizer.start_step=100", "regularizer.end_step=350", "regularizer.update_interval=50")),
        ("l0", ("regularizer.target_sparsity=0.8", "regularizer.delay_steps=150", "regularizer.freeze_at_step=250")),
    ],
)
def test_what_acts_is_as_it_was_before_a_schedule_sets_gates(
    regularizer: str, changing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step as many weights are 0 as in an eager run: gates are set after the step, for its gradient step."""
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)
    act, zeros = DQN.act, list[tuple[int, int]]()

    def record(algorithm: DQN, weights: Weights, observation: Tensor, step: int, rng: MemberRng) -> Action:
        zeros.append((step, sum(int((its == 0).sum()) for its in weights["policy"].values())))
        return act(algorithm, weights, observation, step, rng)

    monkeypatch.setattr(DQN, "act", record)
    found = []
    for is_compiled in (True, False):
        zeros.clear()
        run_loop("dqn", [(regularizer, 0)], is_compiled, more=(*EACH_STEP, *changing))
        found.append([*zeros])
    assert found[0] == found[1]
    assert len({number for _, number in found[0]}) > 1, "gates close, or this test sees nothing"


def test_a_step_that_is_not_on_a_cpu_is_not_compiled(cache: Path) -> None:
    """As that of a run which began compiled on a CPU, and goes on where ``device=auto`` takes a GPU."""
    learner = learner_of("dqn", "none")
    step, inputs = learner._step, learner._programs._inputs
    learner.state.learns = learner.state.learns.to("meta")
    scalars = Scalars(Time(0, 0, 0), False, {}, {"policy": 0.0}, 0.0)
    with pytest.raises(CompileError, match="for a CPU only, and this run is on meta"):
        Compiled()(StepCall(step, inputs, learner.state, Selection({}), StepInputs(scalars, {}, False), {}), learner._rng)


def test_no_tensor_of_a_program_may_be_elsewhere(cache: Path) -> None:
    """Snapshots of an environment are on the CPU, whatever the device of what acts."""
    learner = learner_of("dqn", "none")
    vector = CartPole(500).open(Population(tuple(range(MEMBERS))).generators("environment"), 2)
    observation = vector.reset().to("meta")
    assert isinstance(vector, FunctionalEnvironment)
    vector.reserve(4)
    inputs = learner._programs._inputs_to_act
    episodes = EpisodesUnderWay(CartPole(500), vector, vector.snapshot(), observation)
    with pytest.raises(CompileError, match="for a CPU only, and this run is on meta"):
        Repeated().repeat(CollectingCall(learner._step, inputs, learner.state, None, episodes, 4, 0), learner._rng)


# ---------------------------------------------------------------- what is in a program


def run_in_a_process(name: str, *arguments: str) -> None:
    """In one of its own: what checks annotations in these tests cannot be traced."""
    file = Path(__file__).with_name(name)
    environment = os.environ | {"PYTHONPATH": f"{file.parents[2]}:{file.parents[1]}"}
    command = [sys.executable, "-m", "pytest", "--noconftest", "-p", "tracing", "-q", "-n", "0", *arguments, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


TRACED = "traced_steps.py", "traced_loops.py"


@pytest.mark.parametrize("name", TRACED)
def test_traced_steps(name: str) -> None:
    run_in_a_process(name, "-m", "not slow")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_more_traced_steps(name: str) -> None:
    run_in_a_process(name, "-m", "slow")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", modules("algorithms"))
def test_compiled_steps(algorithm: str) -> None:
    run_in_a_process("compiled_steps.py", "-m", "slow", "-k", f"test_a_compiled_step and [{algorithm}-")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", LOOPS)
def test_compiled_loops(algorithm: str) -> None:
    run_in_a_process("compiled_steps.py", "-m", "slow", "-k", f"test_a_member_of_a_loop and {algorithm}")
