"""The world of `TravelAPI` requests, and what it may lack: a token that holds, a known card, a budget that allows it.

Tokens, card ids and booking ids come from the random generator of the official class, whose seed is part of the world:
what a repair will answer is known before it is made, and the calls behind it use it. No request that draws an id needs
a login, so a login too many never shifts the ids.
"""

from __future__ import annotations

from itertools import combinations
from random import Random
from typing import Any

from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.tasks.synthesis.families.family import Draw, InitialState, Setup, Wordings, call

AIRPORTS = {
    "San Francisco": "SFO",
    "Los Angeles": "LAX",
    "New York": "JFK",
    "Chicago": "ORD",
    "Boston": "BOS",
    "Rivermist": "RMS",
    "Stonebrook": "SBK",
    "Maplecrest": "MPC",
    "Silverpine": "SVP",
    "Shadowridge": "SHD",
    "Sunset Valley": "SSV",
    "Oakendale": "OKD",
    "Willowbend": "WLB",
    "Crescent Hollow": "CRH",
    "Autumnville": "ATV",
    "Pinehaven": "PHV",
    "Greenfield": "GFD",
}
"""City -> airport. The official class flies from each of them to every one further down."""

ROUTES = tuple(combinations(AIRPORTS.values(), 2))

TOKEN, BOOKING, TRANSACTION, CARD_ID = 6, 7, 8, 12
"""Digits of what the official class draws."""


def digits(rng: Random, count: int) -> str:
    """A number of so many digits, drawn as the official class draws its ids."""
    return str(rng.randint(10 ** (count - 1), 10**count - 1))


def next_id(initial: InitialState, count: int) -> str:
    """The first id that the world will draw, if it is one of so many digits."""
    return digits(Random(initial.state["random_seed"]), count)


def date(rng: Random, first: int, last: int) -> str:
    """A day in one of the years from `first` to `last`."""
    return f"{rng.randint(first, last)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def flight(rng: Random, route: tuple[str, str]) -> dict[str, str]:
    """A flight that the official class offers, as its arguments name it."""
    return {
        "travel_from": route[0],
        "travel_to": route[1],
        "travel_date": date(rng, 2031, 2036),
        "travel_class": rng.choice(("economy", "business", "first")),
    }


def traveller(rng: Random) -> dict[str, Any]:
    """The state of somebody who is logged in, with two cards and three bookings."""
    holders = [name.title() for name in rng.sample(vocabulary.PEOPLE, 2)]
    cards = {digits(rng, CARD_ID): {**_card(rng, digits(rng, 16), h), "balance": _balance(rng)} for h in holders}
    seed = rng.randint(1, 10**6)
    return {
        "random_seed": seed,
        "credit_card_list": cards,
        "booking_record": {
            digits(rng, BOOKING): _booking(rng, route, rng.choice(sorted(cards))) for route in rng.sample(ROUTES, 3)
        },
        "access_token": digits(Random(seed), TOKEN),
        "token_type": "Bearer",
        "token_expires_in": 2,
        "token_scope": rng.choice(("read_write", "read", "write")),
        "user_first_name": holders[0],
        "user_last_name": rng.choice(vocabulary.NOUNS).title(),
        "budget_limit": None,
    }


def _card(rng: Random, number: str, holder: str) -> dict[str, Any]:
    return {
        "card_number": number,
        "expiration_date": f"{rng.randint(1, 12):02d}/{rng.randint(2031, 2039)}",
        "cardholder_name": holder,
        "card_verification_number": rng.randint(100, 999),
    }


def _balance(rng: Random) -> float:
    """Enough for the dearest flight."""
    return vocabulary.price(rng, 11_000, 60_000)


def _booking(rng: Random, route: tuple[str, str], card_id: str) -> dict[str, Any]:
    cost, transaction = vocabulary.price(rng, 90, 4000), digits(rng, TRANSACTION)
    return {**flight(rng, route), "card_id": card_id, "travel_cost": cost, "transaction_id": transaction}


def _login(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    """The token of the request's calls is the one that a login gives; unmet, the user still has an older one."""
    rng, state = initial.rng, initial.state
    login = {
        "client_id": vocabulary.user_name(rng),
        "client_secret": vocabulary.password(rng),
        "refresh_token": vocabulary.password(rng),
        "grant_type": state["token_scope"],
        "user_first_name": state["user_first_name"],
        "user_last_name": state["user_last_name"],
    }
    if not unmet:
        return Draw(slots={**login, "access_token": state["access_token"]}, calls=())
    old = digits(rng, TOKEN)
    state |= dict.fromkeys(("token_type", "token_scope", "user_first_name", "user_last_name"))
    state["access_token"], state["token_expires_in"] = rng.choice(((old, 0), (None, None)))  # expired, or never given
    return Draw(slots={**login, "access_token": old}, calls=(call("authenticate_travel", **login),))


def _known_card(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    """The card of the request's calls is the one that registering gives; unmet, only its printed number is known."""
    token, card_id = (request.calls[0].arguments[key] for key in ("access_token", "card_id"))
    number = digits(initial.rng, CARD_ID) if unmet else card_id
    card = _card(initial.rng, number, initial.state["user_first_name"])
    if not unmet:
        initial.state["credit_card_list"][number] = {**card, "balance": _balance(initial.rng)}
    register = call("register_credit_card", access_token=token, **card)
    return Draw(slots={**card, "access_token": token}, calls=(register,) if unmet else ())


def _flight_budget(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    """No flight is booked on a card that holds less than the budget limit."""
    balance = initial.state["credit_card_list"][request.calls[0].arguments["card_id"]]["balance"]
    margin = vocabulary.price(initial.rng, 2, 900)
    return _limited(initial, request, balance + margin if unmet else balance - margin, unmet)


def _insurance_budget(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    """No insurance is bought that costs more than the budget limit."""
    cost = request.calls[0].arguments["insurance_cost"]
    margin = vocabulary.price(initial.rng, 2, 30)
    return _limited(initial, request, cost - margin if unmet else cost + margin, unmet)


def _limited(initial: InitialState, request: Draw, now: float, unmet: bool) -> Draw:
    initial.state["budget_limit"] = now
    token, card_id = (request.calls[0].arguments[key] for key in ("access_token", "card_id"))
    limit = vocabulary.price(initial.rng, 500, 3000)  # above every insurance, below every balance
    change = call("set_budget_limit", access_token=token, budget_limit=limit)
    slots = {"access_token": token, "card_id": card_id, "budget_limit": limit}
    return Draw(slots=slots, calls=(change,) if unmet else ())


TRAVEL_LOGIN = Setup(
    name="travel_login",
    fixers=("authenticate_travel",),
    arrange=_login,
    notes=Wordings(
        train=(
            "my travel token is {access_token}; if it does not work, authenticate as {user_first_name} "
            "{user_last_name} with client {client_id}, secret {client_secret}, refresh token {refresh_token} and "
            "grant type {grant_type}",
            "use the access token {access_token}, or if it fails a new one: client {client_id}, secret "
            "{client_secret}, refresh token {refresh_token}, grant type {grant_type}, name {user_first_name} "
            "{user_last_name}",
            "the token {access_token} may be too old: then authenticate with client {client_id}, secret "
            "{client_secret}, refresh token {refresh_token}, grant {grant_type}, for {user_first_name} "
            "{user_last_name}",
            "access token {access_token}; if needed, get a new one for {user_first_name} {user_last_name}, grant type "
            "{grant_type}, client {client_id}, secret {client_secret}, refresh token {refresh_token}",
            "I am {user_first_name} {user_last_name} with token {access_token}; client {client_id}, secret "
            "{client_secret}, refresh token {refresh_token} and grant type {grant_type} give a new token",
            "client {client_id}, secret {client_secret}, refresh token {refresh_token}, grant type {grant_type} and "
            "the name {user_first_name} {user_last_name} are for a new login if the token {access_token} is too old",
        ),
        heldout=(
            "the access token is {access_token}; if it is too old, authenticate as {user_first_name} "
            "{user_last_name}, client {client_id}, secret {client_secret}, refresh token {refresh_token}, grant type "
            "{grant_type}",
            "use my token {access_token}, or if needed authenticate with client {client_id}, secret {client_secret}, "
            "refresh token {refresh_token}, grant {grant_type} and the name {user_first_name} {user_last_name}",
        ),
    ),
)

CARD = Setup(
    name="travel_card",
    fixers=("register_credit_card",),
    arrange=_known_card,
    notes=Wordings(
        train=(
            "pay with card {card_number}, token {access_token}; if it is not registered, register it for "
            "{cardholder_name} with expiration {expiration_date} and verification number {card_verification_number}",
            "the token is {access_token} and the card {card_number} of {cardholder_name}, expiration "
            "{expiration_date}, verification number {card_verification_number}: register it if needed",
            "use the credit card {card_number} and the access token {access_token}; a new card needs "
            "{cardholder_name}, {expiration_date} and the verification number {card_verification_number} to register",
            "take card {card_number} with token {access_token} and register it first if it is not known: holder "
            "{cardholder_name}, expiration date {expiration_date}, verification {card_verification_number}",
            "with token {access_token}, my card {card_number} may be new: then register it with holder "
            "{cardholder_name}, expiration date {expiration_date}, number {card_verification_number}",
            "access token {access_token}; if the card {card_number} is not known, register it: {cardholder_name}, "
            "{expiration_date}, verification number {card_verification_number}",
        ),
        heldout=(
            "take the credit card {card_number} and token {access_token}; if the card is new, register it with holder "
            "{cardholder_name}, expiration {expiration_date} and verification number {card_verification_number}",
            "pay with my card {card_number}, access token {access_token}, and if it is not known register it first "
            "for {cardholder_name}, expiration date {expiration_date}, verification {card_verification_number}",
        ),
    ),
)

_BUDGET_NOTES = Wordings(
    train=(
        "pay with card {card_id} and token {access_token}; only if the budget limit is in the way, set it to "
        "{budget_limit} first",
        "token {access_token}, card {card_id}; if the budget limit does not allow it, change the limit to "
        "{budget_limit}",
        "use the card {card_id} with my access token {access_token}; when the limit of the budget stops it, set the "
        "limit to {budget_limit} first",
        "my card is {card_id} and the token {access_token}; should the budget limit be in the way, make it "
        "{budget_limit}",
        "set the budget limit to {budget_limit}, but only if it stops you; the card is {card_id}, the access token "
        "{access_token}",
        "the budget limit may be changed to {budget_limit} if it is in the way; pay with {card_id}, token "
        "{access_token}",
    ),
    heldout=(
        "use card {card_id} and the access token {access_token}; if the budget limit stops you, set it to "
        "{budget_limit} first",
        "my token is {access_token}, pay with the card {card_id}; change the budget limit to {budget_limit}, but only "
        "if it is in the way",
    ),
)

FLIGHT_BUDGET = Setup(name="budget", fixers=("set_budget_limit",), arrange=_flight_budget, notes=_BUDGET_NOTES)
INSURANCE_BUDGET = Setup(name="budget", fixers=("set_budget_limit",), arrange=_insurance_budget, notes=_BUDGET_NOTES)
