"""Kerberos: SASL's GSSAPI, for servers with a `Krb5LoginModule`. Needs the extra: `pip install 'everlatch[kerberos]'`.

    Client("zk1.example.com:2181", sasl=Kerberos())                                  # the ticket that kinit got
    Client(…, sasl=Kerberos("app@EXAMPLE.COM", keytab="/etc/app.keytab"))            # gets its own, and renews it

Rules:
1. A server is asked for as `service@host`, with the host of the connect string, which the Kerberos library may
   canonicalise (`dns_canonicalize_hostname`, `rdns` in krb5.conf). Where the connect string has addresses or aliases
   that no principal is made out for, `server_host` names the one of all servers.
2. Tickets of a keytab or a password are kept in memory, one cache for each `Kerberos`; those of `ccache`, or of the
   environment (`KRB5CCNAME`), are somebody else's business: each connection reads them anew.
3. What the library asks of a KDC may take its time, and is done in a thread. Own tickets are renewed when four fifths
   of their life have passed, so that a reconnect needs no KDC; while there is none, the old one is used on.
4. The last round chooses no security layer (RFC 4752, 3.1): bytes are protected by TLS, or not at all. ZooKeeper's
   servers offer nothing else that they would speak afterwards.
5. What runs out or is missing here is no refusal: the client goes on trying. Only a server refuses.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from everlatch.errors import InvalidArgumentError, InvalidTypeError
from everlatch.sasl import SaslTokenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.sasl import SaslExchange

__all__ = ["Kerberos", "KerberosNotInstalledError"]

_NO_LAYER: Final = 1
"""The bit of "no security layer" in the last round's first byte."""
_RENEW_AFTER: Final = 0.8
"""Of a ticket's life."""
_SHORTEST_PAUSE: Final = 1.0
_caches = itertools.count(1)


class KerberosNotInstalledError(InvalidArgumentError):
    """The package `gssapi` is missing: install `everlatch[kerberos]`, which needs the system's Kerberos library."""


class Kerberos:
    """A principal, and where its tickets come from.

    `principal`: `name@REALM`; left out, that of the tickets. `keytab`: a file with its key; or `password`; or `ccache`,
    a file of tickets that somebody else keeps fresh (`kinit`, `k5start`); or nothing: that of the environment.
    `service` and `server_host` name the servers' principals: `zookeeper/<host>`. Raises `KerberosNotInstalledError`,
    `InvalidArgumentError`, `InvalidTypeError`. That there is no ticket is only seen when one is needed.
    """

    name = "GSSAPI"
    is_blocking = True

    def __init__(
        self,
        principal: str | None = None,
        *,
        keytab: str | os.PathLike[str] | None = None,
        password: str | None = None,
        ccache: str | os.PathLike[str] | None = None,
        service: str = "zookeeper",
        server_host: str | None = None,
    ) -> None:
        texts = {"principal": principal, "password": password, "service": service, "server_host": server_host}
        for what, value in texts.items():
            if value is not None and (not isinstance(value, str) or not value):
                raise InvalidTypeError(f"{what} is a str that isn't empty, not {type(value).__name__}")
        sources = {"keytab": keytab, "password": password, "ccache": ccache}
        given = [what for what, value in sources.items() if value is not None]
        if len(given) > 1:
            raise InvalidArgumentError(f"tickets come from one place: {' or '.join(given)}")
        if principal is None and password is not None:
            raise InvalidArgumentError("a password needs a principal")
        self.principal = principal
        self.keytab = None if keytab is None else os.fspath(keytab)
        self.ccache = None if ccache is None else os.fspath(ccache)
        self.service = service
        self.server_host = server_host
        self._password = password
        self._gssapi = _library()
        self._memory = f"MEMORY:everlatch-{os.getpid()}-{next(_caches)}".encode()
        self._own: Any = None
        """Credentials of a keytab or a password."""
        self._renew_at = 0.0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Kerberos({self.principal!r}, service={self.service!r})"

    def begin(self, host: str) -> SaslExchange:
        """With the server of this name."""
        return _GssapiExchange(self, self.server_host or host)

    def keep_fresh(self) -> Callable[[], float] | None:
        """Own tickets are renewed; others are somebody else's business."""
        return self._renew if self._is_own else None

    @property
    def _is_own(self) -> bool:
        return self.keytab is not None or self._password is not None

    def _renew(self) -> float:
        with self._lock:
            now = time.monotonic()
            if now >= self._renew_at:
                self._acquire_own()
            return max(self._renew_at - now, _SHORTEST_PAUSE)

    def credentials(self) -> Any:
        """The tickets to be used now. Blocks; raises the library's errors."""
        if not self._is_own:
            store = None if self.ccache is None else {b"ccache": os.fsencode(self.ccache)}
            return self._gssapi.Credentials(name=self._name(), usage="initiate", store=store)
        with self._lock:
            if self._own is None or time.monotonic() >= self._renew_at:
                try:
                    self._acquire_own()
                except self._gssapi.exceptions.GSSError:
                    if not self._lives():
                        raise
            return self._own

    def _acquire_own(self) -> None:
        if self._password is not None:
            raw = self._gssapi.raw
            own = raw.acquire_cred_with_password(self._name(), self._password.encode(), usage="initiate").creds
            own = self._gssapi.Credentials(own)
        else:
            assert self.keytab is not None
            # The library would take the tickets that the cache has for as long as half of their life is left.
            store = {b"client_keytab": os.fsencode(self.keytab), b"ccache": self._memory}
            own = self._gssapi.Credentials(name=self._name(), usage="initiate", store=store)
        life = own.lifetime
        if life is None or life <= 0:
            raise SaslTokenError(f"the ticket of {self.principal or 'the keytab'} has run out, and there is no new one")
        self._own = own
        self._renew_at = time.monotonic() + life * _RENEW_AFTER

    def _lives(self) -> bool:
        try:
            return self._own is not None and self._own.lifetime > 0
        except self._gssapi.exceptions.GSSError:
            return False

    def _name(self) -> Any:
        if self.principal is None:
            return None
        return self._gssapi.Name(self.principal, self._gssapi.NameType.kerberos_principal)


class _GssapiExchange:
    """The library's tokens until the context is made; then the choice of no security layer; then the server's word."""

    def __init__(self, kerberos: Kerberos, host: str) -> None:
        self._kerberos = kerberos
        self._target = f"{kerberos.service}@{host}"
        self._context: Any = None
        self._has_chosen = False

    def step(self, challenge: bytes | None) -> bytes | None:
        if self._has_chosen:
            if challenge:
                raise SaslTokenError(f"{self._target} goes on after the last round")
            return None
        gssapi = self._kerberos._gssapi
        try:
            if self._context is None:
                self._context = self._begin()
            if self._context.complete:
                return self._choose(challenge)
            token = self._context.step(challenge or None)
        except gssapi.exceptions.GSSError as error:
            raise SaslTokenError(
                f"{self._target} as {self._kerberos.principal or 'who has a ticket'}: {error}"
            ) from error
        # Its part is done, and it has nothing to say: the server's last round is asked for by an empty token.
        return token or b""

    def _begin(self) -> Any:
        gssapi = self._kerberos._gssapi
        target = gssapi.Name(self._target, gssapi.NameType.hostbased_service)
        flags = gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.integrity
        return gssapi.SecurityContext(name=target, creds=self._kerberos.credentials(), flags=flags, usage="initiate")

    def _choose(self, challenge: bytes | None) -> bytes:
        if not challenge:
            raise SaslTokenError(f"{self._target} ended the exchange before the last round")
        offer = self._context.unwrap(challenge).message
        if len(offer) != 4 or not offer[0] & _NO_LAYER:
            raise SaslTokenError(f"{self._target} offers no connection without a security layer of its own")
        self._has_chosen = True
        # No layer, no buffer for one; and no name to act for but its own.
        chosen: bytes = self._context.wrap(bytes([_NO_LAYER, 0, 0, 0]), False).message
        return chosen


def _library() -> Any:
    try:
        import gssapi
        import gssapi.raw
    except ImportError as error:
        raise KerberosNotInstalledError(
            f"Kerberos needs the package gssapi: pip install 'everlatch[kerberos]' ({error})"
        ) from error
    return gssapi
