"""Laws of the tickets for which forked processes race: every task has exactly one taker."""

import os
import threading

import pytest

from fedpipe.system import forked
from fedpipe.system.forked import TICKET, TICKETS, _Tickets


@pytest.mark.parametrize("tasks", [1, 40, 3 * TICKETS + 1])
def test_a_task_is_taken_once_or_given_up_once(monkeypatch: pytest.MonkeyPatch, tasks: int):
    """Two readers, as processes are, and one who asks for tasks until after the run is over."""
    monkeypatch.setattr(forked, "WORTHWHILE", -1)  # whatever is left is worth it
    for _ in range(100):
        taken: list[int] = []
        given: list[int] = []
        with _Tickets(range(tasks)) as tickets:
            pipe = os.dup(tickets.source)

            def read(pipe: int = pipe, taken: list[int] = taken) -> None:
                while ticket := os.read(pipe, TICKET.size):
                    taken.extend(range(*TICKET.unpack(ticket)))

            def ask(tickets: _Tickets = tickets, given: list[int] = given) -> None:
                for _ in range(6):
                    given.extend(tickets.give_up())

            readers = [threading.Thread(target=read) for _ in range(2)]
            asker = threading.Thread(target=ask)
            for thread in [*readers, asker]:
                thread.start()
            for thread in readers:
                thread.join()
        asker.join()
        os.close(pipe)
        assert sorted(taken + given) == list(range(tasks))
        assert tickets.given == set(given)


def test_what_is_taken_back_nobody_takes():
    with _Tickets(range(10)) as tickets:
        tickets.take_back()
        assert os.read(tickets.source, TICKET.size) == b""
        assert tickets.give_up() == []


def test_little_work_is_not_given_up():
    with _Tickets(range(10)) as tickets:
        os.read(tickets.source, TICKET.size)
        assert tickets.give_up() == []
