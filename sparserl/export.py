"""Write a trained policy, or its masks, into a file for other programs: ``python -m sparserl.export RUN``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from torch import Tensor

from sparserl.deployment.card import Deployed, card, evaluated_return
from sparserl.deployment.formats import FORMATS, Exported, nonzero_weights, stored_numbers
from sparserl.loading import load_policy
from sparserl.lowrank.truncation import factored, is_positive, layers_of, ranks, text_of
from sparserl.runs import provenance, reader
from sparserl.runs.files import DiskError, read_policy, read_record, replace, write_masks, write_text
from sparserl.runs.schema import Result
from sparserl.terminal import one_sentence, print_line
from sparserl.training import interrupts
from sparserl.types import Spec, is_weight

MASK = "mask"
"""The format that has no policy in it."""


def main() -> None:
    """The console script. Errors of the user's end with one sentence."""
    interrupts.prepare()
    arguments = _arguments()
    with one_sentence(ValueError, FileNotFoundError, ModuleNotFoundError, DiskError):
        _check(arguments)
        for line in _masks(arguments) if arguments.format == MASK else _policy(arguments):
            print_line(line)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("sparserl-export", description="Write a trained policy into a file for other programs.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--format",
        choices=[*FORMATS, MASK],
        default="onnx",
        help="onnx (needs the extra 'export'); torch, for torch.export.load; mask, which weights are not zero, for "
        "regularizer=fixed_mask (onnx)",
    )
    parser.add_argument(
        "--rank",
        type=ranks,
        metavar="K[,K...]",
        help="the policy with its layers truncated at this rank, or each at its own, a number or 'full'",
    )
    parser.add_argument("--shrink", action="store_true", help="without the hidden units that nothing enters or leaves")
    parser.add_argument(
        "--stochastic", action="store_true", help="with sampled actions: random numbers are then a second input, 'noise'"
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="the file, whose card is FILE.md (RUN/export/policy-rank4.onnx or so, by what is asked for)",
    )
    parser.add_argument(
        "--trust", action="store_true", help="build what is not sparserl's too, which runs the code of whoever wrote it"
    )
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> None:
    """Raises ValueError, before anything is loaded, where the arguments do not go together."""
    if arguments.rank is not None and not is_positive(arguments.rank):
        raise ValueError(f"--rank is {text_of(arguments.rank)}; it must be 1 or more")
    if arguments.format == MASK:
        for name in ("rank", "shrink", "stochastic"):
            if getattr(arguments, name):
                raise ValueError(f"--{name} is for policies, and --format mask writes which weights are not zero; leave it out")
    to = arguments.to
    if to is None:
        return
    if not to.parent.is_dir():
        raise ValueError(f"--to is {str(to)!r}, but there is no folder {to.parent}")
    if to.is_dir():
        raise ValueError(f"--to is {str(to)!r}, which is a folder; name a file in it")


def _policy(arguments: argparse.Namespace) -> list[str]:
    """Write a policy and its card; what is said of them."""
    run, rank, shrink, stochastic = arguments.run, arguments.rank, arguments.shrink, arguments.stochastic
    policy = load_policy(run, None, shrink, arguments.trust, stochastic)
    whole_layers = len(layers_of(policy))
    if rank is not None:
        policy = factored(policy, rank).eval()
    _, description, _ = read_policy(run)
    if not (run / "result.json").exists():
        raise FileNotFoundError(f"{run / 'result.json'} does not exist, and the policy's card needs it")
    result = read_record(Result, run / "result.json")
    ending, make = FORMATS[arguments.format]
    made: Exported = make(policy, Spec.from_json(description["spec"]))
    path = _path(arguments, ending)
    deployed = Deployed(
        file=path.name,
        format=arguments.format,
        rank=rank,
        factored=len(layers_of(policy)) - whole_layers,
        shrunken=shrink,
        stochastic=stochastic,
        stored_numbers=stored_numbers(policy),
        nonzero_weights=nonzero_weights(policy),
        bytes=len(made.content),
        difference=made.difference,
        interface=made.interface,
    )
    measured = evaluated_return(reader.read(run), deployed)
    text = card(result, measured, deployed, provenance.command(), provenance.commit())
    replace(path, lambda file: file.write(made.content))
    card_path = path.with_name(f"{path.name}.md")
    write_text(card_path, text)
    return [
        *(f"{name}: {meaning}" for name, meaning in made.interface.items()),
        f"differs from torch by at most {made.difference:.1e}",
        f"policy: {path}, {deployed.bytes} bytes, {deployed.stored_numbers} weights, {deployed.nonzero_weights} not zero",
        f"card: {card_path}",
    ]


def _masks(arguments: argparse.Namespace) -> list[str]:
    """Write which weights are not zero; what is said of them."""
    _, description, tensors = read_policy(arguments.run)
    masks: dict[str, Tensor] = {name: tensor != 0 for name, tensor in tensors.items() if is_weight(name)}
    path = _path(arguments, ".masks.safetensors")
    write_masks(path, masks)
    kept, number = sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())
    names = description["config"]["names"]
    chosen = [f"{group}={names[group]}" for group in ("algorithm", "environment", "network") if group in names]
    chosen.append("regularizer=fixed_mask")
    return [
        f"masks: {path}, {kept} of {number} weights are kept",
        f"train under them: {shlex.join(['python', '-m', 'sparserl.train', *chosen, f'regularizer.path={path.absolute()}'])}",
    ]


def _path(arguments: argparse.Namespace, ending: str) -> Path:
    """Where the file goes: by default under a name that says what is asked for, such as ``policy-rank4-shrunken.onnx``."""
    if arguments.to is not None:
        path: Path = arguments.to
        return path
    form = [
        "policy",
        "" if arguments.rank is None else f"rank{text_of(arguments.rank).replace(' ', '-')}",
        "shrunken" if arguments.shrink else "",
        "stochastic" if arguments.stochastic else "",
    ]
    path = arguments.run / "export" / f"{'-'.join(filter(None, form))}{ending}"
    path.parent.mkdir(exist_ok=True)
    return path


if __name__ == "__main__":
    main()
