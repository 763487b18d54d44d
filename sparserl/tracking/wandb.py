"""The rows of the disk in Weights & Biases too, as one run for each member.

metrics.jsonl is the truth, and W&B a copy that may be late or missing. What it is told carries a step (the environment step
in rows of training, counted on from there in what comes after them), so that a run that goes on sends what W&B lacks and
nothing that it has. How far W&B has it is known from W&B, or offline from the files that W&B itself keeps in the run's folder;
what W&B has there, from the digests of all that was sent. Where the disk now says otherwise, those rows are of another attempt:
their run is left, tagged ``superseded``, and a new one is told everything. Whatever goes wrong with W&B is said in one line,
and training goes on.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec

from torch import Tensor

from sparserl.runs.files import FIGURE, POLICY, write_text
from sparserl.runs.schema import Result, StatusName, as_json
from sparserl.terminal import describe, say, say_once
from sparserl.tracking import wandb_files as files
from sparserl.tracking.base import Log, Logger

INIT_SECONDS = 15.0
"""How long W&B may take to begin a run before training goes on offline."""

FINISH_SECONDS = 8.0
"""How long the end of all runs may wait for uploads; what is left can be uploaded with ``wandb sync``."""

PRIVATE: dict[str, Any] = {"save_code": False, "disable_git": True, "x_disable_stats": True}
"""What W&B would send by itself and is not asked to. result.json has the commit, and changes that are in none stay on this
machine; of the machine it would be too much, once for each member."""

EXIT_CODES = {"done": 0, "failed": 1, "interrupted": 255}
"""W&B shows 255, its own code of a run that was stopped, as killed."""

P = ParamSpec("P")


def _wandb() -> ModuleType:
    """The package, imported only where it is used: it takes a second."""
    # W&B's telemetry of itself would leave threads behind and, without a network, hold the process up at its end
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def has_key(mode: str) -> bool:
    """Whether W&B finds a key, in WANDB_API_KEY, in netrc or in its own settings, without a prompt and without a request."""
    wandb = _wandb()
    asked = {} if mode == "auto" else {"mode": mode}  # stronger than WANDB_MODE
    try:
        wandb.setup(wandb.Settings(silent=True, **asked))
        return bool(wandb.login(prompt=False, verify=False))
    except Exception:  # noqa: BLE001 (a key that is none, settings that are wrong: the first run will say so, and go on)
        return True


def _tear_down() -> None:
    """End W&B's threads and process, unless a run is open that is another member's or one of the caller's own."""
    with suppress(Exception):
        wandb = _wandb()
        session = wandb.setup()
        if session.most_recent_active_run is None:
            try:
                wandb.teardown()
            except (Exception, SystemExit):  # noqa: BLE001 (of a process that is gone, W&B says so)
                session.asyncer.join()


def _kill() -> None:
    """End W&B's process at once. Asked to end, it would first wait for what it is waiting for."""
    with suppress(Exception):
        process = _wandb().setup().ensure_service()._proc._process  # noqa: SLF001 (there is no public way)
        process.kill()
        process.wait()


@dataclass(frozen=True, kw_only=True)
class Wandb(Logger):
    """One run of W&B for each member, all open at once in one process.

    Keys (``make docs`` copies them from ``conf/logger/wandb.yaml``):
        mode (``auto``, ``online``, ``offline``, ``disabled``): online, offline (to be uploaded with ``wandb sync``), disabled,
            or auto: what the variable WANDB_MODE says if it is set, else online where W&B has a key (WANDB_API_KEY, netrc or
            its own settings) and offline where it has none.
        project (text): Where the runs are in W&B: what the variable WANDB_PROJECT says if it is set, else sparserl.
        entity (text or ``null``): The user or team that the project belongs to; null is what the variable WANDB_ENTITY says if
            it is set, else the key's own default.
        group (text or ``null``): What W&B shows as one group: the sweep in a multirun, null in a single run.
        tags (list of: text): Words to find the runs by; where there are none, those of the variable WANDB_TAGS, which commas
            separate.
    """

    mode: Literal["auto", "online", "offline", "disabled"]
    project: str
    entity: str | None
    group: str | None
    tags: list[str]

    def __post_init__(self) -> None:
        if self._asked() == "online" and not has_key(self.mode):
            raise ValueError(
                "logger.mode is 'online', but W&B has no key: run `wandb login`, set WANDB_API_KEY, or use logger.mode=offline"
            )

    @property
    def recipient(self) -> str | None:
        is_own = self.entity is None or self.entity == os.environ.get("WANDB_ENTITY")
        if is_own or self._asked() in ("offline", "disabled") or not has_key(self.mode):
            return None
        return self.entity

    def foreign_settings(self, folder: Path) -> Path | None:
        settings = Path(os.environ.get("WANDB_DIR") or Path.cwd()).resolve() / "wandb" / "settings"
        return settings if settings.exists() and folder.resolve() in settings.parents else None

    def _asked(self) -> str:
        """The mode that is asked for; where ``logger.mode`` leaves it open, by W&B's own variable."""
        asked = os.environ.get("WANDB_MODE", "auto") if self.mode == "auto" else self.mode
        return asked if asked in ("online", "offline", "disabled") else "auto"

    def open(self, folders: Sequence[Path], configs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Sequence[Log]:
        mode = self._asked()
        if mode == "disabled":
            return super().open(folders, configs, names)
        if mode == "auto":
            mode = "online" if has_key(self.mode) else "offline"
            if mode == "offline":
                say_once("W&B has no key (`wandb login` stores one): runs are kept on the disk for it, to be uploaded later")
        if len(folders) > 1 and files.of_agent():
            say_once("warning: an agent of W&B has begun one run: it is told of the first member only")
        if named := os.environ.get("WANDB_NAME"):
            names = [named] if len(names) == 1 else [f"{named}-{name}" for name in names]
        logs: list[Log] = []
        for folder, config, name in zip(folders, configs, names, strict=True):
            if logs and files.of_agent():
                logs.append(Log())
                continue
            log = self._try_to_begin(folder, config, name, mode)
            if log is None and mode == "online":
                mode = "offline"  # for the other members too: they do not wait for the same again
                log = self._try_to_begin(folder, config, name, mode)
            logs.append(log or Log())
        return logs

    def _try_to_begin(self, folder: Path, config: Mapping[str, Any], name: str, mode: str) -> Log | None:
        try:
            return self._begin(folder, config, name, mode)
        except Exception as error:  # noqa: BLE001 (whatever the reason, a copy of the rows is not worth the run)
            then = "runs are kept on the disk for it, to be uploaded later" if mode == "online" else "rows are on the disk only"
            say_once(f"warning: W&B cannot be used {mode} ({describe(error)}): {then}")
            _tear_down()  # or else W&B's process takes the id for one in use
            return None

    def _begin(self, folder: Path, config: Mapping[str, Any], name: str, mode: str) -> WandbLog:
        return WandbLog(partial(self._init, folder, config, name), folder, name, mode)

    def _init(self, folder: Path, config: Mapping[str, Any], name: str, mode: str, run_id: str, is_new: bool) -> Any:
        """A run of W&B's."""
        wandb = _wandb()
        run = wandb.init(
            mode=mode,
            id=run_id,
            # without it, `wandb sync` writes over what has arrived; with it, it appends
            resume=None if is_new else "allow",
            reinit="create_new",
            dir=files.home(folder),
            project=self.project,
            entity=self.entity,
            group=self.group,
            tags=self.tags or None,  # W&B then looks at WANDB_TAGS
            job_type=config["names"]["regularizer"],
            name=name,
            config={key: value for key, value in config.items() if key != "working_directory"},  # it is of the machine
            settings=wandb.Settings(
                silent=True,
                console="off",
                symlink=False,
                **PRIVATE,
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=FINISH_SECONDS / 2,  # what is given up on must be on the disk by then
            ),
        )
        run.define_metric("env_step")
        run.define_metric("*", step_metric="env_step")
        run._cached_public_api = _OfflineArtifactApi()  # noqa: SLF001
        return run

    def close(self, logs: Sequence[Log]) -> None:
        opened = [log for log in logs if isinstance(log, WandbLog)]
        if not opened:
            return
        for log in opened:
            log.end("failed")
        deadline = time.monotonic() + FINISH_SECONDS + 1  # W&B keeps to its time, but for alerts, tables and files under way
        if not all(log.ended_by(deadline) for log in opened):
            _kill()  # whatever waits for it, gives up
            deadline = time.monotonic() + 1
            for log in opened:
                log.ended_by(deadline)
        _tear_down()
        say(f"W&B: {'; '.join(_where_to_look(opened))}")


class _OfflineArtifactApi:
    """Stands in for the client with which a run asks the server, in the middle of logging, for the type of an artifact.

    Without a network it would wait 20 s for each table and for the policy, and not keep them for ``wandb sync`` either.
    """

    settings: ClassVar[dict[str, str]] = {"entity": "", "project": ""}

    def _expected_artifact_type(self, **_: object) -> None:
        """No type is expected."""

    def _set_artifact_save_handle(self, *_: object) -> None:
        """The upload is not waited for."""


def _never_raises(method: Callable[Concatenate[WandbLog, P], None]) -> Callable[Concatenate[WandbLog, P], None]:
    """What W&B raises in a method is said in one line, and no more comes of it."""

    @wraps(method)
    def guarded(log: WandbLog, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(log, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 (see Wandb.open)
            log.uploaded = False
            say_once(f"warning: W&B did not take everything ({describe(error)}): rows are on the disk")

    return guarded


class WandbLog(Log):
    """One open run. ``init`` opens it, from the mode, its id, and whether that is new."""

    def __init__(self, init: Callable[[str, str, bool], Any], folder: Path, name: str, mode: str) -> None:
        self.folder = folder
        self._init, self._name = init, name
        self._step = 0
        self._endings: list[Thread] = []
        self._is_ended = False
        self._columns: list[str] = []
        """Those of lowrank.csv, once they are known."""
        self._begin(mode, *files.run_id_of(folder))

    def _begin(self, mode: str, run_id: str, is_new: bool) -> None:
        if is_new:
            for path in files.files_of(self.folder):
                files.superseded(path).touch()
                files.synced(path).touch()
        last_step = -1 if is_new else files.last_step_of(self.folder, run_id) if mode == "offline" else None
        self._run = run = self._init(mode, run_id, is_new)
        self.online, self.is_new = mode == "online", is_new
        self.url, self.project_url = (str(run.url), str(run.project_url)) if self.online else ("", "")
        self.uploaded = self.online
        """False also once W&B is known to lack something."""
        self._had: int = run.starting_step - 1 if last_step is None else last_step
        """The last step that W&B has of earlier processes."""
        self._unseen = {} if is_new else {step: d for step, d in files.sent(self.folder).items() if step <= self._had}
        """The digests of what W&B has and the disk has not said yet, by step."""
        self._known: list[tuple[int, Mapping[str, Any]]] = []
        self._in_rows: set[str] = set()  # the warnings that rows have
        """What W&B has and the disk has too, while there is more to compare."""
        write_text(files.home(self.folder) / files.SENT_FILE, "".join(map(files.line_of, self._unseen.items())))
        self._define_metrics()
        if self.online:
            self._mark_synced()

    def _define_metrics(self) -> None:
        for column in self._columns:  # each by its name: of two patterns that fit, W&B takes either
            self._run.define_metric(f"lowrank/{column}", step_metric=None if column == "rank" else "lowrank/rank")

    @_never_raises
    def _mark_synced(self) -> None:
        """Keep ``wandb sync`` from uploading what earlier processes left: an online run sends again what W&B lacks of it."""
        for path in files.files_of(self.folder):
            if not path.samefile(self._run.settings.sync_file):
                files.synced(path).touch()

    @_never_raises
    def row(self, row: Mapping[str, Any]) -> None:
        warnings = row.get("warnings", [])
        self._in_rows.update(warnings)
        if self._send(row["env_step"], as_json(dict(row))):
            self._alert(warnings, row["env_step"])

    def _alert(self, warnings: Sequence[str], step: int) -> None:
        for warning in warnings:
            text, level = f"{self._name}, step {step}", _wandb().AlertLevel.WARN
            self._run.alert(title=warning, text=text, level=level, wait_duration=0)

    @_never_raises
    def sweep(self, rows: Sequence[Mapping[str, Any]]) -> None:
        wandb = _wandb()
        self._columns = [*rows[0]]
        self._define_metrics()
        for row in rows:
            self._send(self._step + 1, {f"lowrank/{column}": value for column, value in as_json(dict(row)).items()})
        table = wandb.Table(list(rows[0]), [list(row.values()) for row in rows], allow_mixed_types=True)
        values: dict[str, Any] = {"tables/lowrank": table}
        *truncated, full = rows
        if truncated:
            returns = [row["return_mean"] for row in truncated], [full["return_mean"]] * len(truncated)
            values["plots/return_by_rank"] = wandb.plot.line_series(
                [row["rank"] for row in truncated], returns, ["truncated", "full rank"], "Return by rank", "rank"
            )
        self._send(self._step + 1, values)

    @_never_raises
    def finish(self, result: Result, distributions: Mapping[str, Tensor]) -> None:
        wandb = _wandb()
        finite = {name: values[values.isfinite()].cpu().numpy() for name, values in distributions.items()}
        self._send(self._step + 1, {f"histograms/{name}": wandb.Histogram(values) for name, values in finite.items()})
        self._run.summary.update(as_json(result))
        self._alert([warning for warning in result.warnings if warning not in self._in_rows], result.env_steps)
        policy = wandb.Artifact(f"policy-{self._run.id}", type="model")
        # as it lies in the folder, without a copy
        policy.add_file(str((self.folder / POLICY).resolve()), policy="immutable", skip_cache=True)
        with _data_in(files.home(self.folder) / "wandb"):
            self._run.log_artifact(policy)

    def end(self, status: StatusName) -> None:
        if not self._is_ended:
            self._is_ended = True
            if status == "done":
                self._draw()
            self._start(self._finish, EXIT_CODES[status])

    def film(self, path: Path) -> None:
        if not self._is_ended:
            self._is_ended = True
            self._show(path)
            self._start(self._finish, EXIT_CODES["done"])

    @_never_raises
    def _show(self, path: Path) -> None:
        self._log(self._had + 1, {"film": _wandb().Video(str(path))})

    def _start(self, finish: Callable[..., None], *arguments: Any) -> None:
        """Begin to end a run: the uploads of all members are waited for at once, in ``close``."""
        self._endings.append(Thread(target=finish, args=arguments, daemon=True))
        self._endings[-1].start()

    @_never_raises
    def _draw(self) -> None:
        figure = self.folder / FIGURE
        if figure.exists():
            self._send(self._step + 1, {"figure": _wandb().Image(str(figure))})

    @_never_raises
    def _finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)
        if self.uploaded:
            files.synced(Path(self._run.settings.sync_file)).touch()

    def ended_by(self, deadline: float) -> bool:
        """Wait for what ``end`` began, until ``deadline`` at most (of time.monotonic); whether it is over."""
        for ending in self._endings:
            ending.join(max(0.0, deadline - time.monotonic()))
        return not any(ending.is_alive() for ending in self._endings)

    def _send(self, step: int, values: Mapping[str, Any]) -> bool:
        """Tell W&B of a step, unless it knows it; whether it was told."""
        self._step = step
        digest = files.digest(values)
        if self._unseen and (step, digest) == next(iter(self._unseen.items())):
            del self._unseen[step]
            self._known.append((step, values))
            return False
        if self._unseen or step <= self._had:
            self._begin_anew()
        self._known.clear()
        self._log(step, values)
        return True

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        with (files.home(self.folder) / files.SENT_FILE).open("a") as file:  # first: of what W&B has there is always a digest
            file.write(files.line_of((step, files.digest(values))))
        with _data_in(files.home(self.folder) / "wandb"):
            self._run.log(dict(values), step=step, commit=True)

    def _begin_anew(self) -> None:
        """Leave the run to another attempt's rows, and tell a new one what the disk has said so far."""
        say_once("W&B has rows of an earlier attempt: their runs are tagged superseded, and new ones are told everything")
        old, known = self._run, self._known
        self._unseen, self._had = {}, -1  # whatever goes wrong below, this is not tried again
        self._start(_leave, old)
        run_id, _ = files.run_id_of(self.folder, anew=True)
        if run_id == old.id:
            self._endings[-1].join()
        try:
            self._begin("online" if self.online else "offline", run_id, True)
        except Exception:
            if not self.online:
                raise
            self._begin("offline", *files.run_id_of(self.folder, anew=True))  # W&B's process takes the other id for one in use
        for step, values in known:
            self._log(step, values)


def _leave(run: Any) -> None:
    """End a run whose rows are of another attempt."""
    with suppress(Exception):  # whatever it is, that run is of no use
        run.tags = (*(run.tags or ()), files.SUPERSEDED)
        run.finish(exit_code=EXIT_CODES["failed"])


def _where_to_look(logs: Sequence[WandbLog]) -> Iterator[str]:
    """Where runs can be seen, and how those that cannot be come there."""
    online = [log for log in logs if log.online]
    if len(online) == 1:
        yield online[0].url
    elif online:
        yield f"{len(online)} runs in {online[0].project_url}"
    kept = [files.home(log.folder) for log in logs if not log.uploaded and (log.is_new or not log.online)]
    if kept:
        solo = len(kept) == 1
        written = (path for log in logs for path in files.files_of(log.folder) if files.home(log.folder) in kept)
        left = [path for path in written if not files.synced(path).exists()]
        also_online = any(path.parent.name.startswith("run-") for path in left)
        pattern = f"{'' if solo else '/*'}/wandb/{'*' if also_online else 'offline-'}run-*"
        roots = sorted({str(folder if solo else folder.parent) for folder in kept})
        paths = " ".join(f"{shlex.quote(root)}{pattern}" for root in roots)
        yield f"wandb sync {'--include-online ' if also_online else ''}{paths}"
    # what such a run has sent, `wandb sync` would send again
    if any(not log.uploaded and log.online and not log.is_new for log in logs):
        yield "it lacks the last rows: start the same again, or with resume=FOLDER, to send them"


@contextmanager
def _data_in(folder: Path) -> Iterator[None]:
    """What W&B writes for tables and artifacts goes here, not to the user's home."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
        else:
            os.environ["WANDB_DATA_DIR"] = before
