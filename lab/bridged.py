"""egressguard on the lab's hypervisor: web1 is a sender behind its own port, web2 is in the inventory."""

from collections.abc import Sequence
from pathlib import Path

from lab.deployment import FILES, MACHINE, Deployment
from lab.hypervisor import PORT, Hypervisor
from lab.network import WEB1, WEB2, Place, World

BRIDGED = """
router = "router"
mode = "{mode}"

[[bridge]]
name = "br0"
ports = ["vnet*"]
networks = ["198.51.100.0/24", "2001:db8:0:10::/60"]
"""


class BridgedDeployment(Deployment):
    """The same for a hypervisor."""

    def __init__(self, world: Hypervisor, folder: Path, *, mode: str = "enforce") -> None:
        self.hypervisor = world
        super().__init__(as_world(world), folder, mode=mode)

    def write_router_config(self, mode: str, inventory: Sequence[Place] = (WEB2,)) -> None:
        """Writes the configuration; a running daemon takes it over at SIGHUP."""
        self.router_config.write_text(
            FILES.format(folder=self.folder, rules=self.rules) + BRIDGED.format(mode=mode)
            + MACHINE.format(kind="sender", place=WEB1) + f'ports = ["{PORT[WEB1.name]}"]\n'
            + "".join(MACHINE.format(kind="host", place=place) for place in (WEB2,)))


def as_world(world: Hypervisor) -> World:
    """A hypervisor has what a deployment needs of a world: the place where the router's daemon runs."""
    return world  # type: ignore[return-value]
