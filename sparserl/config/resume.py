"""What may be changed of a run that goes on in its own folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sparserl.config.build import build_logger
from sparserl.config.schema import Config, ConfigError
from sparserl.config.validation import to_plain

CHANGEABLE = ("resume", "trust", "retry_failed")
"""What may be given with ``resume``, beside ``lowrank.*`` and ``logger.*``, which are no part of how a run is trained."""


def resumed(found: Config, resume: str, overrides: Sequence[str]) -> Config:
    """The config of a run that goes on, with what may be changed of it. Raises ConfigError where something else is."""
    changes: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if override.is_delete() or not (key in CHANGEABLE or key.startswith(("lowrank.", "logger."))):
            remedy = ""
            if key == "trainer.total_steps":
                remedy = f", since schedules follow it: start a new run, from this one's policy with init_from={resume}"
            raise ConfigError(f"resume={resume} goes on with its own config; {key} cannot be changed{remedy}")
        if key.startswith(("lowrank.", "logger.")):
            changes[key] = override.value()
    if not changes:
        return found
    changed = OmegaConf.create(found)
    for key, value in changes.items():
        OmegaConf.update(changed, key, value, force_add=True)
    return to_plain(changed)


def check_recipient(config: Config, folder: Path, overrides: Sequence[str], trust: bool) -> None:
    """Refuse to send rows with the user's key to whom only the folder names: it may be a stranger's."""
    if trust:
        return
    logger = build_logger(config)
    if (settings := logger.foreign_settings(folder)) is not None:
        raise ConfigError(
            f"{settings} may say to whom rows and your key are sent: resume from another folder, take that file away, "
            "or add trust=true"
        )
    recipient = logger.recipient
    named = any(override.lstrip("+").startswith("logger.entity=") for override in overrides)
    if recipient is not None and not named:
        raise ConfigError(
            f"{folder} would send its rows, with your key, to {recipient!r}, since its config says so: add "
            f"logger.entity={recipient} if that is right, or else logger.entity=null (your own) or logger.mode=offline"
        )
