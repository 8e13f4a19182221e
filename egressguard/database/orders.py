"""Standing orders: what an operator has ordered for a time, over restarts and reboots."""

from collections.abc import Iterable

from egressguard.core.hosts import Host
from egressguard.core.orders import Order
from egressguard.core.verdict import Verdict
from egressguard.database.verdicts import Verdicts


class Orders(Verdicts):
    """The orders, with the time that each has left."""

    def give_order(self, order: Order, now_s: float) -> None:
        """Adds a standing order, and says so in history."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO standing_order (kind, host, destination, owner, reason, remaining_s, at_s, boot)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (order.kind, order.host, order.destination, order.owner, order.reason, order.remaining_s,
                 now_s, self._boot))
            self._note(db, now_s, order.kind, order.host, order.describe())

    def orders(self, now_s: float) -> list[Order]:
        """The standing orders with the time that each has left; of one given before this boot, what it had
        left when it was last kept.
        """
        return [order for order in self._written_orders(now_s) if order.remaining_s > 0]

    def _written_orders(self, now_s: float) -> list[Order]:
        """The same with those whose time is over, until they are dropped."""
        with self._translated():
            rows = self._db.execute(
                "SELECT kind, owner, reason, remaining_s, host, destination, number, at_s, boot"
                " FROM standing_order").fetchall()
        return [Order(kind, owner, reason, left_s - (max(0.0, now_s - at_s) if boot == self._boot else 0.0),
                      host, destination, number)
                for kind, owner, reason, left_s, host, destination, number, at_s, boot in rows]

    def keep_orders(self, now_s: float) -> None:
        """Writes down what each order has left, so that a reboot can go on from there; drops those whose time
        is over, and says so in history.
        """
        with self.transaction() as db:
            written = self._written_orders(now_s)
            standing = [order for order in written if order.remaining_s > 0]
            for order in written:
                if order.remaining_s <= 0:
                    self._note(db, now_s, "end", order.host, order.describe_end())
            db.execute("DELETE FROM standing_order")
            db.executemany("INSERT INTO standing_order VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (
                (o.number, o.kind, o.host, o.destination, o.owner, o.reason, o.remaining_s, now_s, self._boot)
                for o in standing))

    def end_orders(self, numbers: Iterable[int], host: Host | None, why: str, now_s: float,
                   verdict: Verdict | None = None) -> None:
        """Ends orders before their time, and says so in history, with the `verdict` that stands after it."""
        with self.transaction() as db:
            self._put_verdicts(db, [verdict] if verdict is not None else [])
            db.executemany("DELETE FROM standing_order WHERE number = ?", [(n,) for n in numbers])
            self._note(db, now_s, "release", host, why)
