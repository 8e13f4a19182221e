"""The relay side: a milter that limits each client, and limits it more when a router suspects it.

One chain: server → Conversation → Session → Limits → Ledger. Only `server` has the MTA's sockets.
"""
