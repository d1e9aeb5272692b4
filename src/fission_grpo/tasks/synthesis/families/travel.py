"""Requests to `TravelAPI`: most speak to an account, whose token, card or budget may stand in the way."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.tasks.synthesis.families.family import (
    Api,
    Draw,
    InitialState,
    RequestGenerator,
    Wordings,
    call,
    one_call,
)
from fission_grpo.tasks.synthesis.families.travel_world import (
    AIRPORTS,
    BOOKING,
    CARD,
    CARD_ID,
    FLIGHT_BUDGET,
    INSURANCE_BUDGET,
    ROUTES,
    TRAVEL_LOGIN,
    date,
    digits,
    flight,
    next_id,
    traveller,
)

CITIES = tuple(combinations(AIRPORTS, 2))

DOLLAR = {"RMB": 7, "JPY": 110, "INR": 70, "RUB": 60, "MXN": 20}
"""What the official class gives for one USD."""

ACCOUNT = "account"
"""Topic of all requests with a token: two of them would arrange it twice, or shift each other's ids."""


def _account(initial: InitialState, name: str, /, **told: Any) -> Draw:
    """One call with the account's token, which a note tells; so are cards that pay."""
    return Draw(slots=told, calls=(call(name, access_token=initial.state["access_token"], **told),))


def _any_card(initial: InitialState) -> str:
    cards: dict[str, Any] = initial.state["credit_card_list"]
    return initial.rng.choice(sorted(cards))


def _any_booking(initial: InitialState) -> str:
    bookings: dict[str, Any] = initial.state["booking_record"]
    return initial.take(sorted(bookings))


def _balance_of(initial: InitialState) -> Draw:
    return _account(initial, "get_credit_card_balance", card_id=_any_card(initial))


def _balance_by_holder(initial: InitialState) -> Draw:
    card_id = _any_card(initial)
    holder = initial.state["credit_card_list"][card_id]["cardholder_name"]
    look = _account(initial, "get_credit_card_balance", card_id=card_id)
    return Draw(slots={"holder": holder}, calls=(call("get_all_credit_cards"), *look.calls))


def _set_budget(initial: InitialState) -> Draw:
    return _account(initial, "set_budget_limit", budget_limit=vocabulary.price(initial.rng, 300, 9000))


def _budget_by_currency(initial: InitialState) -> Draw:
    currency, dollars = initial.rng.choice(sorted(DOLLAR)), initial.rng.randint(300, 9000)
    value = dollars * DOLLAR[currency]
    exchange = one_call("compute_exchange_rate", base_currency=currency, target_currency="USD", value=value)
    limit = _account(initial, "set_budget_limit", budget_limit=float(dollars))
    return Draw(slots=exchange.slots, calls=(*exchange.calls, *limit.calls))


def _invoice(initial: InitialState) -> Draw:
    return _account(initial, "retrieve_invoice", booking_id=_any_booking(initial))


def _cancel(initial: InitialState) -> Draw:
    return _account(initial, "cancel_booking", booking_id=_any_booking(initial))


def _cancel_by_route(initial: InitialState) -> Draw:
    booking_id = _any_booking(initial)
    booking: dict[str, Any] = initial.state["booking_record"][booking_id]
    look, cancel = _account(initial, "get_booking_history"), _account(initial, "cancel_booking", booking_id=booking_id)
    return Draw(slots=booking, calls=(*look.calls, *cancel.calls))


def _verify(initial: InitialState) -> Draw:
    return one_call(
        "verify_traveler_information",
        first_name=initial.state["user_first_name"],
        last_name=initial.state["user_last_name"],
        date_of_birth=date(initial.rng, 1950, 2001),
        passport_number=f"US{digits(initial.rng, 7)}",
    )


def _book(initial: InitialState) -> Draw:
    return _booking(initial, next_id(initial, CARD_ID))


def _book_on_budget(initial: InitialState) -> Draw:
    return _booking(initial, _any_card(initial))


def _booking(initial: InitialState, card_id: str) -> Draw:
    told = flight(initial.rng, initial.rng.choice(ROUTES))
    return _account(initial, "book_flight", card_id=card_id, **told)


def _insure(initial: InitialState) -> Draw:
    return _insurance(initial, _any_card(initial), booking_id=_any_booking(initial))


def _book_and_insure(initial: InitialState) -> Draw:
    card_id = _any_card(initial)
    book = _booking(initial, card_id)
    insure = _insurance(initial, card_id, booking_id=next_id(initial, BOOKING))
    return Draw(slots={**book.slots, **insure.slots}, calls=(*book.calls, *insure.calls))


def _insurance(initial: InitialState, card_id: str, booking_id: str) -> Draw:
    kind = initial.rng.choice(("basic", "full", "medical", "luggage"))
    told = {"booking_id": booking_id, "insurance_type": kind, "insurance_cost": vocabulary.price(initial.rng, 40, 400)}
    return _account(initial, "purchase_insurance", card_id=card_id, **told)


def _flight_cost(initial: InitialState) -> Draw:
    return one_call("get_flight_cost", **flight(initial.rng, initial.rng.choice(ROUTES)))


def _cost_by_city(initial: InitialState) -> Draw:
    start, goal = initial.rng.choice(CITIES)
    told = flight(initial.rng, (AIRPORTS[start], AIRPORTS[goal]))
    looks = (call("get_nearest_airport_by_city", location=city) for city in (start, goal))
    return Draw(slots={"start": start, "goal": goal, **told}, calls=(*looks, call("get_flight_cost", **told)))


def _airport(initial: InitialState) -> Draw:
    return one_call("get_nearest_airport_by_city", location=initial.take(sorted(AIRPORTS)))


def _exchange(initial: InitialState) -> Draw:
    pair = vocabulary.several(initial.rng, ("USD", initial.rng.choice(sorted(DOLLAR))), 2, 2)
    value = vocabulary.price(initial.rng, 20, 4000)
    return one_call("compute_exchange_rate", base_currency=pair[0], target_currency=pair[1], value=value)


def _support(initial: InitialState) -> Draw:
    return one_call(
        "contact_customer_support", booking_id=_any_booking(initial), message=vocabulary.phrase(initial.rng, 2, 4)
    )


BOOK = Wordings(
    train=(
        "book a {travel_class} flight from {travel_from} to {travel_to} on {travel_date}",
        "book {travel_from} to {travel_to} in {travel_class} for {travel_date}",
        "I want to fly from {travel_from} to {travel_to} on {travel_date}, class {travel_class}",
        "get me a flight to {travel_to} from {travel_from}, date {travel_date}, class {travel_class}",
        "on {travel_date}, book a flight from {travel_from} to {travel_to}, class {travel_class}",
        "book me on the {travel_date} flight from {travel_from} to {travel_to}, {travel_class} class",
    ),
    heldout=(
        "book a flight from {travel_from} to {travel_to}, date {travel_date}, class {travel_class}",
        "I want a {travel_class} flight on {travel_date} from {travel_from} to {travel_to}",
    ),
)

TRAVEL = Api(
    name="TravelAPI",
    initial_state=traveller,
    generators=(
        RequestGenerator(
            name="balance",
            draw=_balance_of,
            setups=(TRAVEL_LOGIN,),
            topic=ACCOUNT,
            weight=1.5,
            wordings=Wordings(
                train=(
                    "show the balance of the credit card {card_id}",
                    "how much is left on card {card_id}, look it up",
                    "get the balance of my card {card_id}",
                    "check the credit card balance for {card_id}",
                    "tell me the balance of card {card_id}",
                    "look up how much card {card_id} has",
                ),
                heldout=("look up the balance of the card {card_id}", "tell me how much is left on card {card_id}"),
            ),
        ),
        RequestGenerator(
            name="balance_by_holder",
            draw=_balance_by_holder,
            setups=(TRAVEL_LOGIN,),
            topic=ACCOUNT,
            wordings=Wordings(
                train=(
                    "find the credit card of {holder} in the list of all cards and get its balance",
                    "list all credit cards and tell me the balance of the one of {holder}",
                    "what is the balance of the card of {holder}, look at all credit cards first",
                    "look for the card that {holder} has among all credit cards and show its balance",
                    "get all credit cards, then the balance of the card with holder {holder}",
                    "show the list of all cards and the balance of the card of {holder}",
                ),
                heldout=(
                    "look at all credit cards and tell me the balance of the card with holder {holder}",
                    "get the list of all credit cards, then show the balance of the one that {holder} has",
                ),
            ),
        ),
        RequestGenerator(
            name="set_budget",
            draw=_set_budget,
            setups=(TRAVEL_LOGIN,),
            topic=ACCOUNT,
            weight=1.5,
            wordings=Wordings(
                train=(
                    "set my travel budget to {budget_limit}",
                    "set the budget limit to {budget_limit}",
                    "limit the travel budget to {budget_limit}",
                    "my budget for travel should be {budget_limit}, set it",
                    "put a limit of {budget_limit} on the budget",
                    "make {budget_limit} the limit of my travel budget",
                ),
                heldout=("put the travel budget limit to {budget_limit}", "set a limit of {budget_limit} on my budget"),
            ),
        ),
        RequestGenerator(
            name="budget_by_currency",
            draw=_budget_by_currency,
            setups=(TRAVEL_LOGIN,),
            topic=ACCOUNT,
            wordings=Wordings(
                train=(
                    "exchange {value} {base_currency} to {target_currency} and set my travel budget to that",
                    "set the budget limit to {value} {base_currency}, but compute it in {target_currency} first",
                    "what is {value} {base_currency} in {target_currency}, set that as the limit of my travel budget",
                    "compute how much {value} {base_currency} is in {target_currency} and make that my budget limit",
                    "limit my budget to {value} {base_currency} after an exchange to {target_currency}",
                    "how much {target_currency} is {value} {base_currency}, make that the limit of my travel budget",
                ),
                heldout=(
                    "exchange {value} {base_currency} to {target_currency} and make that my travel budget limit",
                    "set my budget to {value} {base_currency}, but compute how much that is in {target_currency} first",
                ),
            ),
        ),
        RequestGenerator(
            name="invoice",
            draw=_invoice,
            setups=(TRAVEL_LOGIN,),
            topic=ACCOUNT,
            wordings=Wordings(
                train=(
                    "show the invoice of booking {booking_id}",
                    "get the invoice for booking {booking_id}",
                    "retrieve the invoice of my booking {booking_id}",
                    "I need the invoice for the booking with id {booking_id}",
                    "give me the invoice for {booking_id}",
                    "find the booking invoice with the id {booking_id}",
                ),
                heldout=(
                    "retrieve the invoice for the booking with id {booking_id}",
                    "give me the invoice of my booking {booking_id}",
                ),
            ),
        ),
        RequestGenerator(
            name="cancel",
            draw=_cancel,
            setups=(TRAVEL_LOGIN,),
            topic=ACCOUNT,
            wordings=Wordings(
                train=(
                    "cancel booking {booking_id}",
                    "cancel my booking with id {booking_id}",
                    "call off the booking {booking_id}",
                    "I do not need the flight {booking_id}, cancel it",
                    "take back booking {booking_id}",
                    "the booking {booking_id} should be cancelled",
                ),
                heldout=("call off my booking with id {booking_id}", "I do not need booking {booking_id}, cancel it"),
            ),
        ),
        RequestGenerator(
            name="cancel_by_route",
            draw=_cancel_by_route,
            setups=(TRAVEL_LOGIN,),
            topic=ACCOUNT,
            wordings=Wordings(
                train=(
                    "find my flight from {travel_from} to {travel_to} in the booking history and cancel it",
                    "cancel my flight from {travel_from} to {travel_to}, its id is in my booking history",
                    "look up the booking history and cancel the booking from {travel_from} to {travel_to}",
                    "get my booking history, then cancel the flight from {travel_from} to {travel_to}",
                    "I do not fly from {travel_from} to {travel_to}: look for the booking in the history, cancel it",
                    "cancel the booking from {travel_from} to {travel_to} by the id in the history",
                ),
                heldout=(
                    "look up my flight from {travel_from} to {travel_to} in the booking history and cancel it",
                    "get the booking history and cancel my booking from {travel_from} to {travel_to}",
                ),
            ),
        ),
        RequestGenerator(
            name="verify",
            draw=_verify,
            setups=(TRAVEL_LOGIN,),
            topic=ACCOUNT,
            weight=0.7,
            wordings=Wordings(
                train=(
                    "verify the traveler {first_name} {last_name}, born {date_of_birth}, passport {passport_number}",
                    "check my traveler information: {first_name} {last_name}, {date_of_birth}, {passport_number}",
                    "verify {first_name} {last_name} with passport {passport_number}, birth date {date_of_birth}",
                    "the passport of {first_name} {last_name} is {passport_number}, born {date_of_birth}: verify it",
                    "verify my information as a traveler: {first_name} {last_name}, birth {date_of_birth}, passport "
                    "number {passport_number}",
                    "with passport {passport_number} and birth date {date_of_birth}, check {first_name} {last_name}",
                ),
                heldout=(
                    "check the traveler {first_name} {last_name}, birth date {date_of_birth}, passport number "
                    "{passport_number}",
                    "verify my traveler information: {first_name} {last_name}, born {date_of_birth}, passport "
                    "{passport_number}",
                ),
            ),
        ),
        RequestGenerator(name="book", draw=_book, setups=(CARD,), topic=ACCOUNT, weight=2.0, wordings=BOOK),
        RequestGenerator(
            name="book_on_budget",
            draw=_book_on_budget,
            setups=(FLIGHT_BUDGET,),
            topic=ACCOUNT,
            weight=1.5,
            wordings=BOOK,
        ),
        RequestGenerator(
            name="insure",
            draw=_insure,
            setups=(INSURANCE_BUDGET,),
            topic=ACCOUNT,
            weight=1.5,
            wordings=Wordings(
                train=(
                    "buy a {insurance_type} insurance for booking {booking_id} at {insurance_cost}",
                    "insure booking {booking_id}: type {insurance_type}, cost {insurance_cost}",
                    "get {insurance_type} insurance that costs {insurance_cost} for the booking {booking_id}",
                    "purchase {insurance_type} insurance at {insurance_cost} for booking {booking_id}",
                    "my booking {booking_id} needs {insurance_type} insurance, cost {insurance_cost}: purchase it",
                    "pay {insurance_cost} for a {insurance_type} insurance of booking {booking_id}",
                ),
                heldout=(
                    "purchase a {insurance_type} insurance for my booking {booking_id}, cost {insurance_cost}",
                    "insure my booking {booking_id}: {insurance_type} insurance at {insurance_cost}",
                ),
            ),
        ),
        RequestGenerator(
            name="book_and_insure",
            draw=_book_and_insure,
            setups=(FLIGHT_BUDGET,),
            topic=ACCOUNT,
            wordings=Wordings(
                train=(
                    "book a {travel_class} flight from {travel_from} to {travel_to} on {travel_date} and buy a "
                    "{insurance_type} insurance for it at {insurance_cost}",
                    "book {travel_from} to {travel_to} in {travel_class} for {travel_date}, then purchase "
                    "{insurance_type} insurance at {insurance_cost}",
                    "I want to fly from {travel_from} to {travel_to} on {travel_date}, class {travel_class}, with an "
                    "insurance of type {insurance_type}, cost {insurance_cost}",
                    "book the flight from {travel_from} to {travel_to} on {travel_date}, class {travel_class}, and "
                    "insure it, type {insurance_type}, cost {insurance_cost}",
                    "get me a {travel_class} flight to {travel_to} from {travel_from}, date {travel_date}, and insure "
                    "the booking with {insurance_type} at {insurance_cost}",
                    "book and insure the {travel_date} flight from {travel_from} to {travel_to}: class "
                    "{travel_class}, insurance {insurance_type} at cost {insurance_cost}",
                ),
                heldout=(
                    "book a flight from {travel_from} to {travel_to}, date {travel_date}, class {travel_class}, and "
                    "insure it with {insurance_type} at cost {insurance_cost}",
                    "I want a {travel_class} flight on {travel_date} from {travel_from} to {travel_to}, then a "
                    "{insurance_type} insurance for the booking at {insurance_cost}",
                ),
            ),
        ),
        RequestGenerator(
            name="flight_cost",
            draw=_flight_cost,
            weight=0.7,
            wordings=Wordings(
                train=(
                    "what does a {travel_class} flight from {travel_from} to {travel_to} on {travel_date} cost",
                    "get the cost of flying from {travel_from} to {travel_to} on {travel_date}, class {travel_class}",
                    "find the price from {travel_from} to {travel_to} for {travel_date} in {travel_class}",
                    "tell me the flight cost: {travel_from} to {travel_to}, {travel_date}, {travel_class} class",
                    "how much is a flight to {travel_to} from {travel_from} on {travel_date}, class {travel_class}",
                    "check the cost of the {travel_date} flight from {travel_from} to {travel_to} in {travel_class}",
                ),
                heldout=(
                    "tell me what a flight from {travel_from} to {travel_to} on {travel_date} in {travel_class} cost",
                    "find the cost of a {travel_class} class flight from {travel_from} to {travel_to}, {travel_date}",
                ),
            ),
        ),
        RequestGenerator(
            name="cost_by_city",
            draw=_cost_by_city,
            wordings=Wordings(
                train=(
                    "find the airports of {start} and {goal} and what a {travel_class} flight costs on {travel_date}",
                    "what does it cost to fly from the city {start} to {goal} on {travel_date}, find the airports, "
                    "class {travel_class}",
                    "get the nearest airports of {start} and {goal}, and the flight cost for {travel_date}, class "
                    "{travel_class}",
                    "how much is a {travel_class} flight from {start} to {goal} on {travel_date}, look up both "
                    "airports first",
                    "by their airports, tell me the cost of a flight from {start} to {goal}, {travel_date}, class "
                    "{travel_class}",
                    "look up the airports nearest to {start} and {goal} and the price on {travel_date}, class "
                    "{travel_class}",
                ),
                heldout=(
                    "find the airports nearest to {start} and {goal} and tell me the flight cost for {travel_date}, "
                    "class {travel_class}",
                    "how much does it cost to fly from {start} to {goal} on {travel_date}, class {travel_class}, look "
                    "up the airports first",
                ),
            ),
        ),
        RequestGenerator(
            name="airport",
            draw=_airport,
            weight=0.5,
            wordings=Wordings(
                train=(
                    "find the airport nearest to {location}",
                    "which airport is near {location}, look it up",
                    "tell me the nearest airport of {location}",
                    "get the airport for the city {location}",
                    "look up the nearest airport to {location}",
                    "what is the airport of {location}, find it",
                ),
                heldout=("get the nearest airport for {location}", "look up the airport of the city {location}"),
            ),
        ),
        RequestGenerator(
            name="exchange",
            draw=_exchange,
            weight=0.5,
            wordings=Wordings(
                train=(
                    "exchange {value} from {base_currency} to {target_currency}",
                    "how much is {value} {base_currency} in {target_currency}",
                    "compute the exchange of {value} {base_currency} to {target_currency}",
                    "change {value} {base_currency} into {target_currency}",
                    "tell me what {value} {base_currency} is in {target_currency}",
                    "in {target_currency}, compute {value} {base_currency}",
                ),
                heldout=(
                    "compute how much {value} {base_currency} is in {target_currency}",
                    "tell me the exchange from {value} {base_currency} to {target_currency}",
                ),
            ),
        ),
        RequestGenerator(
            name="support",
            draw=_support,
            weight=0.5,
            wordings=Wordings(
                train=(
                    "contact customer support about booking {booking_id} and say {message}",
                    "tell the support {message} for booking {booking_id}",
                    "write {message} to the customer support, booking {booking_id}",
                    "send customer support the message {message} about my booking {booking_id}",
                    "for booking {booking_id}, contact the support with {message}",
                    "I need support with booking {booking_id}, tell them {message}",
                ),
                heldout=(
                    "send the message {message} to the support for booking {booking_id}",
                    "contact customer support with {message} about the booking {booking_id}",
                ),
            ),
        ),
    ),
)
