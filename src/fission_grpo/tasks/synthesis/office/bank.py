"""Requests to `Bank`: who is verified, what is approved or covered, and which card is blocked are not said."""

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

_PLENTY = 1000
"""Every account holds at least as much, unless it is to be short; no payment is higher than half of it."""


def _iban(rng: Random) -> str:
    return f"{rng.choice(('AT', 'DE', 'FI', 'IT', 'NL', 'PT'))}{rng.randint(10**7, 10**8 - 1)}"


def _initial_state(rng: Random) -> dict[str, Any]:
    own, *people = rng.sample(vocabulary.PEOPLE, 6)
    accounts = {name: vocabulary.price(rng, _PLENTY, 5000) for name in rng.sample(vocabulary.NOUNS, 3)}
    payees = {person: _iban(rng) for person in people}
    first = rng.randint(10, 900)
    cards = [{"id": n, "limit": 100 * rng.randint(1, 50), "blocked": False} for n in rng.sample(range(1000, 10_000), 3)]
    return {
        "customer": {"name": own, "pin": f"{rng.randint(0, 9999):04d}"},
        "verified": True,
        "accounts": accounts,
        "payees": payees,
        "payments": [_payment(rng, first + i, sorted(accounts), payees[people[i]]) for i in range(4)],
        "cards": cards,
        "next_id": first + 50,
    }


def _payment(rng: Random, number: int, accounts: list[str], iban: str) -> dict[str, Any]:
    amount, code = vocabulary.price(rng, 20, _PLENTY // 2), f"{rng.choice(vocabulary.NOUNS)[:3]}{rng.randint(10, 99)}"
    payment = {"id": number, "account": rng.choice(accounts), "iban": iban, "amount": amount}
    return {**payment, "code": code, "stage": "waiting"}


def _found_payment(initial: InitialState, number: int) -> dict[str, Any]:
    found: dict[str, Any] = next(payment for payment in initial.state["payments"] if payment["id"] == number)
    return found


def _verified(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    initial.state["verified"] = not unmet
    slots = initial.state["customer"]
    return Draw(slots=slots, calls=(call("verify_customer", **slots),) if unmet else ())


def _approved(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    payment = _found_payment(initial, request.slots["payment_id"])
    payment["stage"] = "waiting" if unmet else "approved"
    approve = call("approve_payment", payment_id=payment["id"], code=payment["code"])
    return Draw(slots={"code": payment["code"]}, calls=(approve,) if unmet else ())


def _funded(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    payment, accounts = _found_payment(initial, request.slots["payment_id"]), initial.state["accounts"]
    source = initial.rng.choice(sorted(name for name in accounts if name != payment["account"]))
    slots = {"source": source, "target": payment["account"], "amount": payment["amount"]}
    if unmet:
        accounts[payment["account"]] = vocabulary.price(initial.rng, 0, 19)
    return Draw(slots=slots, calls=(call("shift_money", **slots),) if unmet else ())


def _unblocked(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    number = request.slots["card_id"]
    next(card for card in initial.state["cards"] if card["id"] == number)["blocked"] = unmet
    return Draw(slots={}, calls=(call("unblock_card", card_id=number),) if unmet else ())


VERIFIED = Setup(
    name="customer",
    fixers=("verify_customer",),
    arrange=_verified,
    notes=Wordings(
        train=(
            "I am {name} with the pin {pin}",
            "the customer is {name}, pin {pin}",
            "verify {name} with pin {pin} if needed",
            "the pin of {name} is {pin}",
            "if I am not verified, my name is {name} and my pin is {pin}",
            "my name is {name} and the pin {pin}",
        ),
        heldout=("the customer is {name} with pin {pin}", "if needed, verify the customer {name} with the pin {pin}"),
    ),
)

APPROVED = Setup(
    name="approval",
    fixers=("approve_payment",),
    arrange=_approved,
    notes=Wordings(
        train=(
            "the approval code is {code}",
            "approve it with {code} if that was not done",
            "if it is not approved, the code is {code}",
            "I have the code {code} to approve it",
            "use the code {code} if it has to be approved",
            "{code} is the code that approves it",
        ),
        heldout=("if it is not approved, approve it with the code {code}", "the code that approves it is {code}"),
    ),
)

FUNDED = Setup(
    name="cover",
    fixers=("shift_money",),
    arrange=_funded,
    notes=Wordings(
        train=(
            "if {target} is short, shift {amount} from {source}",
            "shift {amount} from {source} to {target} if it holds too little",
            "should {target} not hold enough, {source} can give {amount}",
            "{amount} may go from {source} to {target} if needed",
            "if needed, {source} gives {amount} to {target}",
            "take {amount} from {source} if {target} is short",
        ),
        heldout=(
            "if {target} holds too little, shift {amount} from {source}",
            "if {target} is short, {source} can give {amount}",
        ),
    ),
)

UNBLOCKED = Setup(
    name="card",
    fixers=("unblock_card",),
    arrange=_unblocked,
    notes=Wordings(
        train=(
            "unblock the card if needed",
            "if it is blocked, unblock it",
            "you may unblock the card",
            "a blocked card may be unblocked",
            "I do not know if the card is blocked",
            "it can be unblocked if it is not in use",
        ),
        heldout=("if the card is blocked, you may unblock it", "I do not know if it is blocked, unblock it if needed"),
    ),
)


def _take_account(initial: InitialState) -> str:
    return str(initial.take(sorted(initial.state["accounts"])))


def _take_payment(initial: InitialState) -> int:
    return initial.take([int(payment["id"]) for payment in initial.state["payments"]])


def _take_card(initial: InitialState) -> int:
    return initial.take([int(card["id"]) for card in initial.state["cards"]])


def _take_payee(initial: InitialState) -> tuple[str, str]:
    name = initial.take(sorted(initial.state["payees"]))
    return name, initial.state["payees"][name]


def _balance(initial: InitialState) -> Draw:
    return one_call("account_balance", account=_take_account(initial))


def _find_payee(initial: InitialState) -> Draw:
    return one_call("find_payee", name=_take_payee(initial)[0])


def _add_payee(initial: InitialState) -> Draw:
    known = {*initial.state["payees"], initial.state["customer"]["name"]}
    name = initial.take([person for person in vocabulary.PEOPLE if person not in known])
    return one_call("add_payee", name=name, iban=_iban(initial.rng))


def _shift(initial: InitialState) -> Draw:
    source, target = _take_account(initial), _take_account(initial)
    return one_call("shift_money", source=source, target=target, amount=vocabulary.price(initial.rng, 10, _PLENTY // 2))


def _prepare(initial: InitialState) -> Draw:
    account, amount = _take_account(initial), vocabulary.price(initial.rng, 20, _PLENTY // 2)
    return one_call("prepare_payment", account=account, iban=_iban(initial.rng), amount=amount)


def _prepare_by_name(initial: InitialState) -> Draw:
    (name, iban), account = _take_payee(initial), _take_account(initial)
    amount = vocabulary.price(initial.rng, 20, _PLENTY // 2)
    calls = (call("find_payee", name=name), call("prepare_payment", account=account, iban=iban, amount=amount))
    return Draw(slots={"payee": name, "account": account, "amount": amount}, calls=calls)


def _carry_out(initial: InitialState) -> Draw:
    return one_call("carry_out_payment", payment_id=_take_payment(initial))


def _revoke(initial: InitialState) -> Draw:
    return one_call("revoke_payment", payment_id=_take_payment(initial))


def _block(initial: InitialState) -> Draw:
    return one_call("block_card", card_id=_take_card(initial))


def _limit(initial: InitialState) -> Draw:
    return one_call("change_card_limit", card_id=_take_card(initial), limit=50 + 100 * initial.rng.randint(1, 90))


BANK = Api(
    name="Bank",
    initial_state=_initial_state,
    generators=(
        RequestGenerator(
            name="balance",
            draw=_balance,
            setups=(VERIFIED,),
            topic="money",
            wordings=Wordings(
                train=(
                    "tell me the balance of {account}",
                    "how much is on the account {account}, look it up",
                    "show the balance of account {account}",
                    "what does {account} hold, show it",
                    "look up the balance of the account {account}",
                    "give me the balance on {account}",
                ),
                heldout=("show me how much is on account {account}", "look up what the account {account} does hold"),
            ),
        ),
        RequestGenerator(
            name="find_payee",
            draw=_find_payee,
            setups=(VERIFIED,),
            topic="payee",
            wordings=Wordings(
                train=(
                    "find the iban of {name}",
                    "look up the payee {name}",
                    "what is the iban of the payee {name}, find it",
                    "tell me the iban of {name}",
                    "give me the iban for the payee {name}",
                    "I need the iban of {name}, look it up",
                ),
                heldout=("look up the iban of the payee {name}", "tell me the iban for {name}"),
            ),
        ),
        RequestGenerator(
            name="add_payee",
            draw=_add_payee,
            setups=(VERIFIED,),
            topic="payee",
            wordings=Wordings(
                train=(
                    "add the payee {name} with iban {iban}",
                    "make {name} a payee, iban {iban}",
                    "{name} is a new payee with the iban {iban}, add it",
                    "put {name} and the iban {iban} on my list of payees",
                    "I want to pay {name} in future, the iban is {iban}, add it",
                    "with iban {iban}, add {name} to the payees",
                ),
                heldout=("add {name} with the iban {iban} to my payees", "make {name} with iban {iban} a new payee"),
            ),
        ),
        RequestGenerator(
            name="shift",
            draw=_shift,
            setups=(VERIFIED,),
            topic="money",
            wordings=Wordings(
                train=(
                    "shift {amount} from {source} to {target}",
                    "move {amount} from account {source} to account {target}",
                    "take {amount} from {source} and put it on {target}",
                    "{source} should give {amount} to {target}",
                    "put {amount} on {target}, from {source}",
                    "from the account {source}, shift {amount} to {target}",
                ),
                heldout=(
                    "move {amount} from {source} to {target}",
                    "take {amount} from account {source} and shift it to {target}",
                ),
            ),
        ),
        RequestGenerator(
            name="prepare",
            draw=_prepare,
            setups=(VERIFIED,),
            topic="prepare",
            wordings=Wordings(
                train=(
                    "prepare a payment of {amount} from {account} to {iban}",
                    "{iban} should get {amount} from {account}, prepare it",
                    "set up a payment from {account}: {amount} to {iban}",
                    "prepare to pay {amount} to {iban} from the account {account}",
                    "from {account}, prepare {amount} for {iban}",
                    "get a payment ready, {amount} from {account} to iban {iban}",
                ),
                heldout=(
                    "set up a payment of {amount} to {iban} from the account {account}",
                    "prepare to pay {iban} {amount} from {account}",
                ),
            ),
        ),
        RequestGenerator(
            name="prepare_by_name",
            draw=_prepare_by_name,
            setups=(VERIFIED,),
            topic="prepare",
            weight=1.2,
            wordings=Wordings(
                train=(
                    "find the iban of {payee} and prepare a payment of {amount} from {account}",
                    "{payee} should get {amount} from {account}, look up the iban and prepare it",
                    "look up the payee {payee}, then prepare {amount} from {account}",
                    "prepare to pay {payee} {amount} from the account {account}, find the iban first",
                    "set up a payment of {amount} to {payee} from {account}, the iban is on my list",
                    "from {account}, prepare {amount} for the payee {payee}, the iban is on the list",
                ),
                heldout=(
                    "look up the iban of {payee} and prepare a payment of {amount} from the account {account}",
                    "find the payee {payee}, then set up a payment of {amount} from {account}",
                ),
            ),
        ),
        RequestGenerator(
            name="carry_out",
            draw=_carry_out,
            setups=(VERIFIED, APPROVED, FUNDED),
            topic="money",
            weight=2.5,
            wordings=Wordings(
                train=(
                    "carry out payment {payment_id}",
                    "make payment {payment_id} now",
                    "payment {payment_id} is due, carry it out",
                    "see that the payment {payment_id} is carried out",
                    "do the payment with number {payment_id}",
                    "let payment {payment_id} go out",
                ),
                heldout=(
                    "carry out the payment with number {payment_id}",
                    "see that payment {payment_id} is carried out now",
                ),
            ),
        ),
        RequestGenerator(
            name="revoke",
            draw=_revoke,
            setups=(VERIFIED,),
            wordings=Wordings(
                train=(
                    "revoke payment {payment_id}",
                    "payment {payment_id} was a mistake, revoke it",
                    "take back the payment {payment_id}",
                    "stop payment {payment_id} for good",
                    "payment {payment_id} should not be made, revoke it",
                    "revoke the payment with number {payment_id}",
                ),
                heldout=(
                    "take back the payment with number {payment_id}",
                    "revoke payment {payment_id}, it was a mistake",
                ),
            ),
        ),
        RequestGenerator(
            name="block",
            draw=_block,
            setups=(VERIFIED,),
            topic="block",
            wordings=Wordings(
                train=(
                    "block card {card_id}",
                    "card {card_id} is lost, block it",
                    "make sure that nobody can use card {card_id}, block it",
                    "the card with number {card_id} should be blocked",
                    "I lost my card {card_id}, block it",
                    "put a block on the card {card_id}",
                ),
                heldout=("I lost the card with number {card_id}, block it", "put a block on my card {card_id}"),
            ),
        ),
        RequestGenerator(
            name="limit",
            draw=_limit,
            setups=(VERIFIED, UNBLOCKED),
            weight=1.8,
            wordings=Wordings(
                train=(
                    "change the limit of card {card_id} to {limit}",
                    "set card {card_id} to a limit of {limit}",
                    "card {card_id} should have the limit {limit}",
                    "give card {card_id} a limit of {limit}",
                    "the new limit of the card {card_id} is {limit}, change it",
                    "let card {card_id} spend {limit}",
                ),
                heldout=(
                    "set the limit of the card {card_id} to {limit}",
                    "change card {card_id} to a new limit of {limit}",
                ),
            ),
        ),
    ),
)
