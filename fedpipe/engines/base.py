"""What every engine is."""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from fedpipe.params import Section

Work = Callable[[Any, Any], Any]
"""work(shared, task). Goes to each worker once, so it holds settings and paths, not data."""

Map = Callable[[Any, Iterable[Any]], Iterator[Any]]
"""map(shared, tasks): work(shared, task) for each task, in the order of the tasks, whichever ends first.

`shared` (the round's parameters) goes to each worker once a call, not once a task. Results are taken as they come into
order, and only a few tasks ahead are begun, so memory does not grow with their number.
"""


class Engine(Section):
    """A way to run independent pieces of work at the same time. Its fields are its parameters."""

    @abstractmethod
    def start(self, work: Work, workers: int | None) -> AbstractContextManager[Map]:
        """A map with this many workers, None for one for each core, while the context lasts.

        Each piece of work runs on one torch thread, whatever the workers. An exception of a piece is raised where its
        result is taken; leaving the context drops the work not yet begun.
        """


Pending = TypeVar("Pending")


def in_order(
    submit: Callable[[Any], Pending], result: Callable[[Pending], Any], tasks: Iterable[Any], ahead: int
) -> Iterator[Any]:
    """The tasks' results in their order, with at most `ahead` tasks submitted and not yet taken."""
    pending: deque[Pending] = deque()
    for task in tasks:
        if len(pending) == ahead:
            yield result(pending.popleft())
        pending.append(submit(task))
    while pending:
        yield result(pending.popleft())
