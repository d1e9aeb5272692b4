"""A calendar of events and guests: one has to be open, and a locked event stays as it is."""

from __future__ import annotations

from typing import Any

from fission_grpo.environments.office.values import checked_day, minutes_past_midnight, time_of_day
from fission_grpo.errors import ToolError

DAY_BEGINS, DAY_ENDS = 8 * 60, 18 * 60
"""Office hours, in minutes past midnight."""


class Calendar:
    """Events last some minutes and never overlap; guests come from the people of the office."""

    def reset(
        self, calendars: dict[str, list[dict[str, Any]]], people: list[str], opened: str | None, next_id: int
    ) -> None:
        """Begin.

        Args:
            calendars: events by the name of their calendar; an event has `id`, `title`, `day`, `start`, `minutes`,
                `guests` and `locked`.
            people: who can be a guest.
            opened: the calendar that is open, if one is.
            next_id: number of the next new event.
        """
        self.calendars, self.people, self.opened, self.next_id = calendars, people, opened, next_id

    def open_calendar(self, calendar: str) -> str:
        """Open a calendar for all that follows.

        Args:
            calendar: its name
        """
        if calendar not in self.calendars:
            raise ToolError(f"there is no calendar {calendar!r}; there are {', '.join(sorted(self.calendars))}")
        if calendar == self.opened:
            raise ToolError(f"the calendar {calendar!r} is open already")
        self.opened = calendar
        return f"opened {calendar}"

    def show_day(self, day: str) -> list[dict[str, Any]]:
        """Show the events of a day.

        Args:
            day: YYYY-MM-DD
        """
        shown = ("id", "title", "start", "minutes")
        return [{key: event[key] for key in shown} for event in self._on(checked_day(day))]

    def show_event(self, event_id: int) -> dict[str, Any]:
        """Show one event with its guests.

        Args:
            event_id: number of the event
        """
        return self._event(event_id)

    def find_free_slot(self, day: str, minutes: int) -> dict[str, Any]:
        """Find the first free time of a day, in office hours.

        Args:
            day: YYYY-MM-DD
            minutes: how long it has to be free
        """
        begin = DAY_BEGINS
        for event in self._on(checked_day(day)):
            if begin + _length(minutes) <= minutes_past_midnight(event["start"]):
                break
            begin = max(begin, minutes_past_midnight(event["start"]) + event["minutes"])
        if begin + _length(minutes) > DAY_ENDS:
            raise ToolError(f"no such slot: {day} has no {minutes} free minutes left")
        return {"day": day, "start": time_of_day(begin)}

    def add_event(self, title: str, day: str, start: str, minutes: int) -> str:
        """Add an event.

        Args:
            title: what it is called
            day: YYYY-MM-DD
            start: HH:MM
            minutes: how long it lasts
        """
        event = {"id": self.next_id, "title": title, "day": checked_day(day), "start": start}
        event |= {"minutes": _length(minutes), "guests": [], "locked": False}
        self._require_free(event)
        self._events().append(event)
        self.next_id += 1
        return f"event {event['id']} was added"

    def move_event(self, event_id: int, day: str, start: str) -> str:
        """Move an event to another time.

        Args:
            event_id: number of the event
            day: YYYY-MM-DD
            start: HH:MM
        """
        event = self._unlocked(event_id)
        self._require_free({**event, "day": checked_day(day), "start": start})
        event.update(day=day, start=start)
        return f"event {event_id} was moved to {day} {start}"

    def rename_event(self, event_id: int, title: str) -> str:
        """Give an event another title.

        Args:
            event_id: number of the event
            title: the new title
        """
        self._unlocked(event_id)["title"] = title
        return f"event {event_id} is now called {title}"

    def drop_event(self, event_id: int) -> str:
        """Take an event out of the calendar.

        Args:
            event_id: number of the event
        """
        self._events().remove(self._unlocked(event_id))
        return f"event {event_id} was dropped"

    def unlock_event(self, event_id: int) -> str:
        """Unlock an event so that it can be changed.

        Args:
            event_id: number of the event
        """
        event = self._event(event_id)
        if not event["locked"]:
            raise ToolError(f"event {event_id} is unlocked already")
        event["locked"] = False
        return f"event {event_id} is unlocked"

    def invite_guest(self, event_id: int, person: str) -> str:
        """Invite somebody to an event.

        Args:
            event_id: number of the event
            person: name of the guest
        """
        guests = self._event(event_id)["guests"]
        if person not in self.people:
            raise ToolError(f"person not found: {person!r}")
        if person in guests:
            raise ToolError(f"{person} is already a guest of event {event_id}")
        guests.append(person)
        return f"{person} is invited to event {event_id}"

    def uninvite_guest(self, event_id: int, person: str) -> str:
        """Take a guest off an event.

        Args:
            event_id: number of the event
            person: name of the guest
        """
        guests = self._event(event_id)["guests"]
        if person not in guests:
            raise ToolError(f"guest not found at event {event_id}: {person!r}")
        guests.remove(person)
        return f"{person} is off event {event_id}"

    def _events(self) -> list[dict[str, Any]]:
        if self.opened is None:
            raise ToolError("no calendar is open; open one first")
        return self.calendars[self.opened]

    def _on(self, day: str) -> list[dict[str, Any]]:
        return sorted((event for event in self._events() if event["day"] == day), key=lambda event: str(event["start"]))

    def _event(self, event_id: int) -> dict[str, Any]:
        for event in self._events():
            if event["id"] == event_id:
                return event
        raise ToolError(f"there is no event {event_id} in {self.opened}")

    def _unlocked(self, event_id: int) -> dict[str, Any]:
        event = self._event(event_id)
        if event["locked"]:
            raise ToolError(f"event {event_id} is locked; unlock it first")
        return event

    def _require_free(self, wanted: dict[str, Any]) -> None:
        begin = minutes_past_midnight(wanted["start"])
        for event in self._on(wanted["day"]):
            other = minutes_past_midnight(event["start"])
            if event["id"] != wanted["id"] and begin < other + event["minutes"] and other < begin + wanted["minutes"]:
                raise ToolError(f"that time is taken already by event {event['id']}, {event['minutes']} minutes long")


def _length(minutes: int) -> int:
    if not 5 <= minutes <= 600:
        raise ToolError(f"invalid length {minutes}: an event lasts 5 to 600 minutes")
    return int(minutes)
