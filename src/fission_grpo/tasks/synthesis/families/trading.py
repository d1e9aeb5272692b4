"""Requests to `TradingBot`: orders, money, and the watchlist, most of them behind a login."""

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

COMPANIES = {
    "Zeta Corp": "ZETA",
    "Alpha Tech": "ALPH",
    "Omega Industries": "OMEG",
    "Quasar Ltd.": "QUAS",
    "Neptune Systems": "NEPT",
    "Synex Solutions": "SYNX",
}
"""The companies that the official class can look up by name and that are no real ones."""


def _stock(rng: Random) -> dict[str, float]:
    price = vocabulary.price(rng, 8, 160)
    return {
        "price": price,
        "percent_change": rng.randint(-40, 40) / 100,
        "volume": rng.randint(300, 4000) / 1000,
        "MA(5)": price + rng.randint(-8, 8) / 4,
        "MA(20)": price + rng.randint(-16, 16) / 4,
    }


def _order(rng: Random, number: int, symbol: str, status: str) -> dict[str, Any]:
    return {
        "id": number,
        "order_type": rng.choice(("Buy", "Sell")),
        "symbol": symbol,
        "price": vocabulary.price(rng, 8, 160),
        "amount": rng.randint(2, 90),
        "status": status,
    }


def _initial_state(rng: Random) -> dict[str, Any]:
    symbols = rng.sample(vocabulary.TICKERS, 4) + rng.sample(sorted(COMPANIES.values()), 2)
    first = rng.randint(2000, 90000)
    numbers = sorted(rng.sample(range(first, first + 400), 3))
    statuses = rng.sample(("Open", "Pending", "Completed"), 3)
    return {
        "orders": {str(n): _order(rng, n, rng.choice(symbols), s) for n, s in zip(numbers, statuses, strict=True)},
        "account_info": {
            "account_id": rng.randint(10000, 99999),
            "balance": vocabulary.price(rng, 9000, 30000),
            "binding_card": rng.randint(10**15, 10**16 - 1),
        },
        "authenticated": True,
        "market_status": "Open",
        "order_counter": first + 400,
        "stocks": {symbol: _stock(rng) for symbol in symbols},
        "watch_list": rng.sample(symbols, 2),
        "transaction_history": [],
        "random_seed": rng.randint(1, 10**6),
    }


def _login(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    initial.state["authenticated"] = not unmet
    slots = {"username": vocabulary.user_name(initial.rng), "password": vocabulary.password(initial.rng)}
    return Draw(slots=slots, calls=(call("trading_login", **slots),) if unmet else ())


def _funds(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    order = request.calls[-1].arguments
    cost = order["price"] * order["amount"]
    topup = initial.rng.randint(4, 40) * 50.0
    margin = vocabulary.price(initial.rng, 2, 45)
    initial.state["account_info"]["balance"] = cost - margin if unmet else cost + margin
    slots = {"topup": topup}
    return Draw(slots=slots, calls=(call("fund_account", amount=topup),) if unmet else ())


TRADING_LOGIN = Setup(
    name="login",
    fixers=("trading_login",),
    arrange=_login,
    notes=Wordings(
        train=(
            "my trading login is {username} with password {password}",
            "the trading account is {username}, password {password}",
            "log in as {username} with password {password} if needed",
            "trading username {username}, password {password}",
            "if a login is needed, use {username} and {password}",
            "the username is {username} and the password is {password}",
        ),
        heldout=(
            "the trading login is {username}, password {password}",
            "if needed, log in with username {username} and password {password}",
        ),
    ),
)

FUNDS = Setup(
    name="funds",
    fixers=("fund_account",),
    arrange=_funds,
    notes=Wordings(
        train=(
            "only if the funds are too low, fund the account with {topup} first",
            "if there are not enough funds, add {topup} to the account",
            "when the balance is too low, deposit {topup} first",
            "fund {topup} first, but only if the balance is not enough",
            "should the funds be insufficient, fund the account with {topup}",
            "deposit {topup} if the balance is insufficient",
        ),
        heldout=(
            "if the funds are insufficient, deposit {topup} first",
            "fund the account with {topup} if the balance is too low",
        ),
    ),
)


def _place_order(initial: InitialState) -> Draw:
    symbol = initial.take(sorted(initial.state["stocks"]))
    return one_call(
        "place_order",
        order_type=initial.rng.choice(("Buy", "Sell")),
        symbol=symbol,
        price=vocabulary.price(initial.rng, 8, 90),
        amount=initial.rng.randint(2, 60),
    )


def _buy(initial: InitialState) -> Draw:
    symbol = initial.take(sorted(initial.state["stocks"]))
    price, amount = vocabulary.price(initial.rng, 20, 90), initial.rng.randint(10, 60)
    return one_call("place_order", order_type="Buy", symbol=symbol, price=price, amount=amount)


def _buy_by_name(initial: InitialState) -> Draw:
    names = [name for name, symbol in COMPANIES.items() if symbol in initial.state["stocks"]]
    company = initial.take(names)
    price, amount = vocabulary.price(initial.rng, 8, 90), initial.rng.randint(2, 60)
    order = call("place_order", order_type="Buy", symbol=COMPANIES[company], price=price, amount=amount)
    slots = {"company": company, "order_type": "Buy", "price": price, "amount": amount}
    return Draw(slots=slots, calls=(call("get_symbol_by_name", name=company), order))


def _watch_by_name(initial: InitialState) -> Draw:
    watched = initial.state["watch_list"]
    names = [name for name, symbol in COMPANIES.items() if symbol in initial.state["stocks"] and symbol not in watched]
    company = initial.take(names)
    calls = (call("get_symbol_by_name", name=company), call("add_to_watchlist", stock=COMPANIES[company]))
    return Draw(slots={"company": company}, calls=calls)


def _symbol(initial: InitialState) -> Draw:
    return one_call("get_symbol_by_name", name=initial.take(sorted(COMPANIES)))


def _fund(initial: InitialState) -> Draw:
    return one_call("fund_account", amount=vocabulary.price(initial.rng, 20, 4000))


def _withdraw(initial: InitialState) -> Draw:
    return one_call("withdraw_funds", amount=vocabulary.price(initial.rng, 20, 4000))


def _account(initial: InitialState) -> Draw:
    return one_call("get_account_info")


def _unwatch(initial: InitialState) -> Draw:
    return one_call("remove_stock_from_watchlist", symbol=initial.take(initial.state["watch_list"]))


def _watchlist(initial: InitialState) -> Draw:
    return one_call("get_watchlist")


def _watch(initial: InitialState) -> Draw:
    unwatched = [s for s in sorted(initial.state["stocks"]) if s not in initial.state["watch_list"]]
    return one_call("add_to_watchlist", stock=initial.take(unwatched))


def _cancel(initial: InitialState) -> Draw:
    pending = [n for n, order in initial.state["orders"].items() if order["status"] != "Completed"]
    return one_call("cancel_order", order_id=int(initial.take(pending)))


def _order_details(initial: InitialState) -> Draw:
    return one_call("get_order_details", order_id=int(initial.take(sorted(initial.state["orders"]))))


def _stock_info(initial: InitialState) -> Draw:
    return one_call("get_stock_info", symbol=initial.take(sorted(initial.state["stocks"])))


def _history(initial: InitialState) -> Draw:
    return one_call("get_order_history")


TRADING = Api(
    name="TradingBot",
    initial_state=_initial_state,
    generators=(
        RequestGenerator(
            name="place_order",
            draw=_place_order,
            setups=(TRADING_LOGIN,),
            weight=1.5,
            wordings=Wordings(
                train=(
                    "place a {order_type} order for {amount} shares of {symbol} at {price}",
                    "place an order: {order_type} {amount} shares of {symbol} at a price of {price}",
                    "make a {order_type} order of {amount} {symbol} shares at {price} each",
                    "order {amount} shares of {symbol}, type {order_type}, price {price}",
                    "put in a {order_type} order on {symbol} for {amount} shares at {price}",
                    "at the price {price}, place a {order_type} order for {amount} of {symbol}",
                ),
                heldout=(
                    "make a {order_type} order on {symbol} for {amount} shares at the price {price}",
                    "place an order of type {order_type} for {amount} {symbol} shares at {price} each",
                ),
            ),
        ),
        RequestGenerator(
            name="buy_with_funds",
            draw=_buy,
            setups=(TRADING_LOGIN, FUNDS),
            topic="money",
            wordings=Wordings(
                train=(
                    "place a {order_type} order for {amount} shares of {symbol} at {price}",
                    "get me {amount} shares of {symbol} with a {order_type} order at {price}",
                    "make a {order_type} order of {amount} {symbol} shares at {price} each",
                    "order {amount} shares of {symbol}, type {order_type}, price {price}",
                    "put in a {order_type} order on {symbol} for {amount} shares at {price}",
                    "at the price {price}, place a {order_type} order for {amount} of {symbol}",
                ),
                heldout=(
                    "place a {order_type} order on {symbol} for {amount} shares at the price {price}",
                    "get me {amount} of {symbol} at {price} each with a {order_type} order",
                ),
            ),
        ),
        RequestGenerator(
            name="buy_by_name",
            draw=_buy_by_name,
            setups=(TRADING_LOGIN,),
            wordings=Wordings(
                train=(
                    "find the symbol of {company} and place a {order_type} order for {amount} shares at {price}",
                    "look up the symbol of {company} and order {amount} shares at {price}, type {order_type}",
                    "place a {order_type} order for {amount} shares of the company {company} at {price}",
                    "get the symbol for {company} and put in a {order_type} order of {amount} at {price}",
                    "for the company {company}, find its symbol and {order_type} {amount} shares at {price}",
                    "{order_type} {amount} shares of {company} at {price}, but look up its symbol first",
                ),
                heldout=(
                    "get the symbol of {company} and place a {order_type} order for {amount} shares at {price}",
                    "look up the symbol for {company} and {order_type} {amount} shares at {price}",
                ),
            ),
        ),
        RequestGenerator(
            name="watch_by_name",
            draw=_watch_by_name,
            topic="watch",
            wordings=Wordings(
                train=(
                    "find the symbol of {company} and add it to my watchlist",
                    "look up the symbol of {company} and put it on the watchlist",
                    "add the company {company} to my watchlist by its symbol",
                    "get the symbol for {company} and watch it",
                    "for the company {company}, find the symbol and add it to the watchlist",
                    "put {company} on my watchlist, but look up its symbol first",
                ),
                heldout=(
                    "get the symbol of {company} and add it to the watchlist",
                    "look up the symbol for the company {company} and put it on my watchlist",
                ),
            ),
        ),
        RequestGenerator(
            name="symbol",
            draw=_symbol,
            topic="symbol",
            weight=0.5,
            wordings=Wordings(
                train=(
                    "find the symbol of {name}",
                    "look up the stock symbol of {name}",
                    "tell me which symbol {name} has",
                    "get the symbol for the company {name}",
                    "what is the symbol of {name}, tell me",
                    "give me the stock symbol for {name}",
                ),
                heldout=("look up the symbol for {name}", "tell me the stock symbol of the company {name}"),
            ),
        ),
        RequestGenerator(
            name="fund",
            draw=_fund,
            setups=(TRADING_LOGIN,),
            topic="money",
            wordings=Wordings(
                train=(
                    "fund my account with {amount}",
                    "deposit {amount} into my account",
                    "add {amount} to my trading balance",
                    "put {amount} into the trading account",
                    "top up my balance by {amount}",
                    "make a deposit of {amount}",
                ),
                heldout=("deposit {amount} into the trading account", "fund my trading balance with {amount}"),
            ),
        ),
        RequestGenerator(
            name="withdraw",
            draw=_withdraw,
            setups=(TRADING_LOGIN,),
            topic="money",
            wordings=Wordings(
                train=(
                    "withdraw {amount} from my account",
                    "take {amount} out of my account",
                    "withdraw {amount} of my funds",
                    "make a withdrawal of {amount}",
                    "take {amount} from my trading funds",
                    "from the balance, withdraw {amount}",
                ),
                heldout=("withdraw {amount} from my trading account", "take {amount} out of my balance"),
            ),
        ),
        RequestGenerator(
            name="account",
            draw=_account,
            setups=(TRADING_LOGIN,),
            topic="money",
            wordings=Wordings(
                train=(
                    "show my account info",
                    "tell me about my trading account",
                    "get the account information",
                    "show me the information of my account",
                    "what does my account look like, show me",
                    "give me my trading account info",
                ),
                heldout=("get my trading account information", "show me the info of the account"),
            ),
        ),
        RequestGenerator(
            name="unwatch",
            draw=_unwatch,
            setups=(TRADING_LOGIN,),
            topic="watch",
            wordings=Wordings(
                train=(
                    "remove {symbol} from my watchlist",
                    "take {symbol} off the watchlist",
                    "drop {symbol} from my watchlist",
                    "stop watching {symbol}",
                    "delete the stock {symbol} from my watchlist",
                    "my watchlist should not have {symbol}, remove it",
                ),
                heldout=("delete {symbol} from the watchlist", "take the stock {symbol} off my watchlist"),
            ),
        ),
        RequestGenerator(
            name="watchlist",
            draw=_watchlist,
            setups=(TRADING_LOGIN,),
            topic="watch",
            wordings=Wordings(
                train=(
                    "show my watchlist",
                    "list the stocks on my watchlist",
                    "tell me what is on my watchlist",
                    "get the watchlist",
                    "give me my watchlist",
                    "which stocks do I watch, show the list",
                ),
                heldout=("get the stocks on my watchlist", "tell me which stocks I watch"),
            ),
        ),
        RequestGenerator(
            name="watch",
            draw=_watch,
            topic="watch",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "add {stock} to my watchlist",
                    "put {stock} on the watchlist",
                    "watch the stock {stock}",
                    "start watching {stock}",
                    "my watchlist should have {stock}, add it",
                    "add the stock {stock} to the list I watch",
                ),
                heldout=("put the stock {stock} on my watchlist", "start to watch {stock}, add it to the list"),
            ),
        ),
        RequestGenerator(
            name="cancel",
            draw=_cancel,
            topic="order",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "cancel order {order_id}",
                    "cancel the order with id {order_id}",
                    "call off my order {order_id}",
                    "stop order {order_id}",
                    "I do not want order {order_id}, cancel it",
                    "take back the order number {order_id}",
                ),
                heldout=("cancel my order with id {order_id}", "call off the order number {order_id}"),
            ),
        ),
        RequestGenerator(
            name="order_details",
            draw=_order_details,
            topic="order",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "show the details of order {order_id}",
                    "get the details for order {order_id}",
                    "tell me about order {order_id}",
                    "give me the order details of number {order_id}",
                    "look up order {order_id}",
                    "show me order {order_id} in detail",
                ),
                heldout=("look up the details of order {order_id}", "tell me the details for order number {order_id}"),
            ),
        ),
        RequestGenerator(
            name="stock_info",
            draw=_stock_info,
            weight=0.7,
            wordings=Wordings(
                train=(
                    "get stock info for {symbol}",
                    "show the price of {symbol}",
                    "tell me about the stock {symbol}",
                    "look up the stock {symbol}",
                    "give me the stock info of {symbol}",
                    "what is the price of {symbol}, look it up",
                ),
                heldout=("look up the price of the stock {symbol}", "show me the stock info for {symbol}"),
            ),
        ),
        RequestGenerator(
            name="history",
            draw=_history,
            setups=(TRADING_LOGIN,),
            topic="order",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "show my order history",
                    "list all my orders",
                    "get the history of my orders",
                    "tell me which orders I have",
                    "give me the order history",
                    "show all orders in my history",
                ),
                heldout=("get my order history", "list all orders I have"),
            ),
        ),
    ),
)
