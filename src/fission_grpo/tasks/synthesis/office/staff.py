"""Requests to `Staff`, the held-out world: whether a session is running or a receipt is there is not said."""

from __future__ import annotations

from random import Random
from typing import Any

from fission_grpo.environments.office.staff import TEAMS
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


def _initial_state(rng: Random) -> dict[str, Any]:
    names = rng.sample(vocabulary.PEOPLE, 6)
    numbers = rng.sample(range(100, 1000), len(names))
    people = [
        {"number": number, "name": name, "team": rng.choice(TEAMS), "days": rng.randint(10, 30)}
        for number, name in zip(numbers, names, strict=True)
    ]
    first = rng.randint(1000, 9000)
    leaves = [
        {"id": first + i, "number": number, "day": vocabulary.day(rng), "days": rng.randint(1, 9)}
        for i, number in enumerate(numbers[:3])
    ]
    expenses = [
        {
            "id": first + 10 + i,
            "number": number,
            "amount": vocabulary.price(rng, 5, 400),
            "purpose": vocabulary.phrase(rng, 1, 2),
            "receipt": "",
            "handed_in": False,
        }
        for i, number in enumerate(numbers[2:])
    ]
    desk = {"user": vocabulary.user_name(rng), "passcode": vocabulary.password(rng)}
    return {
        "desk": desk,
        "session": True,
        "people": people,
        "leaves": leaves,
        "expenses": expenses,
        "next_id": first + 40,
    }


def _session(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    initial.state["session"] = not unmet
    slots = initial.state["desk"]
    return Draw(slots=slots, calls=(call("start_session", **slots),) if unmet else ())


def _receipt(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    number, receipt = request.slots["expense_id"], vocabulary.file_name(initial.rng)
    if not unmet:
        next(expense for expense in initial.state["expenses"] if expense["id"] == number)["receipt"] = receipt
    attach = call("attach_receipt", expense_id=number, receipt=receipt)
    return Draw(slots={"receipt": receipt}, calls=(attach,) if unmet else ())


SESSION = Setup(
    name="session",
    fixers=("start_session",),
    arrange=_session,
    notes=Wordings(
        train=(
            "the user is {user} with passcode {passcode}",
            "start a session as {user} with {passcode} if needed",
            "the desk is {user}, passcode {passcode}",
            "if no session is running, use {user} and {passcode}",
            "I work as {user}, the passcode is {passcode}",
            "user {user}, passcode {passcode}",
        ),
        heldout=(
            "if needed, start a session as {user} with passcode {passcode}",
            "the user is {user}, the passcode {passcode}",
        ),
    ),
)

RECEIPT = Setup(
    name="receipt",
    fixers=("attach_receipt",),
    arrange=_receipt,
    notes=Wordings(
        train=(
            "the receipt is {receipt}",
            "attach {receipt} if there is no receipt",
            "if the receipt is missing, it is {receipt}",
            "{receipt} is its receipt",
            "I have the receipt as {receipt}",
            "use {receipt} if a receipt is missing",
        ),
        heldout=("if there is no receipt, use {receipt}", "attach the receipt {receipt} if it is missing"),
    ),
)


def _take_person(initial: InitialState) -> dict[str, Any]:
    name = initial.take([person["name"] for person in initial.state["people"]])
    found: dict[str, Any] = next(person for person in initial.state["people"] if person["name"] == name)
    return found


def _number(initial: InitialState) -> Draw:
    return one_call("find_staff_number", name=_take_person(initial)["name"])


def _left(initial: InitialState) -> Draw:
    return one_call("leave_left", number=_take_person(initial)["number"])


def _left_by_name(initial: InitialState) -> Draw:
    person = _take_person(initial)
    calls = (call("find_staff_number", name=person["name"]), call("leave_left", number=person["number"]))
    return Draw(slots={"name": person["name"]}, calls=calls)


def _book(initial: InitialState) -> Draw:
    person, day, days = _take_person(initial), vocabulary.day(initial.rng), initial.rng.randint(1, 9)
    return one_call("book_leave", number=person["number"], day=day, days=days)


def _withdraw(initial: InitialState) -> Draw:
    return one_call("withdraw_leave", leave_id=initial.take([leave["id"] for leave in initial.state["leaves"]]))


def _note(initial: InitialState) -> Draw:
    return one_call(
        "note_expense",
        number=_take_person(initial)["number"],
        amount=vocabulary.price(initial.rng, 5, 400),
        purpose=vocabulary.phrase(initial.rng, 1, 2),
    )


def _hand_in(initial: InitialState) -> Draw:
    return one_call("hand_in_expense", expense_id=initial.take([e["id"] for e in initial.state["expenses"]]))


def _team(initial: InitialState) -> Draw:
    person = _take_person(initial)
    team = initial.rng.choice([team for team in TEAMS if team != person["team"]])
    return one_call("change_team", number=person["number"], team=team)


STAFF = Api(
    name="Staff",
    initial_state=_initial_state,
    generators=(
        RequestGenerator(
            name="staff_number",
            draw=_number,
            setups=(SESSION,),
            topic="lookup",
            wordings=Wordings(
                train=(
                    "find the staff number of {name}",
                    "look up the number of {name}",
                    "which staff number has {name}, find it",
                    "tell me the staff number of {name}",
                    "give me the number that {name} has",
                    "I need the staff number of {name}",
                ),
                heldout=("look up the staff number of {name}", "tell me the number that {name} has"),
            ),
        ),
        RequestGenerator(
            name="leave_left",
            draw=_left,
            setups=(SESSION,),
            topic="leave",
            wordings=Wordings(
                train=(
                    "how much leave has {number} left, look it up",
                    "tell me the leave that {number} has left",
                    "look up the days of leave of {number}",
                    "show what leave is left for {number}",
                    "give me the days of leave that {number} has",
                    "how many days of leave are left for staff number {number}",
                ),
                heldout=(
                    "look up how much leave {number} has left",
                    "show the days of leave that are left for {number}",
                ),
            ),
        ),
        RequestGenerator(
            name="leave_by_name",
            draw=_left_by_name,
            setups=(SESSION,),
            topic="lookup",
            weight=1.2,
            wordings=Wordings(
                train=(
                    "find the staff number of {name} and look up the leave that is left",
                    "how much leave has {name} left, find the staff number first",
                    "get the number of {name}, then the days of leave",
                    "look up {name} and tell me the leave that is left",
                    "by the staff number, show how much leave {name} has",
                    "tell me how many days of leave {name} has, get the number first",
                ),
                heldout=(
                    "get the staff number of {name} and tell me the leave that is left",
                    "find {name} and show the days of leave",
                ),
            ),
        ),
        RequestGenerator(
            name="book_leave",
            draw=_book,
            setups=(SESSION,),
            topic="leave",
            weight=1.2,
            wordings=Wordings(
                train=(
                    "book {days} days of leave for {number} from {day}",
                    "{number} takes {days} days off from {day}, book it",
                    "from {day}, give {number} {days} days of leave",
                    "staff number {number} wants leave from {day} for {days} days",
                    "put {number} on leave for {days} days, from {day}",
                    "book leave for {number}: first day {day}, days {days}",
                ),
                heldout=(
                    "book leave from {day} for {number}, {days} days",
                    "put {number} on {days} days of leave from {day}",
                ),
            ),
        ),
        RequestGenerator(
            name="withdraw_leave",
            draw=_withdraw,
            setups=(SESSION,),
            topic="leave",
            wordings=Wordings(
                train=(
                    "withdraw leave {leave_id}",
                    "take back the leave {leave_id}",
                    "leave {leave_id} is not needed, withdraw it",
                    "cancel the leave with number {leave_id}",
                    "nobody takes the leave {leave_id}, withdraw it",
                    "undo the leave with number {leave_id}",
                ),
                heldout=("withdraw the leave with number {leave_id}", "take back leave {leave_id}, it is not needed"),
            ),
        ),
        RequestGenerator(
            name="note_expense",
            draw=_note,
            setups=(SESSION,),
            topic="expense",
            wordings=Wordings(
                train=(
                    "note an expense of {amount} for {number}, purpose {purpose}",
                    "{number} spent {amount} on {purpose}, note it",
                    "write down {amount} for {purpose} by {number}",
                    "staff number {number} paid {amount} for {purpose}, note the expense",
                    "a new expense of {number}: {amount} for {purpose}",
                    "note {amount} as an expense of {number}, for {purpose}",
                ),
                heldout=(
                    "note an expense for {purpose}: {number} spent {amount}",
                    "write down a new expense of {amount} by {number} for {purpose}",
                ),
            ),
        ),
        RequestGenerator(
            name="hand_in",
            draw=_hand_in,
            setups=(SESSION, RECEIPT),
            weight=2.0,
            wordings=Wordings(
                train=(
                    "hand in expense {expense_id}",
                    "expense {expense_id} is complete, hand it in",
                    "see that the expense {expense_id} is handed in",
                    "give in the expense with number {expense_id}",
                    "the expense {expense_id} should be paid, hand it in",
                    "hand the expense {expense_id} in",
                ),
                heldout=(
                    "hand in the expense with number {expense_id}",
                    "see that expense {expense_id} is paid, hand it in",
                ),
            ),
        ),
        RequestGenerator(
            name="team",
            draw=_team,
            setups=(SESSION,),
            wordings=Wordings(
                train=(
                    "put {number} into the team {team}",
                    "change the team of {number} to {team}",
                    "{number} works in {team} now, change the team",
                    "move staff number {number} to {team}",
                    "make {team} the team of {number}",
                    "the new team of {number} is {team}",
                ),
                heldout=("move {number} into the team {team}", "change staff number {number} to the team {team}"),
            ),
        ),
    ),
)
