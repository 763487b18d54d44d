"""README.md and docs/ say what is so: generated parts are up to date, links lead somewhere, and commands work as printed."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import pydoc
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from calls_to_gradient import lines_of_code
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

from sparserl.config.schema import CONF
from sparserl.config.validation import compose
from sparserl.environments import mario_views
from sparserl.runs import schema

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_docs"] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


make_docs = load_script()

# ---------------------------------------------------------------- architecture.md


def stated(page: str, text: str) -> int:
    found = re.search(rf"fewer than ([\d,]+) {text}", page)
    assert found is not None
    return int(found[1].replace(",", ""))


def test_what_is_called_up_to_the_gradient_of_dqn_is_as_long_as_the_page_says(tmp_path: Path) -> None:
    """Counted of all files, whether the page lists them or not: those that it lists were half of the lines."""
    page = " ".join((ROOT / "docs" / "architecture.md").read_text().split())
    command = re.search(r"`python -m sparserl.train (algorithm=dqn [^`]+)`", page)
    assert command is not None
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "tests/calls_to_gradient.py",
            *command[1].split(),
            "trainer=smoke",
            "logger=disk",
            "device=cpu",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    # no more, and not much less either: in hundreds of lines and tens of files
    assert sum(lines.values()) < stated(page, "lines of code") <= sum(lines.values()) + 200
    assert len(lines) < stated(page, "files of sparserl") <= len(lines) + 20
    folders: Counter[str] = Counter()
    for file, number in lines.items():
        folders[file.partition("/")[0]] += number
    named = re.search(r"Most lines are in (.+), and of single files in `(.+?)`", page)
    assert named is not None
    assert {f"{folder}/" for folder, _ in folders.most_common(4)} == {*re.findall(r"`(.+?)`", named[1])}
    assert max(lines, key=lambda file: lines[file]) == named[2]
    assert "training/step.py" in lines, "it goes as far as the gradient"
    assert "lowrank/shrinking.py" not in lines, "and no further"


def test_lines_of_code_are_counted_of_called_functions_only(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(
        '"""A module."""\n\nimport math\n\n\n@wrapped\ndef called(x):\n    """What it does."""\n\n    # why\n'
        "    y = (\n        x\n    )\n    return y\n\n\ndef other():\n    return math.pi\n"
    )
    assert lines_of_code(path, {("called", 6)}) == 6
    assert lines_of_code(path, {("called", 6), ("other", 17)}) == 8
    assert lines_of_code(path, set()) == 0


def test_the_files_to_read_up_to_the_gradient_of_dqn_are_as_short_as_the_page_says() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    files = re.findall(r"^(?:\d+\.|  ) \[(sparserl/\S+\.py)\]", page.partition("## Reading order")[2], re.MULTILINE)
    way = files[: files.index("sparserl/algorithms/dqn.py") + 1]
    assert (way[0], way[-2]) == ("sparserl/train.py", "sparserl/training/step.py")
    assert sum(len((ROOT / file).read_text().splitlines()) for file in way) < stated(page.partition("Files 2 to 7")[2], "lines")


# ---------------------------------------------------------------- generated parts


@pytest.mark.parametrize("page", make_docs.pages(), ids=lambda page: page.name)
def test_the_generated_parts_of_a_page_are_up_to_date(page: Path) -> None:
    text = page.read_text()
    assert make_docs.updated(text) == text, "run make docs"
    assert text.count("<!-- generated: ") == text.count("<!-- end -->") == len(make_docs.REGION.findall(text))


def test_a_part_that_is_out_of_date_is_seen_and_replaced_without_what_is_around_it() -> None:
    page = "before\n<!-- generated: top -->\nstale text\n<!-- end -->\nbetween\n<!-- generated: top -->\n<!-- end -->\nafter\n"
    new = make_docs.updated(page)
    assert new != page
    assert "stale text" not in new
    assert "| `seed` | `0` | integer, at least 0 |" in new
    assert [new.count(word) for word in ("before", "between", "after")] == [1, 1, 1]


def test_every_option_and_every_key_is_in_the_configuration() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for group in sorted(
        path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("hydra", "limits", "tuned")
    ):
        for name, option in make_docs.options_of(group).items():
            assert f"### {group}={name}\n" in text or "/" in name
            for key in option.own:
                assert f"| `{key.path}` |" in text


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("gamma", "number, at least 0, at most 1"),
        ("loss", "`mse`, `huber`"),
        ("max_grad_norm", "number, above 0 or `null`"),
        ("target_update_interval", "integer, at least 1"),
        ("epsilon", "number or schedule, at least 0, at most 1"),
        ("optimizer.betas", "list of: number, at least 0, below 1"),
    ],
)
def test_types_are_those_of_the_dataclass(key: str, words: str) -> None:
    options = make_docs.options_of("algorithm")
    (row,) = [
        line for line in "\n".join(make_docs.describe(options["dqn"], options)).splitlines() if f"`algorithm.{key}`" in line
    ]
    assert row.split(" | ")[2] == words


@pytest.mark.parametrize("row", [schema.Status, schema.Result, schema.RankRow, schema.LayerRanks, schema.SingularValue])
def test_every_field_of_a_file_is_described(row: type) -> None:
    told = make_docs.docstrings(row)
    assert [field.name for field in fields(row) if len(told.get(field.name, "").split()) < 2] == []


def test_a_table_of_results_can_be_cut_to_columns_and_rows() -> None:
    """Columns that a report left out, and conditions on them, are skipped."""
    lines = make_docs.results("first_steps", "regularizer, nothing, sparsity", "reduction=sum, nothing=1").splitlines()
    assert lines[:2] == ["| regularizer | sparsity |", "| --- | --- |"]
    assert sorted(line.split()[1] for line in lines[2:]) == ["l0", "l0", "l1"]
    others = make_docs.results("first_steps", "regularizer, sparsity", "regularizer!=l0").splitlines()
    assert sorted(line.split()[1] for line in others[2:]) == ["l1", "l1", "none"]
    assert make_docs.results("sparsity/main", "environment, units alive").splitlines()[0] == "| environment | units alive |"


# ---------------------------------------------------------------- what environments show


def test_the_numbers_of_tiles_are_those_of_the_code() -> None:
    """Three grids and the numbers of Mario, one after the other and without a gap."""
    page = (ROOT / "docs" / "environments.md").read_text()
    ends = [[int(end) for end in found.split("-")] for found in re.findall(r"^\| (\d+(?:-\d+)?) \|", page, re.MULTILINE)]
    (size,) = mario_views.Tiles.shape
    assert [number for first, *last in ends for number in range(first, max(last, default=first) + 1)] == [*range(size)]
    assert [last - first + 1 for first, last in ends[:3]] == [mario_views.ROWS * mario_views.COLUMNS] * 3
    assert len(ends) == 3 + mario_views.SCALARS


# ---------------------------------------------------------------- docstrings


SECTIONS = make_docs.sections()
"""Made once: it takes 0.2 s."""


@pytest.mark.parametrize(
    "module", sorted({make_docs.source(cls) for cls in SECTIONS}), ids=lambda module: f"{module.parent.name}/{module.name}"
)
def test_the_generated_ends_of_docstrings_are_up_to_date(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_docs, "sections", lambda: SECTIONS)
    assert make_docs.documented(module) == module.read_text(), "run make docs"


def help_of(cls: type) -> str:
    """What ``help`` prints of a class, as words between single spaces."""
    return " ".join(pydoc.plain(pydoc.render_doc(cls)).replace(" |", " ").split())


def describes(printed: str, key: str, comment: str) -> bool:
    """Whether a help has the key, perhaps with other keys of the same comment and with a type, before its comment."""
    told = " ".join(comment.replace("`", "``").split())
    return re.search(rf" {re.escape(key)}(, \w+)*( \([^:]*(: [^:]*)?\))?: {re.escape(told)}", printed) is not None


OPTIONS = [
    pytest.param(options, option, id=f"{group}={name}")
    for group in make_docs.groups()
    for options in [make_docs.options_of(group)]
    for name, option in options.items()
    if option.target or "/" in name  # the others set values of keys, which are described where the class is named
]


@pytest.mark.parametrize(("options", "option"), OPTIONS)
def test_help_of_a_class_has_every_key_of_its_yaml_file_with_its_comment(options: dict[str, Any], option: Any) -> None:
    """A key without a comment is one that an inherited file describes, within one that has a comment, or unused."""
    cls = make_docs.class_of(options, option.name)
    printed = help_of(cls)
    assert [key.path for key in option.own if not describes(printed, make_docs.short(key, option), key.comment)] == []
    for parent in option.parents:
        assert parent not in options or f"those of ``{make_docs.class_of(options, parent).__name__}``" in printed
    for name, field in getattr(cls, "__dataclass_fields__", {}).items():
        assert not option.target or "unused" not in field.metadata or re.search(rf"\b{name}\b[^:]* \(``null``\): ", printed)


def test_help_lacks_a_key_that_its_yaml_file_lacks_and_a_comment_of_another_key() -> None:
    printed = help_of(make_docs.load("sparserl.algorithms.dqn.DQN"))
    assert describes(printed, "loss", "Of the TD error: mse or huber.")
    assert not describes(printed, "loss", "Largest norm of a member's gradient; null leaves it.")
    assert not describes(printed, "clip_range", "Of the TD error: mse or huber.")


def test_a_comment_that_changes_makes_the_docstring_of_its_class_out_of_date_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dqn, ppo = (ROOT / "sparserl" / "algorithms" / f"{name}.py" for name in ("dqn", "ppo"))
    shutil.copytree(CONF, tmp_path / "conf")
    yaml_file = tmp_path / "conf" / "algorithm" / "dqn.yaml"
    yaml_file.write_text(yaml_file.read_text().replace("# Of the TD error: mse or huber.", "# Another comment."))
    monkeypatch.setattr(make_docs, "CONF", tmp_path / "conf")
    assert make_docs.documented(dqn) == dqn.read_text().replace("Of the TD error: mse or huber.", "Another comment.")
    assert make_docs.documented(dqn) != dqn.read_text()
    assert make_docs.documented(ppo) == ppo.read_text()


# ---------------------------------------------------------------- links, files, options


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Those in folders of the repository. Where a run will put something, a name in capital letters stands for a part of it."""
    named = re.findall(r"`((?:results|scripts|tests|conf|sparserl)/[^`\s]*)", page.read_text())
    missing = [name for name in named if not re.search(r"[A-Z<]", name) and not [*ROOT.glob(name.split("#")[0].rstrip("/"))]]
    assert missing == []


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"(docs/{page.name})" not in readme] == []


def test_the_readme_is_one_page_with_every_option_in_it() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 130
    assert "\nmake demo " in readme
    assert "\nmake test " in readme
    for group in ("algorithm", "environment", "regularizer", "network"):
        assert [option for option in make_docs.options_of(group) if "/" not in option and f"`{option}`" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in [
        *re.findall(r"^make ([a-z -]+)", page.read_text(), re.MULTILINE),
        *re.findall(r"`make ([^`]+)`", page.read_text()),
    ]:
        assert {word for word in command.split() if "=" not in word} <= targets, command


def test_the_citation_is_of_this_version() -> None:
    from sparserl import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert "doi" not in citation
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2403.06313"


# ---------------------------------------------------------------- commands


def commands(page: Path) -> Iterator[str]:
    """Every ``python -m sparserl...`` in the code of a page."""
    text = page.read_text().replace("\\\n", " ")
    for block in re.findall(r"```.*?\n(.*?)```", text, re.DOTALL):
        yield from (line.partition("  #")[0].strip() for line in block.splitlines() if line.startswith("python -m sparserl"))
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from (" ".join(code.split()) for code in re.findall(r"`(python -m sparserl[^`]*)`", prose))


COMMANDS = sorted({command for page in PAGES for command in commands(page)})
TRAININGS = [command for command in COMMANDS if command.startswith("python -m sparserl.train")]
OTHERS = [command for command in COMMANDS if command not in TRAININGS and len(command.split()) > 3]
"""A command without arguments is a mention, but for the training that needs none."""


@cache
def accepted(*overrides: str) -> bool:
    return bool(compose(*overrides))


def swept(override: Override) -> list[str | None]:
    """The values that a key takes in a multirun; of an interval its ends, and None for a key that has one value."""
    if override.is_interval_sweep():
        interval = override.value()
        assert isinstance(interval, IntervalSweep)
        return [str(interval.start), str(interval.end)]
    return [*override.sweep_string_iterator()] if override.is_sweep_override() else [None]


@pytest.mark.parametrize("command", [command for command in TRAININGS if "--config-dir" not in command])
def test_a_training_of_the_docs_composes(command: str) -> None:
    """Of a multirun, jobs that have each value of each key but the seed once.

    Folders of runs and what is exported from them are placeholders, and experiments have theirs.
    """
    words = [word for word in shlex.split(command)[3:] if word not in ("-m", "--cfg", "job")]
    overrides = [word for word in words if not word.startswith(("resume=", "init_from=", "regularizer.path="))]
    parsed = OverridesParser.create().parse_overrides(overrides)
    values = [swept(each) for each in parsed]
    values = [each[:1] if key.get_key_element() == "seed" else each for each, key in zip(values, parsed, strict=True)]
    for chosen in zip_longest(*values):
        job = [
            text if value is None and not each.is_sweep_override() else f"{each.get_key_element()}={value or first[0]}"
            for text, each, value, first in zip(overrides, parsed, chosen, values, strict=True)
        ]
        job += ["init_from=null"] if any(text.startswith("experiment=") for text in job) else []
        assert accepted(*job)


@pytest.mark.parametrize("command", OTHERS)
def test_arguments_of_the_other_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ends once its arguments are parsed; those that are not understood end it with SystemExit before."""

    class UnderstoodError(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(*arguments: Any) -> None:
        parse(*arguments)
        raise UnderstoodError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
    _, _, module, *arguments = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(UnderstoodError):
        importlib.import_module(f"{module}.__main__" if module == "sparserl.report" else module).main()


def test_there_are_commands_of_every_kind() -> None:
    kinds = {command.split()[2] for command in COMMANDS}
    assert {f"sparserl.{name}" for name in ("train", "report", "status", "play", "dashboard", "publish")} <= kinds
    assert len(TRAININGS) > 20
