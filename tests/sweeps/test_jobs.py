"""Which jobs train together, and what their folders say of earlier starts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl.config.schema import Config, ConfigError
from sparserl.config.validation import compose
from sparserl.runs import checkpoint
from sparserl.runs.files import read_json, write_json
from sparserl.runs.schema import Result
from sparserl.sweeps import jobs as jobs_module
from sparserl.sweeps.grouping import group_jobs
from sparserl.sweeps.jobs import Job, JobError, job_name, label, objective, previous_result, reserve_folder, write_job_status


@cache
def config(*overrides: str) -> Config:
    return compose("trainer=smoke", "logger=disk", *overrides)


def jobs(count: int, *overrides: str) -> list[Job]:
    return [Job(config(*overrides) | {"seed": seed}, Path(f"nowhere/{overrides}/{seed}")) for seed in range(count)]


def sizes(groups: list[list[Job]]) -> list[int]:
    return [len(group) for group in groups]


# ---------------------------------------------------------------- what trains at once

KINDS = ("regularizer=none", "regularizer=l1", "regularizer=l2")


def test_values_of_members_and_regularizers_may_differ_in_a_loop_and_nothing_else() -> None:
    """What is of one regulariser is side by side there; populations stay apart where there are workers enough."""
    l0 = [Job(config("regularizer=l0", f"regularizer.lambda_c={value}"), Path(f"nowhere/{value}")) for value in (1, 2)]
    dense = jobs(2, "regularizer=none")
    other = [Job(config("regularizer=l0", "algorithm.gamma=0.9"), Path("nowhere/gamma"))]
    mixed = [l0[0], *other, dense[0], l0[1], dense[1]]
    assert group_jobs(mixed, 64, 1) == [[*l0, *dense], other]
    assert group_jobs(mixed, 64, None) == [l0, other, dense]


@settings(deadline=None)  # composing takes a while, but only the first time
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    max_members=st.integers(1, 8),
    workers=st.none() | st.integers(1, 5),
)
def test_every_job_is_in_one_loop_that_is_not_too_large(counts: list[int], max_members: int, workers: int | None) -> None:
    alike = [jobs(count, kind) for count, kind in zip(counts, KINDS, strict=False)]
    every = [job for group in alike for job in group]
    groups = group_jobs(every, max_members, workers)
    assert sorted(str(job.folder) for group in groups for job in group) == sorted(str(job.folder) for job in every)
    assert max(sizes(groups)) <= max_members
    assert workers or all(any(set(map(id, group)) <= set(map(id, kind)) for kind in alike) for group in groups)
    assert len(groups) % (workers or 1) == 0 or max(sizes(groups)) == 1, (
        "no worker has more groups than another, if that can be"
    )


def test_parts_of_what_is_too_large_are_alike() -> None:
    assert sizes(group_jobs(jobs(10, "regularizer=none"), 4, 1)) == [4, 3, 3]


def test_workers_share_what_there_is() -> None:
    """Of three populations half for each; of three that cannot share a loop, the last halves of one fill the gap."""
    assert sizes(group_jobs([job for kind in KINDS for job in jobs(8, kind)], 64, 2)) == [12, 12]
    apart = [job for envs in (1, 2, 3) for job in jobs(8, f"trainer.num_envs={envs}")]
    assert sorted(sizes(group_jobs(apart, 64, 2))) == [4, 4, 8, 8]


def test_jobs_at_different_steps_do_not_train_together(tmp_path: Path) -> None:
    both = [Job(config() | {"seed": seed}, tmp_path / str(seed)) for seed in (0, 1)]
    for job in both:
        job.folder.mkdir()
    checkpoint.save([both[0].folder], 200, [{"tensor": torch.ones(1)}])
    assert sizes(group_jobs(both, 64, 1)) == [1, 1]
    checkpoint.save([both[1].folder], 200, [{"tensor": torch.ones(1)}])
    assert sizes(group_jobs(both, 64, 1)) == [2]


@pytest.mark.parametrize("compiled_updates", [0, 3, 20])
def test_jobs_whose_steps_were_run_in_another_way_do_not_train_together(compiled_updates: int, tmp_path: Path) -> None:
    """One was compiled where the other was not, or from some step on could not be. Workers have room for both in one loop."""
    both = [Job(config() | {"seed": seed}, tmp_path / str(seed)) for seed in (0, 1)]
    for job, updates in zip(both, (20, compiled_updates), strict=True):
        job.folder.mkdir()
        for step in (100, 200):
            way = {"compile": True, "compiled": updates > 0, "compiled_updates": updates if step == 200 else 0}
            checkpoint.save([job.folder], step, [{"tensor": torch.ones(1)}], [way])
    alike = compiled_updates == 20
    assert sizes(group_jobs(both, 64, 1)) == ([2] if alike else [1, 1])
    for job in both:  # at the step before nothing was compiled yet
        (newest,) = job.folder.glob("checkpoint-*200.pt")
        newest.unlink()
    assert sizes(group_jobs(both, 64, 1)) == ([1, 1] if compiled_updates == 0 else [2])


def test_jobs_that_are_to_be_compiled_do_not_train_with_those_that_are_not() -> None:
    ways = [Job(config(f"trainer.compile={way}", f"seed={seed}"), Path("any")) for way in ("true", "false") for seed in (0, 1)]
    assert sizes(group_jobs(ways, 64, 1)) == [2, 2]


# ---------------------------------------------------------------- names


def test_a_name_is_of_what_is_trained_and_not_of_where_it_is_kept_or_reported() -> None:
    name = job_name(config())
    assert name == job_name(config("sweep_name=other", "objective=sparsity", "objective_seeds=8", "retry_failed=true"))
    assert name == job_name(config("trainer.compile=true")), "rounding makes no other run"
    assert name != job_name(config("trainer.num_envs=2"))
    given = job_name(config("regularizer.lambda_c=0.5"))
    assert given.startswith("dqn-cartpole-l0-lambda0.5-beta0.6666666666666666-seed0-")


numbers = st.integers(0, 10**30) | st.floats(0, allow_nan=False, allow_infinity=False)


def labelled(lambda_c: float | int | None, beta: float | None = None, seed: int = 0) -> str:
    names = {"algorithm": "a", "environment": "b", "regularizer": "c"}
    return label({"names": names, "regularizer": {"lambda_c": lambda_c, "beta": beta}, "seed": seed})


@settings(deadline=None)
@given(one=numbers, other=numbers)
def test_two_values_never_look_the_same(one: float, other: float) -> None:
    """They were cut after four digits, so that 1.00001 and 1.00002 had one name."""
    if one == other:  # 1 and 1.0 are the same value
        assert labelled(float(one)) == labelled(float(other))
    else:
        assert labelled(one) != labelled(other)


@pytest.mark.parametrize(
    ("value", "text"),
    [(500.0, "500"), (500, "500"), (1e-3, "0.001"), (1.00001, "1.00001"), (2 / 3, "0.6666666666666666"), (1e22, "1e+22")],
)
def test_a_value_has_its_shortest_exact_form(value: float, text: str) -> None:
    assert labelled(value, beta=value, seed=3) == f"a-b-c-lambda{text}-beta{text}-seed3"
    assert float(text) == value


@settings(deadline=None)
@given(names=st.lists(st.text(min_size=1, max_size=400), min_size=3, max_size=3), seed=st.integers(0, 10**300))
def test_a_jobs_folder_can_be_made_whatever_its_options_are_called(names: list[str], seed: int) -> None:
    given = config() | {"names": dict(zip(("algorithm", "environment", "regularizer"), names, strict=True)), "seed": seed}
    name = job_name(given)
    assert len(f"{name}-again-0123456789".encode()) <= 255
    assert not set('/\\:*?"<>|\0\n') & set(name)
    assert name != job_name(given | {"seed": seed + 1})
    assert Path(name).name == name


# ---------------------------------------------------------------- objectives


def result(**values: object) -> Result:
    """Of a run that learned nothing, so that no rank was selected."""
    empty: dict[Any, Any] = {int: 0, float: 0.0, str: "", list[str]: []}  # what else there is may be null
    nothing = {name: empty.get(hint) for name, hint in get_type_hints(Result).items()}
    return Result(**(nothing | {"status": "done", "return_mean": -200.0} | values))


@pytest.mark.parametrize(
    ("name", "learned", "nothing"),
    [
        *(("retention", 0.97, 0.0), ("compression", 0.6, 0.0), ("return_lowrank", -90.0, -200.0)),
        *(("shrunken_retention", 0.97, 0.0), ("shrunken_compression", 0.6, 0.0), ("shrunken_return_mean", -90.0, -200.0)),
    ],
)
def test_where_nothing_was_learned_a_sweeper_is_told_what_holds_of_the_whole_policy(
    name: str, learned: float, nothing: float
) -> None:
    """None used to end Optuna's sweep with a traceback. conf/train.yaml says so."""
    job = Job(config(f"objective={name}"), Path("nowhere"))
    assert objective(job, result(**{name: learned})) == learned
    assert objective(job, result(rank_reason="not_learned")) == nothing


# ---------------------------------------------------------------- earlier starts


def test_of_two_starts_at_the_same_moment_the_first_has_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find no config there; the second to write one put its own in the place of the first's, which trains."""
    first, second = (Job(config(f"seed={seed}"), tmp_path / "run") for seed in (1, 2))
    write = jobs_module.write_json

    def late(path: Path, row: Any, only_new: bool) -> bool:
        monkeypatch.undo()
        reserve_folder(first)
        return write(path, row, only_new)

    monkeypatch.setattr(jobs_module, "write_json", late)
    with pytest.raises(ConfigError, match=r"holds a run with another config \(seed is 1 there and 2 here\)"):
        reserve_folder(second)
    assert read_json(tmp_path / "run" / "config.json") == first.config
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
    reserve_folder(first)  # once more is harmless


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(config(), tmp_path)


def test_what_failed_is_tried_again_only_when_that_is_asked_for(job: Job) -> None:
    write_job_status(job, "failed", error="Traceback ...\nValueError: made to fail\n")
    with pytest.raises(JobError, match=r"ValueError: made to fail.*retry_failed=true"):
        previous_result(job, retry_failed=False)
    assert previous_result(job, retry_failed=True) is None


@pytest.mark.parametrize("status", ["waiting", "running", "interrupted"])
def test_what_was_not_finished_goes_on(job: Job, status: str) -> None:
    write_job_status(job, status)  # type: ignore[arg-type]
    assert previous_result(job, retry_failed=False) is None


def test_a_result_that_is_not_whole_is_made_again_and_said(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    (job.folder / "result.json").write_text('{"algorithm": "dq')
    write_job_status(job, "done")
    assert previous_result(job, retry_failed=False) is None
    (said,) = capsys.readouterr().err.splitlines()
    assert "result.json cannot be read, so it is made again from the last checkpoint" in said


@pytest.mark.parametrize(
    ("reason", "status", "done"),
    [
        ("not_learned", "done", True),
        ("not_learned", "running", False),  # it is factored again at other ranks, or was killed just before its end
        ("not_learned", "waiting", False),
        ("not_swept", "done", False),
        ("not_swept", "interrupted", False),
    ],
)
def test_a_run_is_done_when_its_ranks_are_evaluated(reason: str, status: str, done: bool, job: Job) -> None:
    write_json(job.folder / "result.json", result(rank_reason=reason))
    write_job_status(job, status)  # type: ignore[arg-type]
    assert (previous_result(job, retry_failed=False) is not None) == done


def test_damaged_checkpoints_are_one_sentence(job: Job) -> None:
    checkpoint.save([job.folder], 200, [{"tensor": torch.ones(1)}])
    (path,) = job.folder.glob("checkpoint-*.pt")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ConfigError, match="take the damaged folders away"):
        previous_result(job, retry_failed=False)


def test_a_job_status_keeps_how_far_the_run_is(job: Job) -> None:
    (job.folder / "status.json").write_text(
        '{"status": "interrupted", "env_step": 7, "total_steps": 400, "process": 1, "host": "there"}'
    )
    write_job_status(job, "waiting")
    status = read_json(job.folder / "status.json")
    assert (status["status"], status["env_step"], status["total_steps"]) == ("waiting", 7, 400)
