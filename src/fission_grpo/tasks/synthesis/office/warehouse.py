"""Requests to `Warehouse`: who is on duty, what is in stock and how far an order has come are not said."""

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

_LINES = (2, 1, 2, 1, 1)
"""Of the orders; no item is in two of them."""
_BOXES = ("small", "medium", "large")


def _shelf(rng: Random) -> str:
    return f"{rng.choice('ABCDEF')}-{rng.randint(0, 99):02d}"


def _initial_state(rng: Random) -> dict[str, Any]:
    names = rng.sample(vocabulary.NOUNS, sum(_LINES) + 2)
    numbers = rng.sample(range(100, 1000), len(names))
    items = [
        {"sku": f"{name[:2].upper()}{number}", "name": name, "count": rng.randint(20, 60), "shelf": _shelf(rng)}
        for name, number in zip(names, numbers, strict=True)
    ]
    badge, other = (f"W{number}" for number in rng.sample(range(100, 1000), 2))
    return {"badges": [badge, other], "clerk": badge, "items": items, "orders": _orders(rng, items)}


def _orders(rng: Random, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first, skus = rng.randint(1000, 9000), iter(items)
    return [
        {
            "id": first + 3 * i,
            "lines": {next(skus)["sku"]: rng.randint(2, 9) for _ in range(lines)},
            "stage": "new",
            "hold": "",
            "box": None,
            "carrier": None,
        }
        for i, lines in enumerate(_LINES)
    ]


def _clocked_on(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    slots = {"badge": initial.state["badges"][0]}
    if unmet:
        initial.state["clerk"] = None
    return Draw(slots=slots, calls=(call("clock_on", **slots),) if unmet else ())


def _order(initial: InitialState, number: int) -> dict[str, Any]:
    found: dict[str, Any] = next(order for order in initial.state["orders"] if order["id"] == number)
    return found


def _released(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    number = request.slots["order_id"]
    if unmet:
        _order(initial, number)["hold"] = vocabulary.phrase(initial.rng, 1, 2)
    return Draw(slots={}, calls=(call("release_order", order_id=number),) if unmet else ())


def _stocked(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    sku, wanted = initial.rng.choice(sorted(_order(initial, request.slots["order_id"])["lines"].items()))
    slots = {"sku": sku, "count": initial.rng.randint(10, 40)}
    if unmet:
        (item,) = (item for item in initial.state["items"] if item["sku"] == sku)
        item["count"] = initial.rng.randrange(wanted)
    return Draw(slots=slots, calls=(call("receive_stock", **slots),) if unmet else ())


def _reserved(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    number = request.slots["order_id"]
    if not unmet:
        _order(initial, number)["stage"] = "reserved"
    return Draw(slots={}, calls=(call("reserve_order", order_id=number),) if unmet else ())


def _packed(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    number, box = request.slots["order_id"], initial.rng.choice(_BOXES)
    _order(initial, number).update(stage="reserved" if unmet else "packed", box=None if unmet else box)
    return Draw(slots={"box": box}, calls=(call("pack_order", order_id=number, box=box),) if unmet else ())


CLOCKED_ON = Setup(
    name="clerk",
    fixers=("clock_on",),
    arrange=_clocked_on,
    notes=Wordings(
        train=(
            "my badge is {badge}",
            "clock on with badge {badge} if needed",
            "the clerk has the badge {badge}",
            "if nobody is on duty, use badge {badge}",
            "I work with the badge {badge}",
            "the badge on duty is {badge}",
        ),
        heldout=("if needed, clock on with the badge {badge}", "my badge on duty is {badge}"),
    ),
)

RELEASED = Setup(
    name="hold",
    fixers=("release_order",),
    arrange=_released,
    notes=Wordings(
        train=(
            "release the order if it is on hold",
            "a hold may be released",
            "you may release it",
            "do not let a hold stop you, release it",
            "if the order is on hold, that is over",
            "any hold on the order is over now",
        ),
        heldout=("if it is on hold, release it", "you may release any hold"),
    ),
)

STOCKED = Setup(
    name="stock",
    fixers=("receive_stock",),
    arrange=_stocked,
    notes=Wordings(
        train=(
            "if {sku} runs short, {count} more came in",
            "{count} of {sku} can be received if the stock is short",
            "should {sku} be short, receive {count}",
            "if there is not enough of {sku}, receive {count} more",
            "{count} more of {sku} are at the door if needed",
            "receive {count} of {sku} if needed",
        ),
        heldout=("if {sku} is short, receive {count} more", "if the stock of {sku} is not enough, receive {count}"),
    ),
)

ORDER_RESERVED = Setup(
    name="reserved",
    fixers=("reserve_order",),
    arrange=_reserved,
    notes=Wordings(
        train=(
            "reserve it if that was not done",
            "the order may have to be reserved",
            "if it is not reserved, reserve it",
            "I do not know if it was reserved",
            "reserve the order if needed",
            "it may not be reserved",
        ),
        heldout=("if the order was not reserved, reserve it", "I do not know if the order is reserved"),
    ),
)

PACKED = Setup(
    name="packed",
    fixers=("pack_order",),
    arrange=_packed,
    notes=Wordings(
        train=(
            "it fits a {box} box",
            "pack it in a {box} box if that was not done",
            "if it is not packed, use a {box} box",
            "the box for it is {box}",
            "I do not know if it was packed, {box} is the box",
            "the order needs a {box} box",
        ),
        heldout=("if the order is not packed, pack it in a {box} box", "the box that it needs is {box}"),
    ),
)


def _take_order(initial: InitialState) -> dict[str, Any]:
    return _order(initial, initial.take([order["id"] for order in initial.state["orders"]]))


def _take_item(initial: InitialState) -> dict[str, Any]:
    sku = initial.take([item["sku"] for item in initial.state["items"]])
    (item,) = (item for item in initial.state["items"] if item["sku"] == sku)
    return dict(item)


def _stock(initial: InitialState) -> Draw:
    return one_call("check_stock", sku=_take_item(initial)["sku"])


def _stock_by_name(initial: InitialState) -> Draw:
    item = _take_item(initial)
    calls = (call("find_sku", name=item["name"]), call("check_stock", sku=item["sku"]))
    return Draw(slots={"name": item["name"]}, calls=calls)


def _receive(initial: InitialState) -> Draw:
    return one_call("receive_stock", sku=_take_item(initial)["sku"], count=initial.rng.randint(2, 50))


def _relocate(initial: InitialState) -> Draw:
    item, shelf = _take_item(initial), _shelf(initial.rng)
    calls = (call("find_sku", name=item["name"]), call("move_stock", sku=item["sku"], shelf=shelf))
    return Draw(slots={"name": item["name"], "shelf": shelf}, calls=calls)


def _show(initial: InitialState) -> Draw:
    return one_call("show_order", order_id=_take_order(initial)["id"])


def _add_line(initial: InitialState) -> Draw:
    order = _take_order(initial)
    sku = initial.rng.choice([item["sku"] for item in initial.state["items"] if item["sku"] not in order["lines"]])
    return one_call("add_line", order_id=order["id"], sku=sku, count=initial.rng.randint(1, 9))


def _reserve(initial: InitialState) -> Draw:
    return one_call("reserve_order", order_id=_take_order(initial)["id"])


def _pack(initial: InitialState) -> Draw:
    return one_call("pack_order", order_id=_take_order(initial)["id"], box=initial.rng.choice(_BOXES))


def _ship(initial: InitialState) -> Draw:
    carrier = initial.rng.choice(("road", "rail", "air"))
    return one_call("ship_order", order_id=_take_order(initial)["id"], carrier=carrier)


def _hold(initial: InitialState) -> Draw:
    return one_call("hold_order", order_id=_take_order(initial)["id"], reason=vocabulary.phrase(initial.rng, 1, 2))


WAREHOUSE = Api(
    name="Warehouse",
    initial_state=_initial_state,
    generators=(
        RequestGenerator(
            name="stock",
            draw=_stock,
            setups=(CLOCKED_ON,),
            topic="item",
            wordings=Wordings(
                train=(
                    "check the stock of {sku}",
                    "how many of {sku} are in stock, check it",
                    "tell me the count of {sku}",
                    "where is {sku} and how many are there, check it",
                    "look up the stock of sku {sku}",
                    "give me the count and shelf of {sku}",
                ),
                heldout=("check how many of {sku} there are", "look up the count and the shelf of {sku}"),
            ),
        ),
        RequestGenerator(
            name="stock_by_name",
            draw=_stock_by_name,
            setups=(CLOCKED_ON,),
            topic="item",
            wordings=Wordings(
                train=(
                    "find the sku of the item {name} and check its stock",
                    "how many of the item {name} are in stock, find its sku first",
                    "look up the sku of {name}, then the stock of it",
                    "check the stock of the item called {name}, by its sku",
                    "tell me the sku of {name} and the count",
                    "get the sku for {name} and check how many there are",
                ),
                heldout=(
                    "look up the sku of the item {name} and check the stock",
                    "find the sku for {name} and tell me the count",
                ),
            ),
        ),
        RequestGenerator(
            name="receive",
            draw=_receive,
            setups=(CLOCKED_ON,),
            topic="count",
            wordings=Wordings(
                train=(
                    "take in {count} more of {sku}",
                    "receive {count} of {sku}",
                    "{count} of {sku} came in, receive them",
                    "there are {count} new {sku}, take them in",
                    "add {count} to the stock of {sku}",
                    "a delivery of {count} {sku} is here, receive it",
                ),
                heldout=("a delivery of {count} {sku} came in, take it in", "receive {count} more of {sku}"),
            ),
        ),
        RequestGenerator(
            name="relocate",
            draw=_relocate,
            setups=(CLOCKED_ON,),
            topic="item",
            wordings=Wordings(
                train=(
                    "find the sku of {name} and move it to shelf {shelf}",
                    "the item {name} belongs on shelf {shelf}, find its sku and move it",
                    "look up the sku of the item {name} and put it on {shelf}",
                    "move the item called {name} to {shelf}, by its sku",
                    "get the sku for {name}, then move that to the shelf {shelf}",
                    "shelf {shelf} is the new place of {name}, find its sku first",
                ),
                heldout=(
                    "look up the sku of {name} and move it to the shelf {shelf}",
                    "find the sku for the item {name} and put it on shelf {shelf}",
                ),
            ),
        ),
        RequestGenerator(
            name="show_order",
            draw=_show,
            setups=(CLOCKED_ON,),
            wordings=Wordings(
                train=(
                    "show order {order_id}",
                    "what is in order {order_id}, show it",
                    "tell me about order {order_id}",
                    "how far is the order {order_id}, look it up",
                    "give me the details of order {order_id}",
                    "look up the order with number {order_id}",
                ),
                heldout=("show me the details of order {order_id}", "look up what is in order {order_id}"),
            ),
        ),
        RequestGenerator(
            name="add_line",
            draw=_add_line,
            setups=(CLOCKED_ON, RELEASED),
            wordings=Wordings(
                train=(
                    "add {count} of {sku} to order {order_id}",
                    "order {order_id} also wants {count} of {sku}",
                    "put {count} {sku} on the order {order_id}",
                    "in order {order_id}, add a line of {count} {sku}",
                    "the customer of order {order_id} wants {count} more {sku}, add them",
                    "a new line for order {order_id}: {count} of {sku}",
                ),
                heldout=(
                    "add a line for {count} of {sku} to order {order_id}",
                    "put {count} of {sku} on order {order_id}",
                ),
            ),
        ),
        RequestGenerator(
            name="reserve",
            draw=_reserve,
            setups=(CLOCKED_ON, STOCKED),
            topic="count",
            weight=1.5,
            wordings=Wordings(
                train=(
                    "reserve order {order_id}",
                    "set the items of order {order_id} aside",
                    "reserve all items of the order {order_id}",
                    "order {order_id} is paid, reserve it",
                    "make sure that order {order_id} is reserved",
                    "the order with number {order_id} should be reserved",
                ),
                heldout=("reserve the order with number {order_id}", "set all items of order {order_id} aside"),
            ),
        ),
        RequestGenerator(
            name="pack",
            draw=_pack,
            setups=(CLOCKED_ON, ORDER_RESERVED),
            topic="count",
            weight=1.5,
            wordings=Wordings(
                train=(
                    "pack order {order_id} in a {box} box",
                    "put order {order_id} into a {box} box",
                    "order {order_id} goes into a {box} box, pack it",
                    "use a {box} box to pack the order {order_id}",
                    "pack the order with number {order_id}, box {box}",
                    "in a {box} box, pack order {order_id}",
                ),
                heldout=("pack the order {order_id} into a {box} box", "use a {box} box to pack order {order_id}"),
            ),
        ),
        RequestGenerator(
            name="ship",
            draw=_ship,
            setups=(CLOCKED_ON, RELEASED, PACKED),
            weight=1.5,
            wordings=Wordings(
                train=(
                    "ship order {order_id} by {carrier}",
                    "send order {order_id} out by {carrier}",
                    "order {order_id} travels by {carrier}, ship it",
                    "let the order {order_id} go by {carrier}",
                    "ship the order with number {order_id}, carrier {carrier}",
                    "by {carrier}, send out order {order_id}",
                ),
                heldout=(
                    "send the order with number {order_id} out by {carrier}",
                    "ship order {order_id}, it travels by {carrier}",
                ),
            ),
        ),
        RequestGenerator(
            name="hold",
            draw=_hold,
            setups=(CLOCKED_ON,),
            wordings=Wordings(
                train=(
                    "put order {order_id} on hold because of {reason}",
                    "hold order {order_id}, the reason is {reason}",
                    "order {order_id} has to wait, reason {reason}",
                    "stop the order {order_id} for now: {reason}",
                    "because of {reason}, hold the order {order_id}",
                    "let order {order_id} wait for the reason {reason}",
                ),
                heldout=(
                    "hold the order {order_id} because of {reason}",
                    "put order {order_id} on hold for the reason {reason}",
                ),
            ),
        ),
    ),
)
