"""What Hydra says is wrong with a command, as one sentence for a user."""

from __future__ import annotations

import re
import sys

from hydra.errors import ConfigCompositionException
from omegaconf.errors import OmegaConfBaseException

from sparserl.config.schema import CONF
from sparserl.config.validation import interpolation_error, options_without, unknown_key


def left_to_the_jobs(error: ConfigCompositionException) -> bool:
    """Write a key that only some options of a sweep have as a sweep of one value; False where that is not what is wrong.

    Hydra composes a sweep's single values with the default options first, which need not be among those that are swept over.
    What is swept over is composed for each job, where the launcher leaves out the keys that the job's options lack.
    """
    key = _refused_key(str(error))
    if key is None or not {"-m", "--multirun"} & {*sys.argv} or options_without(key, sys.argv[1:]) is None:
        return False
    before = list(sys.argv)
    swept = rf"{re.escape(key)}=(?!choice\()(.*)"
    sys.argv[1:] = [re.sub(swept, rf"{key}=choice(\1)", each) if re.fullmatch(swept, each) else each for each in before[1:]]
    return sys.argv != before


def _refused_key(text: str) -> str | None:
    """The key that Hydra cannot override, in what it says."""
    found = re.match(r"Could not override '([^']+)'", text)
    return found[1] if found else None


REMEDIES = {
    "Config group override": "name an option of each group",  # GROUP=null
    "can be specified": "to look at a config leave out -m",  # -m --cfg job
}
"""By what Hydra says where it gives a traceback."""


def instead_of_traceback(error: ValueError) -> str | None:
    """One line on what Hydra gives a traceback for; None on other errors."""
    text = str(error).removesuffix(".")
    return next((f"{text}; {remedy}" for says, remedy in REMEDIES.items() if says in text), None)


def sentence(error: Exception) -> str:
    """One line for a user, also of what Hydra says in many."""
    text = " ".join(str(error).split())
    if isinstance(error, OmegaConfBaseException):
        text = interpolation_error(error)
    elif key := _refused_key(text):
        text = unknown_key(key, sys.argv[1:])
    elif match := re.match(r"Error parsing override '(.+?)' missing EQUAL", text):
        text = f"{match[1]!r} is not an override; write KEY=VALUE"
    elif match := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'(?: 1\.| requires)", text):
        key, _, values = match[1].partition("=")
        text = f"{match[1]} is several values: add -m to train each of them"
        if not ("(" in values or (CONF / key).is_dir()):
            text += f", or write {key}=[{values}] for a list"
    elif match := re.match(
        r"(?:In '[^']*': )?Could not find '([^']+)/([^/']+)'(?: Available options in '[^']*': (.*?))? Config search", text
    ):
        known = f"known are {', '.join(match[3].split())}" if match[3] else "there is none yet"
        text = f"{match[1]}={match[2]} is not there to be chosen; {known}"
    return text
