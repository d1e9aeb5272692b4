"""Requests to `TicketAPI`: creating and listing want a login, the rest does not."""

from __future__ import annotations

from random import Random
from typing import Any

from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.tasks.synthesis.families.family import (
    Api,
    Draw,
    InitialState,
    RequestGenerator,
    Setup,
    Wordings,
    call,
    one_call,
)


def _ticket(rng: Random, number: int, author: str, status: str) -> dict[str, Any]:
    return {
        "id": number,
        "title": vocabulary.phrase(rng, 1, 2),
        "description": vocabulary.phrase(rng, 2, 3),
        "status": status,
        "priority": rng.randint(1, 5),
        "created_by": author,
    }


def _initial_state(rng: Random) -> dict[str, Any]:
    user, other = vocabulary.user_name(rng), vocabulary.user_name(rng)
    first = rng.randint(200, 9000)
    numbers = sorted(rng.sample(range(first, first + 90), 4))
    statuses = rng.sample(("Open", "In Progress", "Pending", "On Hold"), 4)
    authors = (user, other, user, other)
    queue = [_ticket(rng, n, a, s) for n, a, s in zip(numbers, authors, statuses, strict=True)]
    return {"ticket_queue": queue, "ticket_counter": first + 100, "current_user": user}


def _login(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    slots = {"username": initial.state["current_user"], "password": vocabulary.password(initial.rng)}
    if unmet:
        initial.state["current_user"] = None
    return Draw(slots=slots, calls=(call("ticket_login", **slots),) if unmet else ())


TICKET_LOGIN = Setup(
    name="ticket_login",
    fixers=("ticket_login",),
    arrange=_login,
    notes=Wordings(
        train=(
            "my ticket login is {username} with password {password}",
            "the ticket account is {username}, password {password}",
            "log in as {username} with password {password} if needed",
            "ticket username {username}, password {password}",
            "if a login is needed, use {username} and {password}",
            "the username is {username} and the password is {password}",
        ),
        heldout=(
            "the ticket login is {username}, password {password}",
            "if needed, log in with username {username} and password {password}",
        ),
    ),
)


def _number(initial: InitialState) -> int:
    return initial.take([int(ticket["id"]) for ticket in initial.state["ticket_queue"]])


def _create(initial: InitialState) -> Draw:
    return one_call(
        "create_ticket",
        title=vocabulary.phrase(initial.rng, 1, 2),
        description=vocabulary.phrase(initial.rng, 2, 3),
        priority=initial.rng.randint(1, 5),
    )


def _mine(initial: InitialState) -> Draw:
    user = initial.state["current_user"]
    statuses = [ticket["status"] for ticket in initial.state["ticket_queue"] if ticket["created_by"] == user]
    return one_call("get_user_tickets", status=initial.rng.choice(statuses))


def _get(initial: InitialState) -> Draw:
    return one_call("get_ticket", ticket_id=_number(initial))


def _close(initial: InitialState) -> Draw:
    return one_call("close_ticket", ticket_id=_number(initial))


def _resolve(initial: InitialState) -> Draw:
    return one_call("resolve_ticket", ticket_id=_number(initial), resolution=vocabulary.phrase(initial.rng))


def _prioritise(initial: InitialState) -> Draw:
    number = _number(initial)
    (old,) = (ticket["priority"] for ticket in initial.state["ticket_queue"] if ticket["id"] == number)
    priority = initial.rng.choice([level for level in range(1, 6) if level != old])
    edit = call("edit_ticket", ticket_id=number, updates={"priority": priority})
    return Draw(slots={"ticket_id": number, "priority": priority}, calls=(edit,))


def _retitle(initial: InitialState) -> Draw:
    number, title = _number(initial), vocabulary.phrase(initial.rng)
    edit = call("edit_ticket", ticket_id=number, updates={"title": title})
    return Draw(slots={"ticket_id": number, "title": title}, calls=(edit,))


TICKETS = Api(
    name="TicketAPI",
    initial_state=_initial_state,
    generators=(
        RequestGenerator(
            name="create_ticket",
            draw=_create,
            setups=(TICKET_LOGIN,),
            topic="login",
            weight=3.0,
            wordings=Wordings(
                train=(
                    "create a ticket with title {title}, description {description}, priority {priority}",
                    "open a ticket titled {title} saying {description} with priority {priority}",
                    "file a priority {priority} ticket, title {title}, description {description}",
                    "make a new ticket {title} with the description {description} and priority {priority}",
                    "I need a ticket: title {title}, text {description}, priority {priority}",
                    "with priority {priority}, create the ticket {title} saying {description}",
                ),
                heldout=(
                    "open a new ticket with title {title}, description {description} and priority {priority}",
                    "file a ticket titled {title} with the text {description}, priority {priority}",
                ),
            ),
        ),
        RequestGenerator(
            name="my_tickets",
            draw=_mine,
            setups=(TICKET_LOGIN,),
            topic="login",
            weight=2.5,
            wordings=Wordings(
                train=(
                    "show my tickets with status {status}",
                    "list my {status} tickets",
                    "which of my tickets are {status}, list them",
                    "get all my tickets that are {status}",
                    "give me my tickets in status {status}",
                    "find my tickets with the status {status}",
                ),
                heldout=("list all my tickets with status {status}", "show me my tickets that are {status}"),
            ),
        ),
        RequestGenerator(
            name="get_ticket",
            draw=_get,
            wordings=Wordings(
                train=(
                    "show ticket {ticket_id}",
                    "get the ticket with id {ticket_id}",
                    "look up ticket {ticket_id}",
                    "tell me about ticket {ticket_id}",
                    "give me the details of ticket {ticket_id}",
                    "what does ticket number {ticket_id} say, show it",
                ),
                heldout=("look up the ticket with id {ticket_id}", "show me the details of ticket number {ticket_id}"),
            ),
        ),
        RequestGenerator(
            name="close_ticket",
            draw=_close,
            wordings=Wordings(
                train=(
                    "close ticket {ticket_id}",
                    "close the ticket with id {ticket_id}",
                    "ticket {ticket_id} is done, close it",
                    "mark ticket {ticket_id} as closed",
                    "the ticket number {ticket_id} can be closed",
                    "set ticket {ticket_id} to closed",
                ),
                heldout=("mark the ticket with id {ticket_id} as closed", "close the ticket number {ticket_id}"),
            ),
        ),
        RequestGenerator(
            name="resolve_ticket",
            draw=_resolve,
            weight=1.2,
            wordings=Wordings(
                train=(
                    "resolve ticket {ticket_id} with {resolution}",
                    "resolve the ticket {ticket_id}, resolution {resolution}",
                    "ticket {ticket_id} is solved by {resolution}, resolve it",
                    "mark ticket {ticket_id} as resolved: {resolution}",
                    "set the resolution of ticket {ticket_id} to {resolution}",
                    "the resolution for ticket number {ticket_id} is {resolution}",
                ),
                heldout=(
                    "resolve the ticket number {ticket_id} with the resolution {resolution}",
                    "mark the ticket {ticket_id} as resolved by {resolution}",
                ),
            ),
        ),
        RequestGenerator(
            name="prioritise",
            draw=_prioritise,
            wordings=Wordings(
                train=(
                    "change the priority of ticket {ticket_id} to {priority}",
                    "set ticket {ticket_id} to priority {priority}",
                    "edit ticket {ticket_id}: priority {priority}",
                    "update the priority of ticket {ticket_id} to {priority}",
                    "ticket {ticket_id} should have priority {priority}",
                    "give ticket {ticket_id} the priority {priority}",
                ),
                heldout=(
                    "set the priority of ticket {ticket_id} to {priority}",
                    "update ticket {ticket_id}: priority {priority}",
                ),
            ),
        ),
        RequestGenerator(
            name="retitle",
            draw=_retitle,
            wordings=Wordings(
                train=(
                    "change the title of ticket {ticket_id} to {title}",
                    "set the title of ticket {ticket_id} to {title}",
                    "edit ticket {ticket_id}: title {title}",
                    "update the title of ticket {ticket_id} to {title}",
                    "ticket {ticket_id} should have the title {title}",
                    "give ticket {ticket_id} the title {title}",
                ),
                heldout=("set ticket {ticket_id} to the title {title}", "update ticket {ticket_id}: title {title}"),
            ),
        ),
    ),
)
