"""After a permission was taken away: the connections that were made with it are ended.

The rules refuse their packets already, so what fails is reported and tried again, and stops nothing.
"""

import logging

from egressguard.core import connections
from egressguard.core.connections import Connection
from egressguard.core.errors import KernelError
from egressguard.core.plan import Changes
from egressguard.core.settings import Settings
from egressguard.kernel import Kernel

log = logging.getLogger(__name__)


class Cutting:
    """Of one table. `last` are the connections that the last comparison ended; `uncut` says why some could
    not be, empty when all were.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.last: list[Connection] = []
        self.uncut = ""

    def owe(self) -> None:
        """More may have been let through than is now: the next `after` looks, whatever has changed."""
        self.uncut = "not tried yet"

    def after(self, changes: Changes, settings: Settings) -> None:
        """Ends what is refused after these changes, if any of them can refuse something."""
        if not (self.uncut or connections.tightens(changes)):
            return
        try:
            leases = self._kernel.leases()
            self.last = self._kernel.cut(sorted(connections.ports_of(settings)),
                                         lambda c: connections.refused(c, settings, leases))
            self.uncut = ""
        except KernelError as error:
            self.uncut = f"connections that are refused now were not ended: {error}"
            return
        if self.last:
            log.warning("ended connections=%d first=%s", len(self.last), self.last[0])
