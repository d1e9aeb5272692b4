"""Requests to `Calendar`: which calendar is open is not said, nor which event is locked."""

from __future__ import annotations

from random import Random
from typing import Any

from fission_grpo.environments.office.calendar import Calendar
from fission_grpo.environments.office.values import time_of_day
from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.tasks.synthesis.families.family import (
    Api,
    Draw,
    InitialState,
    RejectedDraw,
    RequestGenerator,
    Setup,
    Wordings,
    call,
    one_call,
)

_LENGTHS = (15, 20, 30, 45, 60, 90)


def _initial_state(rng: Random) -> dict[str, Any]:
    name, other = rng.sample(vocabulary.NOUNS, 2)
    people = rng.sample(vocabulary.PEOPLE, 7)
    first = rng.randint(10, 900)
    days = [vocabulary.day(rng) for _ in range(2)]
    events = [_event(rng, first + i, day, start, people) for i, (day, start) in enumerate(_starts(rng, days))]
    return {"calendars": {name: events, other: []}, "people": people, "opened": name, "next_id": first + 40}


def _starts(rng: Random, days: list[str]) -> list[tuple[str, int]]:
    """Three times of each day, with 90 minutes or more between them, so that no two events meet."""
    hours = [(day, hour) for day in days for hour in sorted(rng.sample((8, 10, 12, 14), 3))]
    return [(day, hour * 60 + rng.choice((0, 15, 30))) for day, hour in hours]


def _event(rng: Random, number: int, day: str, start: int, people: list[str]) -> dict[str, Any]:
    return {
        "id": number,
        "title": vocabulary.phrase(rng, 1, 2),
        "day": day,
        "start": time_of_day(start),
        "minutes": rng.choice(_LENGTHS),
        "guests": rng.sample(people, rng.randint(1, 3)),
        "locked": False,
    }


def _opened(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    slots = {"calendar": initial.state["opened"]}
    if unmet:
        initial.state["opened"] = None
    return Draw(slots=slots, calls=(call("open_calendar", **slots),) if unmet else ())


def _unlocked(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    number = request.slots["event_id"]
    (event,) = (event for event in _events(initial) if event["id"] == number)
    event["locked"] = unmet
    return Draw(slots={}, calls=(call("unlock_event", event_id=number),) if unmet else ())


OPENED = Setup(
    name="calendar",
    fixers=("open_calendar",),
    arrange=_opened,
    notes=Wordings(
        train=(
            "it is all in the calendar {calendar}",
            "use the {calendar} calendar",
            "this is about the calendar {calendar}",
            "open the calendar {calendar} if needed",
            "I mean the {calendar} calendar",
            "the calendar is called {calendar}",
        ),
        heldout=("open the {calendar} calendar if needed", "I mean the calendar called {calendar}"),
    ),
)

UNLOCKED = Setup(
    name="lock",
    fixers=("unlock_event",),
    arrange=_unlocked,
    notes=Wordings(
        train=(
            "unlock the event if needed",
            "you may unlock it",
            "if it is locked, unlock it",
            "a locked event may be unlocked",
            "a lock should not stop you",
            "do not mind a lock, you can open it",
        ),
        heldout=("if the event is locked, you may unlock it", "you can unlock the event if needed"),
    ),
)


def _events(initial: InitialState) -> list[dict[str, Any]]:
    """Those of the calendar that has any."""
    calendars = initial.state["calendars"]
    events: list[dict[str, Any]] = max(calendars.values(), key=len)
    return events


def _take_event(initial: InitialState) -> dict[str, Any]:
    number = initial.take([event["id"] for event in _events(initial)])
    (event,) = (event for event in _events(initial) if event["id"] == number)
    return event


def _plan(initial: InitialState) -> Draw:
    return one_call("show_day", day=initial.rng.choice(_events(initial))["day"])


def _details(initial: InitialState) -> Draw:
    return one_call("show_event", event_id=_take_event(initial)["id"])


def _afternoon(rng: Random) -> str:
    """Later than any event begins or ends."""
    return time_of_day(rng.randint(64, 80) * 15)


def _add(initial: InitialState) -> Draw:
    return one_call(
        "add_event",
        title=vocabulary.phrase(initial.rng, 1, 2),
        day=initial.rng.choice((vocabulary.day(initial.rng), _events(initial)[0]["day"])),
        start=_afternoon(initial.rng),
        minutes=initial.rng.choice(_LENGTHS),
    )


def _add_in_gap(initial: InitialState) -> Draw:
    title, minutes = vocabulary.phrase(initial.rng, 1, 2), initial.rng.choice(_LENGTHS)
    day = initial.rng.choice(_events(initial))["day"]
    calendar = Calendar()
    calendar.reset(**initial.state)
    slot = calendar.find_free_slot(day, minutes)
    find = call("find_free_slot", day=day, minutes=minutes)
    add = call("add_event", title=title, day=day, start=slot["start"], minutes=minutes)
    return Draw(slots={"title": title, "day": day, "minutes": minutes}, calls=(find, add))


def _move(initial: InitialState) -> Draw:
    day, start = vocabulary.day(initial.rng), _afternoon(initial.rng)
    return one_call("move_event", event_id=_take_event(initial)["id"], day=day, start=start)


def _rename(initial: InitialState) -> Draw:
    title = vocabulary.phrase(initial.rng, 1, 2)
    return one_call("rename_event", event_id=_take_event(initial)["id"], title=title)


def _drop(initial: InitialState) -> Draw:
    return one_call("drop_event", event_id=_take_event(initial)["id"])


def _invite(initial: InitialState) -> Draw:
    event = _take_event(initial)
    others = [person for person in initial.state["people"] if person not in event["guests"]]
    return one_call("invite_guest", event_id=event["id"], person=initial.rng.choice(others))


def _uninvite(initial: InitialState) -> Draw:
    event = _take_event(initial)
    if not event["guests"]:
        raise RejectedDraw
    return one_call("uninvite_guest", event_id=event["id"], person=initial.rng.choice(event["guests"]))


CALENDAR = Api(
    name="Calendar",
    initial_state=_initial_state,
    generators=(
        RequestGenerator(
            name="plan",
            draw=_plan,
            setups=(OPENED,),
            wordings=Wordings(
                train=(
                    "show the events of {day}",
                    "what is planned on {day}, show it",
                    "list all that happens on {day}",
                    "give me the plan of {day}",
                    "show me the day {day}",
                    "which events are there on {day}, list them",
                ),
                heldout=("list the events of the day {day}", "show me what is planned on {day}"),
            ),
        ),
        RequestGenerator(
            name="details",
            draw=_details,
            setups=(OPENED,),
            wordings=Wordings(
                train=(
                    "show event {event_id}",
                    "who comes to event {event_id}, show it",
                    "tell me about event {event_id}",
                    "give me the details of event {event_id}",
                    "look up the event {event_id}",
                    "show me the event with number {event_id}",
                ),
                heldout=("look up the event with number {event_id}", "show me the details of event {event_id}"),
            ),
        ),
        RequestGenerator(
            name="add",
            draw=_add,
            setups=(OPENED,),
            topic="slot",
            wordings=Wordings(
                train=(
                    "add the event {title} on {day} at {start} for {minutes} minutes",
                    "put {title} into the calendar on {day} at {start}, {minutes} minutes long",
                    "plan {title} for {day}, {start}, with {minutes} minutes",
                    "on {day} at {start}, add {title} for {minutes} minutes",
                    "I need an event {title} of {minutes} minutes at {start} on {day}",
                    "make it {minutes} minutes of {title} from {start} on {day}",
                ),
                heldout=(
                    "plan the event {title} of {minutes} minutes on {day} at {start}",
                    "on {day}, put {title} into the calendar at {start} for {minutes} minutes",
                ),
            ),
        ),
        RequestGenerator(
            name="add_in_gap",
            draw=_add_in_gap,
            setups=(OPENED,),
            topic="slot",
            weight=1.2,
            wordings=Wordings(
                train=(
                    "find a free slot of {minutes} minutes on {day} and add {title} there",
                    "add {title} for {minutes} minutes on {day}, as soon as a slot is free",
                    "look for {minutes} free minutes on {day} and put {title} there",
                    "{title} should take {minutes} minutes on {day}, at the first free time",
                    "find {minutes} free minutes for {title} on {day} and add it",
                    "on {day}, put {title} into the first free slot of {minutes} minutes",
                ),
                heldout=(
                    "look for a free slot on {day} and put {title} there for {minutes} minutes",
                    "add {title} on {day} at the first free slot of {minutes} minutes",
                ),
            ),
        ),
        RequestGenerator(
            name="move",
            draw=_move,
            setups=(OPENED, UNLOCKED),
            topic="slot",
            weight=1.5,
            wordings=Wordings(
                train=(
                    "move event {event_id} to {day} at {start}",
                    "event {event_id} should be on {day} at {start}",
                    "put event {event_id} on {day}, {start}",
                    "shift the event {event_id} to {start} on {day}",
                    "at {start} on {day} is the new time of event {event_id}, move it",
                    "the new time of event {event_id} is {day} at {start}",
                ),
                heldout=(
                    "shift event {event_id} to {day} at {start}",
                    "the event {event_id} should move to {start} on {day}",
                ),
            ),
        ),
        RequestGenerator(
            name="rename",
            draw=_rename,
            setups=(OPENED, UNLOCKED),
            weight=1.2,
            wordings=Wordings(
                train=(
                    "rename event {event_id} to {title}",
                    "call event {event_id} {title}",
                    "event {event_id} should be called {title}",
                    "give event {event_id} the title {title}",
                    "change the title of event {event_id} to {title}",
                    "{title} is the new title of event {event_id}",
                ),
                heldout=(
                    "the title of event {event_id} should be {title}",
                    "change event {event_id} to the new title {title}",
                ),
            ),
        ),
        RequestGenerator(
            name="drop",
            draw=_drop,
            setups=(OPENED, UNLOCKED),
            topic="slot",
            wordings=Wordings(
                train=(
                    "drop event {event_id}",
                    "event {event_id} will not happen, drop it",
                    "take event {event_id} out of the calendar",
                    "remove the event {event_id}",
                    "cancel event {event_id}",
                    "delete the event with number {event_id}",
                ),
                heldout=("cancel the event with number {event_id}", "remove event {event_id}, it will not happen"),
            ),
        ),
        RequestGenerator(
            name="invite",
            draw=_invite,
            setups=(OPENED,),
            wordings=Wordings(
                train=(
                    "invite {person} to event {event_id}",
                    "{person} should come to event {event_id}, send the invitation",
                    "add {person} as a guest of event {event_id}",
                    "make {person} a guest at event {event_id}",
                    "to event {event_id}, invite {person}",
                    "I want {person} to be at event {event_id}",
                ),
                heldout=(
                    "invite {person} as a guest to event {event_id}",
                    "I want to add {person} to event {event_id}",
                ),
            ),
        ),
        RequestGenerator(
            name="uninvite",
            draw=_uninvite,
            setups=(OPENED,),
            wordings=Wordings(
                train=(
                    "uninvite {person} from event {event_id}",
                    "{person} cannot come to event {event_id}, take them off",
                    "remove the guest {person} from event {event_id}",
                    "take {person} off the guests of event {event_id}",
                    "from event {event_id}, remove {person}",
                    "event {event_id} is without {person} now, uninvite them",
                ),
                heldout=(
                    "take the guest {person} off event {event_id}",
                    "remove {person} from the guests of event {event_id}",
                ),
            ),
        ),
    ),
)
