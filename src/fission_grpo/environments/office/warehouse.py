"""A warehouse: a clerk who is clocked on, items on shelves, and orders that are reserved, packed and shipped."""

from __future__ import annotations

import re
from typing import Any, Literal

from fission_grpo.errors import ToolError

_SHELF = re.compile(r"[A-F]-\d\d")


class Warehouse:
    """An order is new, then reserved, packed and shipped, one after the other; while it is on hold, nothing happens."""

    def reset(
        self, badges: list[str], clerk: str | None, items: list[dict[str, Any]], orders: list[dict[str, Any]]
    ) -> None:
        """Begin.

        Args:
            badges: of all clerks.
            clerk: badge of the one who is clocked on, if anybody is.
            items: each with `sku`, `name`, `count` and `shelf`.
            orders: each with `id`, `lines` (count by sku), `stage`, `hold` (a reason, or empty), `box` and `carrier`.
        """
        self.badges, self.clerk, self.items, self.orders = badges, clerk, items, orders

    def clock_on(self, badge: str) -> str:
        """Begin the shift of a clerk.

        Args:
            badge: badge of the clerk
        """
        if badge not in self.badges:
            raise ToolError(f"unknown badge {badge!r}")
        if self.clerk == badge:
            raise ToolError(f"{badge} is clocked on already")
        self.clerk = badge
        return f"{badge} is clocked on"

    def find_sku(self, name: str) -> str:
        """Find the sku of an item.

        Args:
            name: name of the item
        """
        self._require_clerk()
        for item in self.items:
            if item["name"] == name:
                return str(item["sku"])
        raise ToolError(f"item not found: {name!r}")

    def check_stock(self, sku: str) -> dict[str, Any]:
        """Tell the count and the shelf of an item.

        Args:
            sku: sku of the item
        """
        item = self._item(sku)
        return {"count": item["count"], "shelf": item["shelf"]}

    def receive_stock(self, sku: str, count: int) -> str:
        """Take in more of an item.

        Args:
            sku: sku of the item
            count: how many came in
        """
        item = self._item(sku)
        item["count"] += _positive(count)
        return f"{item['count']} of {sku} in stock"

    def move_stock(self, sku: str, shelf: str) -> str:
        """Move an item to another shelf.

        Args:
            sku: sku of the item
            shelf: a letter from A to F and two digits, as in B-07
        """
        item = self._item(sku)
        if not _SHELF.fullmatch(shelf):
            raise ToolError(f"invalid shelf {shelf!r}: shelves are A-00 to F-99")
        if item["shelf"] == shelf:
            raise ToolError(f"{sku} is on {shelf} already")
        item["shelf"] = shelf
        return f"{sku} is on {shelf} now"

    def show_order(self, order_id: int) -> dict[str, Any]:
        """Show an order.

        Args:
            order_id: number of the order
        """
        return self._order(order_id)

    def add_line(self, order_id: int, sku: str, count: int) -> str:
        """Add an item to a new order.

        Args:
            order_id: number of the order
            sku: sku of the item
            count: how many
        """
        order = self._free(order_id)
        if order["stage"] != "new":
            raise ToolError(f"order {order_id} is {order['stage']} already; nothing can be added")
        if self._item(sku)["sku"] in order["lines"]:
            raise ToolError(f"order {order_id} has {sku} already")
        order["lines"][sku] = _positive(count)
        return f"order {order_id} has {len(order['lines'])} lines"

    def reserve_order(self, order_id: int) -> str:
        """Reserve the items of an order.

        Args:
            order_id: number of the order
        """
        order = self._next(order_id, after="new", to="reserved")
        for sku, count in order["lines"].items():
            if self._item(sku)["count"] < count:
                raise ToolError(f"only {self._item(sku)['count']} of {sku} left, {count} wanted; receive more first")
        for sku, count in order["lines"].items():
            self._item(sku)["count"] -= count
        order["stage"] = "reserved"
        return f"order {order_id} is reserved"

    def pack_order(self, order_id: int, box: Literal["small", "medium", "large"]) -> str:
        """Pack a reserved order.

        Args:
            order_id: number of the order
            box: size of the box
        """
        order = self._next(order_id, after="reserved", to="packed")
        order.update(stage="packed", box=box)
        return f"order {order_id} is packed in a {box} box"

    def ship_order(self, order_id: int, carrier: Literal["road", "rail", "air"]) -> str:
        """Ship a packed order.

        Args:
            order_id: number of the order
            carrier: how it travels
        """
        order = self._next(order_id, after="packed", to="shipped")
        order.update(stage="shipped", carrier=carrier)
        return f"order {order_id} goes by {carrier}"

    def hold_order(self, order_id: int, reason: str) -> str:
        """Put an order on hold.

        Args:
            order_id: number of the order
            reason: why it has to wait
        """
        order = self._order(order_id)
        if order["hold"]:
            raise ToolError(f"order {order_id} is on hold already: {order['hold']}")
        order["hold"] = reason
        return f"order {order_id} is on hold"

    def release_order(self, order_id: int) -> str:
        """Release an order that is on hold.

        Args:
            order_id: number of the order
        """
        order = self._order(order_id)
        if not order["hold"]:
            raise ToolError(f"order {order_id} is free already")
        order["hold"] = ""
        return f"order {order_id} is released"

    def _require_clerk(self) -> None:
        if self.clerk is None:
            raise ToolError("no clerk is on duty; clock on first")

    def _item(self, sku: str) -> dict[str, Any]:
        self._require_clerk()
        for item in self.items:
            if item["sku"] == sku:
                return item
        raise ToolError(f"no such sku: {sku!r}")

    def _order(self, order_id: int) -> dict[str, Any]:
        self._require_clerk()
        for order in self.orders:
            if order["id"] == order_id:
                return order
        raise ToolError(f"there is no order {order_id}")

    def _free(self, order_id: int) -> dict[str, Any]:
        order = self._order(order_id)
        if order["hold"]:
            raise ToolError(f"order {order_id} is on hold ({order['hold']}); release it first")
        return order

    def _next(self, order_id: int, *, after: str, to: str) -> dict[str, Any]:
        order = self._free(order_id)
        if order["stage"] == after:
            return order
        if _STAGES.index(order["stage"]) < _STAGES.index(after):
            raise ToolError(f"order {order_id} is {order['stage']}; it has to be {after} first")
        raise ToolError(f"order {order_id} is {order['stage']} already; it cannot be {to}")


_STAGES = ("new", "reserved", "packed", "shipped")


def _positive(count: int) -> int:
    if count < 1:
        raise ToolError(f"invalid count {count}: at least 1")
    return int(count)
