"""What every engine is."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from fedpipe.config.section import Section

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")


class RunTasks(Protocol):
    """Run tasks on an engine's workers, many in one call of a job, and yield the calls' results as they come."""

    def __call__(
        self, job: Callable[[Shared, Iterable[Task]], Result], shared: Shared, tasks: Sequence[Task], /
    ) -> Iterator[Result]:
        """Yield job(shared, some) for some of the tasks each time, together all of them, in no certain order.

        The job is handed an iterator that takes one task after the other from those that are left, and ends when there
        are none or a second is over. So every worker is busy to the end, and results are few: what a job makes of its
        tasks should be no larger than what it makes of one, such as their sum.

        Workers may be other processes, so the job, `shared`, tasks and results must be picklable. Jobs should hold
        settings and paths, not data; `shared` goes to each worker once. An exception of the job is raised in place of
        its result. Whoever stops iterating ends the call: tasks that were not begun are dropped.
        """
        ...


class Engine(Section):
    """A way to run independent tasks at the same time. Its fields are its parameters."""

    @abstractmethod
    def start(self, workers: int | None) -> AbstractContextManager[RunTasks]:
        """Return a context in which tasks can be run by this many workers; None for one worker for each core.

        A job runs on one torch thread, whatever the workers. Leaving the context drops the tasks not yet begun.
        """
