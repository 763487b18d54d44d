"""The first experiments of the paper's summary, three seeds of each setting, and their table, which docs/results.md has.

Each setting trains as one population, in two loops at a time. Started again, it goes on where it was. Table, rows and figure
go to results/DATE-first-steps/.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from datetime import date

COMMANDS = [
    *(
        ["-m", "sparserl.train", "-m", f"experiment={name}", "logger=disk", "hydra.launcher.executor=processes"]
        for name in ("first_steps", "first_steps_from_dense")
    ),
    ["-m", "sparserl.report", "outputs/first_steps", "--to", f"results/{date.today()}-first-steps"],
]

for command in COMMANDS:
    print(f"$ python {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, *command], check=True)
