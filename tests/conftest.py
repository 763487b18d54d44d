"""What every test runs under: the types and shapes in sparserl's signatures are checked at each call, and W&B is left alone."""

from __future__ import annotations

import os
import sys

from jaxtyping import install_import_hook

assert not any(name.split(".")[0] == "sparserl" for name in sys.modules), "imported too early for its calls to be checked"
install_import_hook("sparserl", "beartype.beartype")

from sparserl import process  # noqa: E402 (only what is imported after the hook is checked)

os.environ["WANDB_MODE"] = "disabled"  # for the default logger, also in the processes that tests start

process.prepare()  # before the first product of matrices, as in a training process
