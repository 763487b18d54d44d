"""scripts/wandb_sweep.yaml, filled in as W&B's agent does it, and a run in the environment that an agent makes for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb_runs import history, of, records
from wandb_server import Server

from sparserl import terminal
from sparserl.config.validation import compose
from sparserl.runs.files import read_json
from sparserl.runs.schema import Result
from sparserl.tracking.wandb import Wandb

TEXT = (Path(__file__).parents[2] / "scripts" / "wandb_sweep.yaml").read_text()
SWEEP: dict[str, Any] = yaml.safe_load(TEXT)
CONFIG = {"names": {"regularizer": "l0"}, "seed": 3, "regularizer": {"lambda_c": 7.0}}


def filled_in(values: dict[str, Any]) -> list[str]:
    """The command line for these values, by the functions of W&B's agent."""
    given = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    macros = given | {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [SWEEP["program"]]}
    words = create_sweep_command(SWEEP["command"])
    return [part for word in words for part in (macros[word[2:-1]] if word.startswith("${") else [word])]


def points() -> list[dict[str, Any]]:
    """As many points of the grid as it takes to have each value once."""
    values = {name: parameter.get("values", [parameter.get("value")]) for name, parameter in SWEEP["parameters"].items()}
    columns = zip_longest(*values.values())
    return [{name: values[name][0] if value is None else value for name, value in zip(values, c, strict=True)} for c in columns]


# ---------------------------------------------------------------- the definition


@pytest.mark.parametrize("values", points(), ids=str)
def test_the_command_that_an_agent_makes_is_one_that_trains(values: dict[str, Any]) -> None:
    command = filled_in(values)
    assert command[:4] == ["/usr/bin/env", "python", "-m", "sparserl.train"]
    config = compose(*command[4:])
    assert config["names"]["regularizer"] == values["regularizer"]
    assert (config["regularizer"]["lambda_c"], config["seed"]) == (values["regularizer.lambda_c"], values["seed"])


def test_what_is_swept_over_and_aimed_at_is_there() -> None:
    assert SWEEP["metric"]["name"] in Result.__dataclass_fields__
    assert SWEEP["project"] == compose()["logger"]["project"]
    (typed,) = [line for line in TEXT.splitlines() if "sparserl.train -m" in line]
    lambdas = ",".join(f"{value:g}" for value in SWEEP["parameters"]["regularizer.lambda_c"]["values"])
    seeds = SWEEP["parameters"]["seed"]["values"]
    assert f"regularizer.lambda_c={lambdas} 'seed=range({len(seeds)})'" in typed
    assert seeds == [*range(len(seeds))]


# ---------------------------------------------------------------- the run


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that an agent sets for the process that it starts."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "agent").mkdir()
    parameters = tmp_path / "agent" / "config-agent-run.yaml"
    parameters.write_text(yaml.safe_dump({"wandb_version": 1, "regularizer.lambda_c": {"value": 7.0}}))
    for name, value in {
        "SWEEP_ID": "sweep123", "RUN_ID": "agentrun", "PROJECT": "of-agent", "ENTITY": "me", "DIR": str(tmp_path / "agent"),
        "SWEEP_PARAM_PATH": str(parameters), "MODE": "offline",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()  # it may know the variables as they were
    terminal.say_once.cache_clear()


def logged(*folders: Path, mode: Any = "auto", steps: Sequence[int] = (10,)) -> None:
    """A few rows of each member of a population."""
    chosen = Wandb(mode=mode, project="sparserl", entity=None, group=None, tags=[])
    for folder in folders:
        folder.mkdir(exist_ok=True)
    logs = chosen.open(folders, [CONFIG] * len(folders), [folder.name for folder in folders])
    for log in logs:
        for step in steps:
            log.row({"env_step": step})
        log.end("done")
    chosen.close(logs)


def begun(folder: Path) -> list[dict[str, Any]]:
    return [of("run", process)[0] for process in records(folder)]


@pytest.mark.usefixtures("agent")
def test_under_an_agent_a_run_is_the_agents(tmp_path: Path) -> None:
    logged(tmp_path / "run")
    (run,) = begun(tmp_path / "run")
    assert (run["run_id"], run["sweep_id"], run["project"], run["entity"]) == ("agentrun", "sweep123", "of-agent", "me")
    config = {key: value for key, value in run["config"]["update"].items() if key != "_wandb"}
    assert config == CONFIG | {"regularizer.lambda_c": 7.0}, "what the agent gave, beside ours"
    assert not [*(tmp_path / "agent").glob("wandb")], "it is in the run's folder like any other"


@pytest.mark.usefixtures("agent")
def test_a_run_of_an_agent_goes_on_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    logged(folder)
    for name in ("SWEEP_ID", "RUN_ID", "SWEEP_PARAM_PATH", "DIR"):
        monkeypatch.delenv(f"WANDB_{name}")
    logged(folder, steps=(10, 20))
    assert [run["run_id"] for run in begun(folder)] == ["agentrun", "agentrun"]
    assert [row["env_step"] for process in records(folder) for row in history(process)] == [10, 20]


def test_without_an_agent_the_id_is_the_folders_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set for other reasons is no agent: all runs of a process would be one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_RUN_ID", "somebody")
    folders = [tmp_path / "a", tmp_path / "b"]
    logged(*folders, mode="offline")
    (first,), (second,) = map(begun, folders)
    assert len({first["run_id"], second["run_id"], "somebody"}) == 3
    assert "sweep_id" not in first


@pytest.mark.usefixtures("agent")
def test_of_a_population_an_agent_has_one_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs with one id would be one run with the rows of both."""
    logged(tmp_path / "a", tmp_path / "b")
    assert len(begun(tmp_path / "a")) == 1
    assert not records(tmp_path / "b")
    assert "the first member only" in capsys.readouterr().err


@pytest.mark.usefixtures("agent")
def test_the_server_gets_the_rows_under_the_agents_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.delenv("WANDB_MODE")
        wandb.teardown()
        logged(tmp_path / "run")
        assert {run: [row["env_step"] for row in rows] for run, rows in server.history.items()} == {"agentrun": [10]}
    assert read_json(tmp_path / "run" / "wandb.json") == {"id": "agentrun"}
