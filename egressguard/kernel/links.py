"""The network interfaces of this network namespace, through pyroute2."""

from pyroute2 import IPRoute


def read_interfaces() -> frozenset[str]:
    """The names of all interfaces that exist now."""
    with IPRoute() as route:
        return frozenset(link.get_attr("IFLA_IFNAME") for link in route.get_links())
