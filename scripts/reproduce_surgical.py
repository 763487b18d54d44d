"""Tasks of a surgical robot (SurRoL): dense policies of DDPG with hindsight, and sparse ones beside them.

Needs a clone of SurRoL (make install-surrol). Trains cell by cell in outputs/tables/, which it shares with
reproduce_tables.py. Started again, it goes on where it was.
After each cell the rows of all runs, tables and a figure go to results/surgical/.

    python scripts/reproduce_surgical.py                     # all cells
    python scripts/reproduce_surgical.py --only ecm_reach    # those whose name contains a text
    python scripts/reproduce_surgical.py --list
"""

from __future__ import annotations

from cells import Table, reproduce
from reproduce_sparsity import at

# the loss of the actor is minus an action value, which is between -50 and 0 here; none of these is tuned
FORMS = {"l0": (1.0, 10.0), "l0_units": (1.0, 10.0), "l1": (1e-4, 1e-3), "l2": (1e-4, 1e-3)}

SHORT = "trainer.total_steps=15_000"
"""On ECMReach: dense policies of five seeds reached the target in nearly every episode from 5,000 steps on."""

CELLS = [
    *at("ddpg", "surrol_ecm_reach", 5, FORMS, SHORT),
    *at("ddpg", "surrol_mis_orient", 5, FORMS),
    # a step of it takes seven times as long
    *at("ddpg", "surrol_needle_reach", 3, {form: values[-1:] for form, values in FORMS.items()}),
]


if __name__ == "__main__":
    reproduce([Table("surgical", CELLS, "tables")], (__doc__ or "").split("\n")[0])
