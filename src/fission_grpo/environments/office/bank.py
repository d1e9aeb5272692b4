"""A bank: a verified customer, accounts, cards, and payments that are approved before they are carried out."""

from __future__ import annotations

import re
from typing import Any

from fission_grpo.environments.office.values import checked_amount
from fission_grpo.errors import ToolError

_IBAN = re.compile(r"[A-Z]{2}\d{8}")


class Bank:
    """A payment is prepared, approved with its code, and carried out, once the account holds enough."""

    def reset(
        self,
        customer: dict[str, str],
        verified: bool,
        accounts: dict[str, float],
        payees: dict[str, str],
        payments: list[dict[str, Any]],
        cards: list[dict[str, Any]],
        next_id: int,
    ) -> None:
        """Begin.

        Args:
            customer: `name` and `pin`.
            verified: whether the customer is already.
            accounts: balance by name.
            payees: IBAN by name.
            payments: each with `id`, `account`, `iban`, `amount`, `code` (none until the bank has sent it) and `stage`.
            cards: each with `id`, `limit` and `blocked`.
            next_id: number of the next payment.
        """
        self.customer, self.verified, self.accounts, self.payees = customer, verified, accounts, payees
        self.payments, self.cards, self.next_id = payments, cards, next_id

    def verify_customer(self, name: str, pin: str) -> str:
        """Verify who the customer is.

        Args:
            name: name of the customer
            pin: four digits
        """
        if self.verified:
            raise ToolError(f"{self.customer['name']} is verified already")
        if name != self.customer["name"]:
            raise ToolError(f"unknown customer {name!r}")
        if pin != self.customer["pin"]:
            raise ToolError("permission denied: the pin is wrong")
        self.verified = True
        return f"{name} is verified"

    def account_balance(self, account: str) -> float:
        """Tell what is on an account.

        Args:
            account: name of the account
        """
        return self.accounts[self._account(account)]

    def find_payee(self, name: str) -> str:
        """Find the IBAN of a payee.

        Args:
            name: name of the payee
        """
        self._require_customer()
        if name not in self.payees:
            raise ToolError(f"payee not found: {name!r}")
        return self.payees[name]

    def add_payee(self, name: str, iban: str) -> str:
        """Add a payee.

        Args:
            name: name of the payee
            iban: two capital letters and eight digits
        """
        self._require_customer()
        if name in self.payees:
            raise ToolError(f"a payee {name!r} exists")
        self.payees[name] = _checked_iban(iban)
        return f"{name} is a payee now"

    def shift_money(self, source: str, target: str, amount: float) -> str:
        """Shift money between two accounts of the customer.

        Args:
            source: name of the account that gives
            target: name of the account that gets
            amount: how much
        """
        self._take(self._account(source), checked_amount(amount), unless=self._account(target))
        self.accounts[target] = round(self.accounts[target] + amount, 2)
        return f"{source} {self.accounts[source]:.2f}, {target} {self.accounts[target]:.2f}"

    def prepare_payment(self, account: str, iban: str, amount: float) -> str:
        """Prepare a payment, to be approved later.

        Args:
            account: name of the account that pays
            iban: IBAN of the payee
            amount: how much
        """
        payment = {"id": self.next_id, "account": self._account(account), "iban": _checked_iban(iban)}
        self.payments.append({**payment, "amount": checked_amount(amount), "code": None, "stage": "waiting"})
        self.next_id += 1
        return f"payment {payment['id']} waits for approval"

    def approve_payment(self, payment_id: int, code: str) -> str:
        """Approve a payment that waits.

        Args:
            payment_id: number of the payment
            code: its approval code
        """
        payment = self._payment(payment_id)
        if payment["stage"] != "waiting":
            raise ToolError(f"payment {payment_id} is {payment['stage']} already")
        if code != payment["code"]:
            raise ToolError("approval denied: the code is wrong")
        payment["stage"] = "approved"
        return f"payment {payment_id} is approved"

    def carry_out_payment(self, payment_id: int) -> str:
        """Carry out an approved payment.

        Args:
            payment_id: number of the payment
        """
        payment = self._payment(payment_id)
        if payment["stage"] == "waiting":
            raise ToolError(f"payment {payment_id} is not approved; approve it first")
        if payment["stage"] != "approved":
            raise ToolError(f"payment {payment_id} is {payment['stage']} already")
        self._take(payment["account"], payment["amount"])
        payment["stage"] = "carried out"
        return f"payment {payment_id} is carried out"

    def revoke_payment(self, payment_id: int) -> str:
        """Revoke a payment that was not carried out.

        Args:
            payment_id: number of the payment
        """
        payment = self._payment(payment_id)
        if payment["stage"] in ("carried out", "revoked"):
            raise ToolError(f"payment {payment_id} is {payment['stage']} already")
        payment["stage"] = "revoked"
        return f"payment {payment_id} is revoked"

    def block_card(self, card_id: int) -> str:
        """Block a card.

        Args:
            card_id: last four digits of the card
        """
        card = self._card(card_id)
        if card["blocked"]:
            raise ToolError(f"card {card_id} is already blocked")
        card["blocked"] = True
        return f"card {card_id} is blocked"

    def unblock_card(self, card_id: int) -> str:
        """Unblock a card.

        Args:
            card_id: last four digits of the card
        """
        card = self._card(card_id)
        if not card["blocked"]:
            raise ToolError(f"card {card_id} is unblocked already")
        card["blocked"] = False
        return f"card {card_id} is unblocked"

    def change_card_limit(self, card_id: int, limit: int) -> str:
        """Change what a card may spend a month.

        Args:
            card_id: last four digits of the card
            limit: from 100 to 10000
        """
        card = self._card(card_id)
        if card["blocked"]:
            raise ToolError(f"card {card_id} is blocked; unblock it first")
        if not 100 <= limit <= 10_000:
            raise ToolError(f"invalid limit {limit}: from 100 to 10000")
        card["limit"] = int(limit)
        return f"card {card_id} has the limit {card['limit']}"

    def _require_customer(self) -> None:
        if not self.verified:
            raise ToolError("the customer is not verified; verify the customer first")

    def _account(self, account: str) -> str:
        self._require_customer()
        if account not in self.accounts:
            raise ToolError(f"no such account: {account!r}; there are {', '.join(sorted(self.accounts))}")
        return account

    def _payment(self, payment_id: int) -> dict[str, Any]:
        self._require_customer()
        for payment in self.payments:
            if payment["id"] == payment_id:
                return payment
        raise ToolError(f"there is no payment {payment_id}")

    def _card(self, card_id: int) -> dict[str, Any]:
        self._require_customer()
        for card in self.cards:
            if card["id"] == card_id:
                return card
        raise ToolError(f"card {card_id} does not exist")

    def _take(self, account: str, amount: float, unless: str = "") -> None:
        if account == unless:
            raise ToolError(f"invalid target {account!r}: it is the source itself")
        if self.accounts[account] < amount:
            raise ToolError(f"{account} holds {self.accounts[account]:.2f}, not {amount:.2f}; shift money to it first")
        self.accounts[account] = round(self.accounts[account] - amount, 2)  # a detour leaves no trace


def _checked_iban(iban: str) -> str:
    if not _IBAN.fullmatch(iban):
        raise ToolError(f"invalid IBAN {iban!r}: two capital letters and eight digits")
    return iban
