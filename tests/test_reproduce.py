"""scripts/reproduce_*.py: which runs a table has, how long what is left takes, and the few steps of the smoke form."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from folders import made_up

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import cells  # noqa: E402
import reference_returns  # noqa: E402
import reproduce_algorithms  # noqa: E402
import reproduce_mario  # noqa: E402
import reproduce_sparsity  # noqa: E402
import reproduce_surgical  # noqa: E402
import reproduce_tables  # noqa: E402
from cells import Cell, Left, Plan, Rates, Table  # noqa: E402

from sparserl.config.validation import compose  # noqa: E402
from sparserl.environments.surrol import FOLDER  # noqa: E402
from sparserl.report import building, writer  # noqa: E402
from sparserl.runs.reader import RUNS_FILE, find  # noqa: E402
from sparserl.status import look  # noqa: E402
from sparserl.sweeps.jobs import job_name  # noqa: E402

TABLES = {table.name: table for table in reproduce_tables.TABLES}
SMALL = ("trainer=smoke", "network.hidden=[8]")

# ---------------------------------------------------------------- what is in a table


def test_every_experiment_is_of_a_table_and_the_reverse() -> None:
    files = {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")}
    used = {cell.experiment for table in TABLES.values() for cell in table.cells}
    assert files == used
    assert {*TABLES} <= files


def test_cells_of_one_table_are_all_different() -> None:
    for table in TABLES.values():
        commands = [tuple(cell.command("x")) for cell in table.cells]
        assert len({*commands}) == len(commands)


def test_the_ablation_is_four_lambda_c_by_three_beta_by_four_seeds() -> None:
    """Of dqn and ppo on CartPole, dqn on Acrobot, ppo on LunarLander and td3 on Pendulum; beside the dense ones."""
    (cell,) = (cell for cell in TABLES["ablation_lambda_beta"].cells if cell.name == "td3-pendulum-l0")
    runs = [job.config for job in cell.jobs("x", *SMALL)]
    points = {(config["regularizer"]["lambda_c"], config["regularizer"]["beta"], config["seed"]) for config in runs}
    assert len(points) == len(runs) == 4 * 3 * 4
    assert {seed for *_, seed in points} == {2000, 2001, 2002, 2003}
    assert {cell.name for cell in TABLES["ablation_lambda_beta"].cells} == {
        f"{pair}-{regularizer}"
        for pair in ("dqn-cartpole", "ppo-cartpole", "dqn-acrobot", "ppo-lunar_lander", "td3-pendulum")
        for regularizer in ("none", "l0")
    }


def test_each_seed_begins_from_the_policy_of_its_own_seed() -> None:
    """As the command's jobs do, or their folders would be others: what a run begins from is part of its name."""
    (cell,) = (cell for cell in TABLES["first_steps"].cells if cell.experiment == "first_steps_from_dense")
    begins = {job.config["init_from"] for job in cell.jobs("x", *SMALL) if job.config["seed"] in (0, 1)}
    assert begins == {f"outputs/x/dqn-cartpole-none-seed{seed}-*" for seed in (0, 1)}


def test_a_run_has_one_folder_in_whichever_table_it_is() -> None:
    """As reproduce_sparsity.py has it, too; with the experiment's own lambda_c or with one that is given."""
    given = {
        "sparsity": next(cell for cell in reproduce_sparsity.CELLS if cell.name == "dqn-cartpole-l0_units"),
        "main": next(cell for cell in TABLES["table_main"].cells if cell.name == "dqn-cartpole-l0_units"),
        "controls": next(cell for cell in TABLES["table_controls"].cells if cell.name == "dqn-cartpole-l0_units"),
        "typed": Cell("dqn", "cartpole", "l0_units", 8, (), 2000, "table_main"),
    }
    folders = {name: {job.folder for job in cell.jobs("x")} for name, cell in given.items()}
    assert len(folders["main"]) == 8
    assert folders["main"] == folders["controls"] == folders["typed"] < folders["sparsity"]


def test_the_folder_of_a_job_is_the_one_that_training_gives_it() -> None:
    cell = Cell("dqn", "cartpole", "none,l1", 2, ("regularizer.lambda_c=1e-3,1e-2",), 5)
    found = [job.folder for job in cell.jobs("mine", *SMALL)]
    typed = [
        *(("regularizer=none", f"seed={seed}") for seed in (5, 6)),  # of none, lambda_c makes no other run
        *(("regularizer=l1", f"regularizer.lambda_c={c}", f"seed={seed}") for c in (1e-3, 1e-2) for seed in (5, 6)),
    ]
    expected = [Path("outputs/mine") / job_name(compose(*SMALL, "sweep_name=mine", *chosen)) for chosen in typed]
    assert list(dict.fromkeys(found)) == expected


def test_what_the_user_gives_wins_over_the_cell() -> None:
    cell = Cell("dqn", "cartpole", "none", 8, first_seed=2000)
    (job,) = cell.jobs("mine", *SMALL, "seed=3", "sweep_name=other")
    assert (job.folder.parent, job.config["seed"]) == (Path("outputs/other"), 3)


def test_the_smoke_form_is_short_where_the_cell_has_a_length_of_its_own_unless_the_user_gives_one() -> None:
    cell = Cell("dqn", "cartpole", "none", 1, ("trainer.total_steps=100_000",))

    def steps(*more: str) -> list[int]:
        return [job.config["trainer"]["total_steps"] for job in cell.jobs("x", *more)]

    assert steps() == [100_000]
    assert steps("trainer=smoke") == [400]
    assert steps("trainer=smoke", "trainer.total_steps=800") == [800]
    assert "trainer.total_steps=100_000" in cell.command("x")
    assert "trainer.total_steps=100_000" not in cell.command("x", "trainer=smoke")


@pytest.mark.slow  # each cell is composed and checked, which takes a tenth of a second and more
@pytest.mark.parametrize(
    "cell",
    dict.fromkeys(cell for module in (reproduce_algorithms, reproduce_sparsity, reproduce_surgical) for cell in module.CELLS)
    | dict.fromkeys(cell for table in (*TABLES.values(), *reproduce_mario.TABLES) for cell in table.cells),
    ids=lambda cell: cell.name,
)
def test_every_cell_can_be_trained(cell: Cell) -> None:
    runs = {job.folder: job.config for job in cell.jobs("x")}
    assert {config["seed"] for config in runs.values()} == {*range(cell.first_seed, cell.first_seed + cell.seeds)}
    assert len(runs) % cell.seeds == 0
    why = Plan(Table("mine", [cell]), "", []).why_not(cell)
    absent = "SURROL_PATH", "not installed", "make install-mario", "matches no finished run"
    if why is not None and any(text in why for text in absent):
        pytest.skip(why)
    assert why is None


# ---------------------------------------------------------------- what is left


def done(kind: str, seconds: float, steps: int) -> dict[str, Any]:
    """What the rates are read from."""
    algorithm, environment, regularizer = kind.split("-")
    names = {"algorithm": algorithm, "environment": environment, "regularizer": regularizer}
    return names | {"wall_seconds": seconds, "env_steps": steps}


def test_rates_are_those_of_finished_loops() -> None:
    """By hand: two members of one loop took 100 s for 500 steps each, one of another 50 s for 250."""
    rates = Rates([*(done("dqn-cartpole-l0", 100.0, 500) for _ in range(2)), done("dqn-cartpole-none", 50.0, 250)])
    assert rates("dqn", "cartpole", "l0") == 1000 / 100
    assert rates("dqn", "cartpole", "none") == 250 / 50
    assert rates("dqn", "cartpole", "l1") == 1250 / 150, "of all that was measured of the pair"
    assert rates("double_dqn", "mountain_car", "l0") == cells.RATES["double_dqn"], "nothing was measured"
    assert rates("ppo", "lunar_lander", "l0") == cells.SLOWER["lunar_lander"], "the environment takes longer"


def test_the_estimate_is_steps_by_rate_and_a_run_that_is_begun_counts_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cells, "RATES", {"dqn": 100})
    cell = Cell("dqn", "cartpole", "none", 2, ("trainer.total_steps=6_000",))
    plan = Plan(Table("mine", [cell]), "", [])
    begun = plan.jobs(cell)[0].folder
    begun.mkdir(parents=True)
    (begun / "status.json").write_text('{"env_step": 2000}')
    seen: set[Path] = set()
    left = plan.left(cell, seen)
    assert left == Left(jobs=2, done=0, steps=10_000, seconds=100)
    assert str(left) == "0 of 2 runs are done; 10,000 environment steps are left, about 0 h 02 min on one core"
    assert str(plan.left(cell, seen)) == "every run of it is in a table before"


def test_a_run_that_another_machine_has_left_in_results_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whichever table it is; one that is trained and not swept by rank is not done."""
    monkeypatch.chdir(tmp_path)
    cell = Cell("dqn", "cartpole", "none", 2, ("trainer.total_steps=6_000",))
    plan = Plan(Table("mine", [cell]), "", [])
    folders = [job.folder for job in plan.jobs(cell)]
    for path, (seed, reason) in zip(folders, ((0, None), (1, "not_swept")), strict=True):
        made_up(path, regularizer="none", seed=seed, rank_reason=reason, wall_seconds=2.0, env_steps=100)
    monkeypatch.setattr(writer, "FIGURES", {})
    building.build([Path("outputs")], Path("results/others"))
    rate = Plan(Table("mine", [cell]), "", [])._rates("dqn", "cartpole", "none")
    assert rate == 2 * 100 / 2.0, "what is here and in a table counts once"
    shutil.rmtree("outputs")
    assert plan.left(cell, set()) == Left(jobs=2, done=1, steps=6_000, seconds=60), "at the rate of both"
    assert not plan.is_done(cell)
    (command,) = plan.commands(cell)
    assert "seed=1" in command
    plan.report()
    with Path("results/mine/rows.csv").open(newline="") as file:
        assert [line["seed"] for line in csv.DictReader(file)] == ["0", "1"]


def test_only_what_is_left_of_a_cell_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together where the same seeds are left of every strength; else each strength with its own seeds."""
    monkeypatch.chdir(tmp_path)
    cell = Cell("dqn", "cartpole", "l1", 2, ("regularizer.lambda_c=1e-3,1e-2",))
    plan = Plan(Table("mine", [cell]), "", [])
    strengths = "regularizer.lambda_c=0.001", "regularizer.lambda_c=0.01"
    folders = {(job.combination[3], job.config["seed"]): job.folder for job in plan.jobs(cell)}
    assert {strength for strength, _ in folders} == {*strengths}
    assert plan.commands(cell) == [[*cell.command("mine")[:6], "seed=0,1", *cell.command("mine")[7:]]]
    for strength in strengths:
        made_up(folders[strength, 0])
    (both,) = plan.commands(cell)
    assert {"seed=1", "regularizer.lambda_c=1e-3,1e-2"} < {*both}
    made_up(folders[strengths[1], 1])
    (one,) = plan.commands(cell)
    assert {"seed=1", strengths[0]} < {*one}
    assert strengths[1] not in one


def test_a_cell_that_cannot_be_trained_here_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where SurRoL is absent, and its runs were trained on another machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SURROL_PATH", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda command, check: building.build([Path(command[-1])], Path(command[-1])))
    monkeypatch.setattr(writer, "FIGURES", {})
    absent, here = Cell("ddpg", "surrol_ecm_reach", "none", 1), Cell("dqn", "cartpole", "none", 1)
    plan = Plan(Table("mine", [absent, here]), "", [])
    assert "SURROL_PATH" in str(plan.why_not(absent))
    for cell in (absent, here):
        made_up(plan.jobs(cell)[0].folder, regularizer="none", algorithm=cell.algorithm, environment=cell.environment)
    plan.report()
    shutil.rmtree("outputs")
    again = Plan(Table("mine", [absent, here]), "", [])
    again.report()
    with Path("results/mine/rows.csv").open(newline="") as file:
        assert [line["environment"] for line in csv.DictReader(file)] == ["surrol_ecm_reach", "cartpole"]
    assert again.is_done(absent)
    assert again.why_not(absent) is None, "nothing is left of it"


def test_rows_of_another_machine_are_given_the_settings_that_newer_runs_differ_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table did not state ``proximal``, in which its runs did not differ: so they seemed to be of a third kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda command, check: building.build([Path(command[-1])], Path(command[-1])))
    monkeypatch.setattr(writer, "FIGURES", {})
    plain = [Cell("dqn", "cartpole", "l1", seeds, ("regularizer.lambda_c=1e-2",)) for seeds in (2, 3)]
    proximal = Cell("dqn", "cartpole", "l1", 1, ("regularizer.lambda_c=1e-2", "regularizer.proximal=true"))
    elsewhere, here = Plan(Table("mine", plain[:1]), "", []), Plan(Table("mine", [plain[1], proximal]), "", [])

    def train(plan: Plan) -> None:
        for job in (job for cell in plan.table.cells for job in plan.jobs(cell) if not plan._is_known(job.folder)):
            regularizer = job.config["regularizer"]
            reached = 40.0 + 8 * regularizer["proximal"]  # no two runs with one result
            made_up(
                job.folder, regularizer="l1", seed=job.config["seed"], return_mean=reached, config={"regularizer": regularizer}
            )

    train(elsewhere)
    elsewhere.report()
    shutil.rmtree("outputs")
    train(here)
    here.report()
    with Path("results/mine/rows.csv").open(newline="") as file:
        found = sorted((line["seed"], line["regularizer.proximal"]) for line in csv.DictReader(file))
    assert found == [("0", "False"), ("0", "True"), ("1", "False"), ("2", "False")]


def test_a_table_that_others_begin_from_keeps_its_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose policy is lost is trained again, or nothing could begin from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda command, check: building.build([Path(command[-1])], Path(command[-1])))
    monkeypatch.setattr(writer, "FIGURES", {})
    cell = Cell("dqn", "cartpole", "none", 2)
    table = Table("mine", [cell], keeps_policies=True)
    for job in Plan(table, "", []).jobs(cell):
        made_up(job.folder, regularizer="none", seed=job.config["seed"])
        (job.folder / "policy.safetensors").write_text(f"of seed {job.config['seed']}")
    Plan(table, "", []).report()
    shutil.rmtree("outputs")
    assert Plan(table, "", []).is_done(cell)
    (lost,) = Path("results/mine/policies").glob("dqn-cartpole-none-seed1-*/policy.safetensors")
    assert lost.read_text() == "of seed 1"
    lost.unlink()
    (command,) = Plan(table, "", []).commands(cell)
    assert "seed=1" in command
    assert Plan(Table("mine", [cell]), "", []).is_done(cell), "a table that keeps none does not ask for it"


def run(arguments: Sequence[str], folder: Path, script: str = "reproduce_tables") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / f"scripts/{script}.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=3600)


def test_a_table_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    refused = run(["table_mian"], tmp_path)
    assert refused.returncode == 2
    assert "table_mian: known tables are table_main, table_ranks" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--only", "nothing_here"], 2, "--only nothing_here: no cell has that in its name; --list prints them"),
        (
            ["--only", "ppo-cartpole", "--estimate", "regularizer.lamda=3"],
            1,
            "sparserl: regularizer.lamda is not a key of the config; did you mean regularizer.lambda_c?",
        ),
    ],
)
def test_what_no_cell_has_is_refused_and_nothing_is_reported(
    arguments: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    refused = run(["table_main", *arguments], tmp_path)
    assert (refused.returncode, refused.stderr.splitlines()[-1].endswith(sentence)) == (code, True)
    assert not list(tmp_path.iterdir())


def test_the_command_of_each_cell_is_one_to_type(tmp_path: Path) -> None:
    listed = run(["table_ranks", "--list", "--only", "td3-pendulum-l0_rank"], tmp_path)
    assert listed.stdout == (
        "td3-pendulum-l0_rank: python -m sparserl.train -m experiment=table_ranks algorithm=td3 environment=pendulum "
        "regularizer=l0_rank 'seed=range(2000,2008)' regularizer.lambda_c=40.0 sweep_name=tables logger=disk\n"
    )
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the runs of a report


def test_a_report_takes_the_runs_that_a_tables_folder_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "others"):
        folder = Path("outputs/tables") / name
        folder.mkdir(parents=True)
        (folder / "status.json").write_text('{"status": "running", "env_step": 1, "total_steps": 2, "process": 1, "host": "a"}')
    table = Path("results/table")
    table.mkdir(parents=True)
    (table / RUNS_FILE).write_text("outputs/tables/mine\noutputs/tables/not_yet\noutputs\n")
    assert [run.folder for run in find([table])] == [Path("outputs/tables/mine")], "and not whatever is below outputs"
    assert [job.folder for job in look(table)] == ["outputs/tables/mine"]
    assert [job.folder for job in look(Path("outputs"))] == ["tables/mine", "tables/others"]


# ---------------------------------------------------------------- speed


@pytest.mark.slow  # each measurement is a process of its own, and begins after learning has begun
@pytest.mark.parametrize("name", ["dqn", "ppo", "a2c", "ddpg", "td3", "sac"])
def test_every_algorithm_is_measured_beside_stable_baselines3(name: str, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    command = [sys.executable, str(ROOT / "scripts/bench_algorithms.py"), "--smoke", "--only", name]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    measured = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=3600)
    assert measured.returncode == 0, measured.stderr
    with (tmp_path / "outputs/smoke-results/algorithms-speed/rows.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["algorithm"] == name
    assert all(float(row[rate]) > 0 for rate in ("sb3_first", "sb3_last", "solo", "together"))
    assert float(row["together_times"]) == pytest.approx(float(row["together"]) / float(row["sb3"]))


# ---------------------------------------------------------------- returns of others


def test_dense_returns_stand_beside_published_ones_and_those_trained_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sparse runs and small networks are left out; what nobody has is a dash; of two tables the first counts."""
    monkeypatch.setattr(writer, "FIGURES", {})

    def table(name: str, *runs: tuple[str, str, str, str, int, float]) -> Path:
        for algorithm, environment, regularizer, network, seed, its_return in runs:
            names = {"algorithm": algorithm, "environment": environment, "regularizer": regularizer, "network": network}
            path = tmp_path / "runs" / name / "-".join(map(str, (*names.values(), seed)))
            made_up(path, **names, seed=seed, return_mean=its_return, env_steps=100_000)
        building.build([tmp_path / "runs" / name], tmp_path / name)
        return tmp_path / name

    ours = table(
        "ours",
        *(("ppo", "acrobot", "none", "mlp", seed, its_return) for seed, its_return in ((0, -70.0), (1, -72.0))),
        ("ppo", "acrobot", "l0", "mlp", 0, -99.0),
        ("ppo", "hopper", "none", "mlp", 0, 2000.04),
    )
    later = table(
        "later",
        ("a2c", "acrobot", "none", "small_dense", 0, -1.0),
        ("a2c", "acrobot", "none", "mlp", 0, -90.0),
        ("ppo", "hopper", "none", "mlp", 0, 1.0),
    )
    rows = tmp_path / "rows.csv"
    rows.write_text("algorithm,environment,return\nppo,hopper,1234.56\n")
    header, _, *body = reference_returns.beside([ours, later], rows).splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")][2:] == [
        *("table", "steps", "seeds", "return here"),
        *("rl-baselines3-zoo", "CleanRL", reference_returns.PEER),
    ]
    assert body == [
        "| a2c | acrobot | later | 100,000 | 1 | -90.0 | - | - | - |",
        # Student's t of one degree of freedom is 12.7, and the standard error is 1
        "| ppo | acrobot | ours | 100,000 | 2 | -71.0 [-83.7, -58.3] | -73.5 | -86.4 | - |",
        "| ppo | hopper | ours | 100,000 | 1 | 2000.0 | 2410 | - | 1234.6 |",
    ]


def test_a_schedule_that_changes_is_not_handed_on_as_a_constant() -> None:
    assert reference_returns.constant({"_target_": "sparserl.schedules.Constant", "value": 0.2}) == 0.2
    with pytest.raises(ValueError, match="Linear is not a constant"):
        reference_returns.constant({"_target_": "sparserl.schedules.Linear", "start": 1.0, "end": 0.0})


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["ppo-hopper", "td3-half_cheetah", "sac-half_cheetah"])
def test_stable_baselines3_is_given_our_settings(pair: str) -> None:
    pytest.importorskip("stable_baselines3")
    algorithm, environment = pair.split("-")
    config = compose(f"algorithm={algorithm}", f"environment={environment}", "regularizer=none")
    model = reference_returns.model_of(config, seed=0)
    assert model.gamma == config["algorithm"]["gamma"]
    assert model.batch_size == config["experience"]["batch_size"]
    linears = [its.out_features for its in model.policy.modules() if hasattr(its, "out_features")]
    assert {*config["algorithm"]["network"]["hidden"]} <= {*linears}
    assert (model.get_vec_normalize_env() is not None) == config["algorithm"]["normalize_observation"]


# ---------------------------------------------------------------- the smoke form

ONLY = {
    "table_main": "ppo-cartpole-l1",
    "table_ranks": "dqn-cartpole-l0_rank",
    "ablation_lambda_beta": "td3-pendulum",
    "ablation_recipe": "dqn-cartpole-l0",
    "table_continuous": "sac-pendulum-l0_units",
    "table_algorithms": "a2c-acrobot",
    "table_controls": "ppo-cartpole-none",
    "first_steps": "",
}
"""Cells enough to have each kind once; all of a table takes many minutes even so."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TABLES])
def test_the_smoke_form_estimates_trains_reports_and_goes_on(name: str, tmp_path: Path) -> None:
    small = () if name == "table_controls" else ("network.hidden=[16,16]",)  # small_dense has a size of its own
    check_smoke_form([name, "--only", ONLY[name], "trainer=smoke", *small, "seed=0"], name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "only"),
    [
        ("reproduce_algorithms", "ppo-acrobot-none"),
        ("reproduce_sparsity", "ppo-cartpole-magnitude"),
        pytest.param(
            "reproduce_surgical",
            "ddpg-surrol_ecm_reach-none",
            marks=pytest.mark.skipif(not os.environ.get(FOLDER), reason=f"needs a clone of SurRoL that {FOLDER} names"),
        ),
    ],
)
def test_the_smoke_form_of_a_cell_of_the_other_scripts(script: str, only: str, tmp_path: Path) -> None:
    command = ["--only", only, "trainer=smoke", "network.hidden=[16,16]", "seed=0"]
    check_smoke_form(command, script.removeprefix("reproduce_"), tmp_path, script)


@pytest.mark.slow
def test_a_cell_that_cannot_be_trained_here_is_named_and_the_exit_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    refused = run(["--only", "ddpg-surrol_ecm_reach-none", "trainer=smoke"], tmp_path, "reproduce_surgical")
    assert refused.returncode == 1
    assert "not trained:\nddpg-surrol_ecm_reach-none: " in refused.stderr
    assert not list(tmp_path.glob("outputs/*/*/result.json"))


def check_smoke_form(command: Sequence[str], name: str, tmp_path: Path, script: str = "reproduce_tables") -> None:
    """A table's smoke form estimates, trains and reports; started again, it has nothing left to train."""
    first = run(command, tmp_path, script)
    assert first.returncode == 0, first.stderr
    assert first.stdout.index("environment steps are left, about") < first.stdout.index("return"), "the estimate comes first"
    results = tmp_path / "outputs/smoke-results" / name
    assert (results / "table.md").exists()
    named = [tmp_path / line for line in (results / RUNS_FILE).read_text().splitlines()]
    trained = {path.parent for path in tmp_path.glob("outputs/*/*/result.json")}
    assert trained
    assert trained <= {*named}, "the runs that the script expected are those that were trained"
    assert not (tmp_path / "results").exists()
    again = run(command, tmp_path, script)
    assert again.returncode == 0, again.stderr
    assert "0 environment steps are left" in again.stdout
    assert " jobs: " not in again.stderr, "no multirun is begun"
