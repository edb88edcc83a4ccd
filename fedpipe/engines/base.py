"""What every engine is."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from fedpipe.params import Section

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""map(work, tasks): work(task) for each task, in the order of the tasks, whichever ends first."""


class Engine(Section):
    """A way to run independent pieces of work at the same time. Its fields are its parameters."""

    @abstractmethod
    def start(self, workers: int) -> AbstractContextManager[Map]:
        """A map with this many workers while the context lasts.

        Each piece of work runs on one torch thread, whatever the workers. An exception of a piece is raised where its
        result is taken; leaving the context drops the work not yet begun.
        """
