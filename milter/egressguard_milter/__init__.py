"""The relay side: a milter that limits each client, and limits it more when a router suspects it.

One chain: callbacks → Session → Limits.check(host, now_s) → Decision. Only `callbacks` knows libmilter.
"""
