"""What every engine is."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from fedpipe.config.section import Section

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")
Pending = TypeVar("Pending")

LAST_CHUNKS = 6  # chunks for each worker if all were of the smallest size


class RunTasks(Protocol):
    """Run tasks on an engine's workers, several in one call of a job, and yield the calls' results as they come."""

    def __call__(
        self, job: Callable[[Shared, Sequence[Task]], Result], shared: Shared, tasks: Sequence[Task], /
    ) -> Iterator[Result]:
        """Yield job(shared, chunk) for chunks that together are the tasks, in the order in which they end.

        Workers may be other processes, so the job, `shared`, tasks and results must be picklable. Jobs should hold
        settings and paths, not data; `shared` goes to each worker once. Only a few chunks are begun ahead of what is
        taken, so memory does not grow with their number. An exception of the job is raised in place of its result.
        """
        ...


class Engine(Section):
    """A way to run independent tasks at the same time. Its fields are its parameters."""

    @abstractmethod
    def start(self, workers: int | None) -> AbstractContextManager[RunTasks]:
        """Return a context in which tasks can be run by this many workers; None for one worker for each core.

        A job runs on one torch thread, whatever the workers. Leaving the context drops the tasks not yet begun.
        """


def chunks(tasks: Sequence[Task], workers: int) -> Iterator[Sequence[Task]]:
    """Divide tasks into ever smaller chunks, so that calls are few and all workers end at about the same time.

    References:
        Polychronopoulos & Kuck 1987, "Guided self-scheduling".
    """
    start, least = 0, max(1, len(tasks) // (LAST_CHUNKS * workers))
    while start < len(tasks):
        left = len(tasks) - start
        stop = start + min(left, max(least, -(-left // (2 * workers))))
        yield tasks[start:stop]
        start = stop


def as_they_come(
    submit: Callable[[Sequence[Task]], Pending],
    wait: Callable[[list[Pending]], tuple[list[Pending], list[Pending]]],
    result: Callable[[Pending], Result],
    work: Iterable[Sequence[Task]],
    ahead: int,
) -> Iterator[Result]:
    """Yield the results of chunks of tasks as they come, with at most `ahead` chunks submitted and not yet taken.

    Args:
        submit: begins a chunk.
        wait: divides what was begun into what has ended, of which there must be some, and the rest.
        result: returns the result of what has ended.
        work: the chunks.
        ahead: how many.
    """
    pending: list[Pending] = []
    for chunk in work:
        if len(pending) == ahead:
            ended, pending = wait(pending)
            yield from map(result, ended)
        pending.append(submit(chunk))
    while pending:
        ended, pending = wait(pending)
        yield from map(result, ended)
