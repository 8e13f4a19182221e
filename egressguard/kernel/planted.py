"""Elements that somebody has put into sets which only packets write: those with a lifetime of their own.

What a packet adds has its set's timeout. Kernels before 6.12 name it with each such element, later ones with
none; both name one that differs. Such an element was put there, and would stay: it refuses a host in silence,
takes the place of others, or hides what is new. What was put there with the set's own timeout ends as a
packet's does.
"""

import struct
from collections.abc import Iterator

from egressguard.core.plan import Change, Changes
from egressguard.core.ruleset import Element, Fields
from egressguard.core.tables import Specs
from egressguard.kernel.declared import NO_TIMEOUT, read_timeouts
from egressguard.kernel.fields import decoder
from egressguard.kernel.netlink import Netlink, NoSuchEntry, attributes
from egressguard.kernel.sets import ELEM_KEY, ELEM_TIMEOUT, read_payloads, value_of

_NAMED = struct.pack("=HH", 12, ELEM_TIMEOUT)  # how such an attribute begins


def read_planted(netlink: Netlink, written: Specs) -> Changes:
    """What would remove such elements from the sets that packets have `written`."""
    timeouts = read_timeouts(netlink)
    found = ((name, tuple(sorted(_planted(netlink, name, fields, timeouts.get(name, NO_TIMEOUT)))))
             for name, fields in written.items())
    return tuple(Change(name, removed=elements) for name, elements in found if elements)


def _planted(netlink: Netlink, name: str, fields: Fields, timeout: bytes) -> Iterator[Element]:
    decode = decoder(name, fields)
    try:
        for payload in read_payloads(netlink, name):
            for key in planted_keys(payload, timeout):
                yield decode(key, key)
    except NoSuchEntry:
        return


def planted_keys(payload: memoryview, timeout: bytes) -> Iterator[bytes]:
    """The keys of those elements in `payload` that name another timeout than their set's.

    A flood fills these sets with tens of thousands, which are not to be taken apart one by one.
    """
    data = bytes(payload)
    if data.count(_NAMED) == data.count(_NAMED + timeout):
        return
    for _, element in attributes(payload):
        found = dict(attributes(element))
        if found.get(ELEM_TIMEOUT, timeout) != timeout:
            yield value_of(found[ELEM_KEY])
