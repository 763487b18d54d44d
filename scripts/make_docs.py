"""Writes the generated parts of README.md, docs/ and docstrings: keys of the config, fields of the files of a run, and results.

The docstring of a class that an option builds ends with the keys that the option's YAML file describes: see ``documented``.

A page marks each part with a comment that names what belongs there; everything up to the next ``<!-- end -->`` is replaced.

    generated: options algorithm             the keys of every option of a group, from conf/ and the dataclasses
    generated: top                           the keys that belong to no group, from conf/train.yaml
    generated: tuned                         the pairs that have settings of their own
    generated: fields sparserl.runs.schema.Result       the fields of a dataclass
    generated: results sparsity | COLUMNS | COLUMN=VALUE    columns and rows of results/sparsity/table.md; of another
                                                            table as results sparsity/main

Usage: ``python scripts/make_docs.py`` writes pages and docstrings; with ``--check`` it only says which files are out of date.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
REGION = re.compile(r"(<!-- generated: ([^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_KEYS = ("_target_", "_convert_", "defaults")


def pages() -> list[Path]:
    """The pages that may have generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def updated(page: str) -> str:
    """The text of a page with every generated part as it is to be."""
    return REGION.sub(lambda found: f"{found[1]}\n{content(found[2])}\n\n{found[3]}", page)


def content(directive: str) -> str:
    """What belongs to a mark, without the mark."""
    generator, _, rest = directive.partition(" ")
    return GENERATORS[generator](*(part.strip() for part in rest.split("|") if part.strip()))


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """A text in one line, as a table can hold it."""
    return " ".join(text.split()).replace("|", r"\|")


# ---------------------------------------------------------------- keys of the config


@dataclass(frozen=True)
class Key:
    """A key of a YAML file, with the comment above it; ``value`` is the text after the colon, or None above keys of its own."""

    path: str
    comment: str
    value: str | None


@dataclass(frozen=True)
class Option:
    """A YAML file of a group: it inherits from ``parents``, chooses options of other groups, and names classes of parts.

    ``held`` are the options of its group whose keys it has at another path, by that path.
    """

    group: str
    name: str
    comment: str
    keys: list[Key]
    parents: list[str]
    held: dict[str, str]
    chosen: list[str]
    targets: dict[str, str]

    @property
    def target(self) -> str | None:
        return self.targets.get(self.group.replace("/", "."))

    @property
    def own(self) -> list[Key]:
        """The keys that are described here."""
        return [key for key in self.keys if key.comment]

    @property
    def set(self) -> list[Key]:
        """The values of keys that are described elsewhere, but for those within a key that is described here."""
        described = [key.path for key in self.own]
        inner = [key for key in self.keys if not any(key.path.startswith(f"{path}.") for path in described)]
        return [key for key in inner if not key.comment and key.value is not None]


def read(path: Path, group: str) -> Option:
    """An option's keys in the order of its file, by the names that a command line gives them.

    A comment is that of the key below it, or of the file where it stands above ``defaults`` or ``_target_``.
    """
    text = path.read_text()
    is_global = text.startswith("# @package _global_")
    root = [] if is_global else list(filter(None, group.split("/")))
    above: list[tuple[int, str]] = []  # the keys that the present line is within, with their indentation
    keys: list[Key] = []
    targets: dict[str, str] = {}
    described = comment = ""
    for line in text.removeprefix("# @package _global_\n").splitlines():
        indent = len(line) - len(line.lstrip())
        match = re.match(r"([\w.]+):\s*(.*)", line.lstrip())
        if line.lstrip().startswith("#"):
            said = line.lstrip(" #")
            comment = f"{comment} {f'`{said}`' if line.lstrip().startswith('#   ') else said}".strip()  # indented: a command
        elif not match:
            comment = comment if line.strip() else ""
        else:
            name, value = match[1], match[2]
            above = [(outer, key) for outer, key in above if outer < indent]
            within = [*root, *(key for _, key in above)]
            if name == "_target_":
                targets[".".join(within)] = value
            if name in NOT_KEYS and not above:
                described = described or comment
            elif name not in NOT_KEYS and (value or above or not is_global):  # a group that keys are set of is no key
                keys.append(Key(".".join([*within, name]), comment, value or None))
            comment = ""
            above += [] if value else [(indent, name)]
    defaults = (yaml.safe_load(text) or {}).get("defaults", [])
    inherited = [entry.partition("@") for entry in defaults if isinstance(entry, str) and entry != "_self_"]
    parents = [name for name, _, package in inherited if "." not in package]
    held = {".".join([*root, package]): name for name, _, package in inherited if "." in package}
    chosen = [f"{name}={value}" for entry in defaults if isinstance(entry, dict) for name, value in entry.items()]
    chosen = [re.sub(r"(override )?/([\w/]+)(@[\w.]+)?=", r"\2=", each) for each in chosen if "override" in each]
    return Option(group, str(path.relative_to(CONF / group).with_suffix("")), described, keys, parents, held, chosen, targets)


def options_of(group: str) -> dict[str, Option]:
    """The options of a group by name, and after them the files that several of them share."""
    paths = sorted((CONF / group).rglob("*.yaml"), key=lambda path: (path.parent != CONF / group, path))
    return {option.name: option for option in (read(path, group) for path in paths)}


def class_of(options: dict[str, Option], name: str) -> type | None:
    """The class that an option builds; for what several options share, the nearest class that theirs have in common."""
    option = options[name]
    if option.target:
        return load(option.target)
    for parent in option.parents:
        if parent in options and (found := class_of(options, parent)):
            return found
    heirs = [load(each.target) for each in options.values() if name in each.parents and each.target]
    return next((cls for cls in heirs[0].__mro__ if all(issubclass(each, cls) for each in heirs)), None) if heirs else None


def load(target: str) -> type:
    """The class of a dotted name."""
    module, _, name = target.rpartition(".")
    cls: type = getattr(importlib.import_module(module), name)
    return cls


def value_of(key: Key, option: Option) -> str:
    """A default as the YAML file has it; of a nested one its class and the keys that are described with it."""
    if key.value is not None:
        return f"`{cell(key.value)}`" if key.value != "???" else "required"
    inner = [each for each in option.keys if each.path.startswith(f"{key.path}.") and not each.comment]
    return "<br>".join(f"`{each.path.removeprefix(key.path)[1:]}: {cell(each.value or '')}`" for each in inner)


def type_of(cls: type | None, key: Key, option: Option, options: dict[str, Option]) -> str:
    """What a key may hold, from the dataclass that it belongs to."""
    part, _, name = key.path.rpartition(".")
    if part in option.targets and part != option.group:
        cls = load(option.targets[part])
    elif part in option.held:
        cls = class_of(options, option.held[part])
    if cls is None or name not in getattr(cls, "__dataclass_fields__", {}):  # Hydra's launchers are no dataclasses
        return ""
    (field,) = (field for field in dataclasses.fields(cls) if field.name == name)
    if "per_member" in field.metadata:
        return f"{in_words(field.metadata['per_member'])}; per member"
    return in_words(get_type_hints(cls, include_extras=True)[name])


NAMES = {
    "float": "number",
    "int": "integer",
    "bool": "`true` or `false`",
    "str": "text",
    "NoneType": "`null`",
    "dict": "mapping",
    "Mapping": "mapping",
    "Schedule": "number or schedule",
}


def in_words(hint: Any) -> str:
    """A type of the config in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{in_words(arguments[0])}{_range(arguments[1:])}"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(map(in_words, arguments))
    if origin is not None and getattr(origin, "__name__", "") in ("Sequence", "list", "tuple"):
        return f"list of: {in_words(arguments[0])}"
    name = getattr(origin or hint, "__name__", str(hint))
    return NAMES.get(name, f"`{name}`")


def _range(limits: tuple[Any, ...]) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    said = [f"{word} {_number(getattr(limit, key))}" for limit in limits for key, word in words.items() if hasattr(limit, key)]
    return f", {', '.join(said)}" if said else ""


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def describe(option: Option, options: dict[str, Option]) -> Iterator[str]:
    """The paragraphs of one option."""
    yield f"### {option.group}={option.name}" if "/" not in option.name else f"### {option.group}/{option.name}.yaml"
    cls = class_of(options, option.name)
    if option.target and not option.group.startswith("hydra/"):  # those are found by a plugin of Hydra's
        summary = (sys.modules[load(option.target).__module__].__doc__ or "").strip().split("\n\n")[0]
        yield " ".join(summary.split())
    if option.comment:
        yield option.comment
    inherited = [f"`{name}`" for name in option.parents if name in options]
    values = [f"`{key.path}={key.value}`" for key in option.set]
    held = [f"`{name}` as `{path}`" for path, name in option.held.items()]
    sentences = {
        "Has the keys of": inherited,
        "Has": held,
        "Chooses": [f"`{each}`" for each in option.chosen],
        "Sets": values,
    }
    told = [f"{begin} {', '.join(listed)}{' too' * (listed is inherited)}." for begin, listed in sentences.items() if listed]
    if told:
        yield " ".join(told)
    if option.own:
        rows = [[f"`{k.path}`", value_of(k, option), type_of(cls, k, option, options), cell(k.comment)] for k in option.own]
        yield table(["key", "default", "type", "meaning"], rows)


def options(group: str) -> str:
    """Every option of a group with its keys."""
    found = options_of(group)
    return "\n\n".join(part for option in found.values() for part in describe(option, found))


def top() -> str:
    """The keys of conf/train.yaml that choose no option."""
    hints = get_type_hints(_schema(), include_extras=True)
    rows = [
        [f"`{key.path}`", f"`{key.value}`", in_words(hints[key.path]), cell(key.comment)] for key in _top_keys() if key.value
    ]
    return table(["key", "default", "type", "meaning"], rows)


def _top_keys() -> list[Key]:
    return [key for key in read(CONF / "train.yaml", "").own if key.path in _schema().__dataclass_fields__]


def _schema() -> Any:
    from sparserl.config.schema import Schema

    return Schema


def tuned() -> str:
    """Which pairs of an algorithm and an environment have a file in conf/tuned/."""
    algorithms = [name for name in options_of("algorithm") if "/" not in name]
    rows = [
        [f"`{environment}`", *("yes" if (CONF / "tuned" / f"{a}-{environment}.yaml").exists() else "" for a in algorithms)]
        for environment in options_of("environment")
    ]
    return table(["environment", *(f"`{name}`" for name in algorithms)], rows)


# ---------------------------------------------------------------- docstrings of the classes that options build

KEYS = re.compile(r"\s*\n +Keys[^(]*\(``make docs``\s.*", re.DOTALL)
"""The generated end of a docstring."""


def groups() -> list[str]:
    """The groups whose options build something."""
    folders = {str(path.parent.relative_to(CONF)) for path in CONF.glob("*/**/*.yaml") if path.parent.name != "shared"}
    return sorted(group for group in folders if any(option.target for option in options_of(group).values()))


def sections() -> dict[type, list[str]]:
    """What ends the docstring of each class: the keys of the option that names it, or of the file that its options share.

    An option that names no class sets values; what it says of them holds for itself only.
    """
    found: dict[type, list[str]] = {_schema(): [_section("train", _top_keys(), read(CONF / "train.yaml", ""), {}, _schema())]}
    for group in groups():
        options = options_of(group)
        for option in options.values():
            cls = class_of(options, option.name)
            if cls and (option.target or "/" in option.name) and (option.own or option.parents):
                file = f"{group}/{option.name}"
                found.setdefault(cls, []).append(_section(file, option.own, option, options, cls))
    return found


def _section(file: str, keys: Sequence[Key], option: Option, options: dict[str, Option], cls: type) -> str:
    """The keys that a file describes, each with its type and its comment; and whose keys come beside them."""
    parents = [_class.__name__ for name in option.parents if name in options and (_class := class_of(options, name))]
    others = f"those of {' and '.join(f'``{name}``' for name in parents)}" if parents else ""
    origin = f"(``make docs`` copies them from ``conf/{file}.yaml``)"
    if not keys:
        return f"    Keys {origin}: {others}."
    lines = [f"    Keys beside {others} {origin}:" if others else f"    Keys {origin}:"]
    for key in keys:
        names = ", ".join(short(each, option) for each in (key, *_alike(key, option, cls)))
        type_ = type_of(cls, key, option, options)
        entry = f"{names}{f' ({type_})' if type_ else ''}: {key.comment}".replace("`", "``")
        lines.append(textwrap.fill(entry, 128, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False))
    return "\n".join(lines)


def short(key: Key, option: Option) -> str:
    """A key's name within its group."""
    return key.path.removeprefix(f"{option.group.replace('/', '.')}.")


def _alike(key: Key, option: Option, cls: type) -> Iterator[Key]:
    """The keys below one that its comment is about too: those that the option does not use."""
    known = getattr(cls, "__dataclass_fields__", {})
    for each in option.keys[option.keys.index(key) + 1 :] if key.value == "null" else []:
        name = short(each, option)
        if each.comment or name not in known or "unused" not in known[name].metadata:
            return
        yield each


def documented(path: Path) -> str:
    """The text of a module in which the docstrings of classes end with their keys."""
    text = path.read_text()
    lines = text.splitlines()
    ends = {cls.__name__: parts for cls, parts in sections().items() if source(cls) == path}
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name in ends]
    for node in reversed(classes):
        told = node.body[0]
        assert isinstance(told, ast.Expr), f"{node.name} has no docstring"
        assert told.end_lineno is not None
        own = "\n".join(lines[told.lineno - 1 : told.end_lineno]).rstrip().removesuffix('"""')
        whole = "\n\n".join([KEYS.sub("", own).rstrip(), *ends[node.name]])
        lines[told.lineno - 1 : told.end_lineno] = [*whole.split("\n"), '    """']
    return "\n".join(lines) + "\n"


def source(cls: type) -> Path:
    """The file of a class."""
    return Path(inspect.getfile(cls))


def sources() -> list[Path]:
    """The modules that have such classes."""
    return sorted({source(cls) for cls in sections()})


# ---------------------------------------------------------------- files of a run


def fields(target: str) -> str:
    """The fields of a dataclass, each with the docstring below it."""
    cls = load(target)
    hints = get_type_hints(cls)
    told = docstrings(cls)
    rows = [
        [f"`{field.name}`", in_words(hints[field.name]).replace("|", r"\|"), cell(told.get(field.name, "")).replace("``", "`")]
        for field in dataclasses.fields(cls)
    ]
    return table(["field", "type", "meaning"], rows)


def docstrings(cls: type) -> dict[str, str]:
    """The string below each field of a class."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for statement, following in zip(node.body, node.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(told))):
                found[name] = told
    return found


# ---------------------------------------------------------------- results


def results(name: str, columns: str = "", where: str = "") -> str:
    """Columns of results/<name>/table.md, or of results/<name>.md where the name has a folder, as they are there.

    A column that a report left out is skipped.
    """
    source = ROOT / "results" / (f"{name}.md" if "/" in name else f"{name}/table.md")
    rows = [
        [part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in source.read_text().splitlines()
        if line.startswith("|")
    ]
    header, body = rows[0], rows[2:]
    if len({*header}) < len(header):
        raise ValueError(f"{source} has two columns of one name: {header}")
    for condition in filter(None, (part.strip() for part in where.split(","))):
        column, wanted_value = re.split("!?=", condition, maxsplit=1)
        if column in header:
            is_equal = "!=" not in condition
            body = [row for row in body if (row[header.index(column)] == wanted_value) == is_equal]
    wanted = [column.strip() for column in columns.split(",") if column.strip() in header] if columns else header
    return table(wanted, [[row[header.index(column)] for column in wanted] for row in body])


GENERATORS: dict[str, Callable[..., str]] = {
    "options": options,
    "top": top,
    "tuned": tuned,
    "fields": fields,
    "results": results,
}


def main() -> None:
    """Write pages and docstrings, or with ``--check`` exit with 1 where one is out of date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file is out of date")
    check = parser.parse_args().check
    texts = {page: updated(page.read_text()) for page in pages()} | {module: documented(module) for module in sources()}
    stale = {path: text for path, text in texts.items() if text != path.read_text()}
    for path, text in stale.items():
        if not check:
            path.write_text(text)
        sys.stdout.write(f"{path.relative_to(ROOT)} {'is out of date: run make docs' if check else 'written'}\n")
    sys.exit(bool(stale) and check)


if __name__ == "__main__":
    main()
