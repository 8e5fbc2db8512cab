"""TLS: what a client was told of it, connections, and why they fail.

settings   certificates and keys, read again when their files have changed
transport  connections by TLS over a transport of any event loop
problems   what went wrong, in terms of who can do something about it
"""

from everlatch.tls.settings import TlsSettings

__all__ = ["TlsSettings"]
