"""A personnel desk: a session, leave that runs out, and expenses that need their receipt."""

from __future__ import annotations

from typing import Any

from fission_grpo.environments.office.values import checked_amount, checked_day
from fission_grpo.errors import ToolError

TEAMS = ("design", "legal", "sales", "support")


class Staff:
    """Whoever works at the desk starts a session; people are known by their staff number."""

    def reset(
        self,
        desk: dict[str, str],
        session: bool,
        people: list[dict[str, Any]],
        leaves: list[dict[str, Any]],
        expenses: list[dict[str, Any]],
        next_id: int,
    ) -> None:
        """Begin.

        Args:
            desk: `user` and `passcode` of the desk.
            session: whether one was started.
            people: each with `number`, `name`, `team` and `days`, the leave that is left.
            leaves: each with `id`, `number`, `day` and `days`.
            expenses: each with `id`, `number`, `amount`, `purpose`, `receipt` and `handed_in`.
            next_id: number of the next leave, and of the next expense.
        """
        self.desk, self.session, self.people, self.leaves, self.expenses = desk, session, people, leaves, expenses
        self.next_id = next_id

    def start_session(self, user: str, passcode: str) -> str:
        """Start a session at the personnel desk.

        Args:
            user: who starts it
            passcode: the secret of that user
        """
        if self.session:
            raise ToolError("a session is running already")
        if user != self.desk["user"]:
            raise ToolError(f"unknown user {user!r}")
        if passcode != self.desk["passcode"]:
            raise ToolError("session denied: the passcode is wrong")
        self.session = True
        return "the session is running"

    def find_staff_number(self, name: str) -> int:
        """Find somebody's staff number.

        Args:
            name: name of the person
        """
        self._require_session()
        for person in self.people:
            if person["name"] == name:
                return int(person["number"])
        raise ToolError(f"person not found: {name!r}")

    def leave_left(self, number: int) -> int:
        """Tell how many days of leave somebody has left.

        Args:
            number: staff number
        """
        return int(self._person(number)["days"])

    def book_leave(self, number: int, day: str, days: int) -> str:
        """Book leave for somebody.

        Args:
            number: staff number
            day: the first day, YYYY-MM-DD
            days: how many days
        """
        person, first = self._person(number), checked_day(day)
        if days < 1:
            raise ToolError(f"invalid days {days}: at least 1")
        if any(leave["number"] == number and leave["day"] == first for leave in self.leaves):
            raise ToolError(f"{number} is on leave from {first} already")
        if person["days"] < days:
            raise ToolError(f"leave denied: {number} has {person['days']} days left")
        person["days"] -= int(days)
        self.leaves.append({"id": self.next_id, "number": person["number"], "day": first, "days": int(days)})
        self.next_id += 1
        return f"leave {self.next_id - 1} is booked"

    def withdraw_leave(self, leave_id: int) -> str:
        """Withdraw a leave, so that its days come back.

        Args:
            leave_id: number of the leave
        """
        self._require_session()
        for leave in self.leaves:
            if leave["id"] == leave_id:
                self._person(leave["number"])["days"] += leave["days"]
                self.leaves.remove(leave)
                return f"leave {leave_id} is withdrawn"
        raise ToolError(f"there is no leave {leave_id}")

    def note_expense(self, number: int, amount: float, purpose: str) -> str:
        """Note what somebody spent.

        Args:
            number: staff number
            amount: how much
            purpose: what it was for
        """
        expense = {"id": self.next_id, "number": self._person(number)["number"], "amount": checked_amount(amount)}
        self.expenses.append({**expense, "purpose": purpose, "receipt": "", "handed_in": False})
        self.next_id += 1
        return f"expense {expense['id']} is noted"

    def attach_receipt(self, expense_id: int, receipt: str) -> str:
        """Attach a receipt to an expense.

        Args:
            expense_id: number of the expense
            receipt: file name of the receipt
        """
        expense = self._open_expense(expense_id)
        if expense["receipt"]:
            raise ToolError(f"expense {expense_id} has a receipt already: {expense['receipt']}")
        expense["receipt"] = receipt
        return f"{receipt} is attached to expense {expense_id}"

    def hand_in_expense(self, expense_id: int) -> str:
        """Hand in an expense to be paid.

        Args:
            expense_id: number of the expense
        """
        expense = self._open_expense(expense_id)
        if not expense["receipt"]:
            raise ToolError(f"expense {expense_id} has no receipt; attach one first")
        expense["handed_in"] = True
        return f"expense {expense_id} is handed in"

    def change_team(self, number: int, team: str) -> str:
        """Put somebody into another team.

        Args:
            number: staff number
            team: name of the team
        """
        person = self._person(number)
        if team not in TEAMS:
            raise ToolError(f"invalid team {team!r}: one of {', '.join(TEAMS)}")
        if person["team"] == team:
            raise ToolError(f"{number} is in {team} already")
        person["team"] = team
        return f"{number} is in {team} now"

    def _require_session(self) -> None:
        if not self.session:
            raise ToolError("no session is running; start one first")

    def _person(self, number: int) -> dict[str, Any]:
        self._require_session()
        for person in self.people:
            if person["number"] == number:
                return person
        raise ToolError(f"no such staff number: {number}")

    def _open_expense(self, expense_id: int) -> dict[str, Any]:
        self._require_session()
        for expense in self.expenses:
            if expense["id"] == expense_id:
                if expense["handed_in"]:
                    raise ToolError(f"expense {expense_id} is handed in already")
                return expense
        raise ToolError(f"there is no expense {expense_id}")
