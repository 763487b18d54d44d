"""Which jobs of a sweep train in one loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sparserl.config.identity import canonical, shared, structure
from sparserl.runs import checkpoint
from sparserl.sweeps.jobs import Job

# ---------------------------------------------------------------- what trains at once


def group_jobs(jobs: Sequence[Job], max_members: int, workers: int | None) -> list[list[Job]]:
    """The jobs in groups that train in one loop each, in the order in which a group's first job comes.

    A group has at most ``max_members`` jobs. Their configs differ only in the values of members and in the regulariser, their
    checkpoints are of one step, and their gradient steps were run in the same way, compiled or eagerly. The jobs of one
    regulariser are consecutive and form a population. The largest groups are halved until the number of groups is a multiple
    of ``workers``, or no group has two jobs. With ``workers`` None, populations are not merged into one group. Grouping never
    changes the results of a job.
    """
    alike: dict[str, dict[str, list[Job]]] = {}
    for job in jobs:
        population = canonical(structure(job.config))
        common = population if workers is None else canonical(shared(job.config))
        step = checkpoint.newest(job.folder)
        loop = alike.setdefault(f"{step} {checkpoint.run_by(job.folder, step)} {common}", {})
        loop.setdefault(population, []).append(job)
    whole = [[job for population in loop.values() for job in population] for loop in alike.values()]
    groups = [part for group in whole for part in _parts(group, -(-len(group) // max_members))]
    while len(groups) % (workers or 1) and (largest := max(groups, key=len, default=[]))[1:]:
        at = groups.index(largest)
        groups[at : at + 1] = _parts(largest, 2)
    return groups


def _parts(group: Sequence[Job], number: int) -> Iterator[list[Job]]:
    """``number`` parts of a group whose sizes differ by one at most."""
    size, more = divmod(len(group), number)
    start = 0
    for part in range(number):
        end = start + size + (part < more)
        yield list(group[start:end])
        start = end
