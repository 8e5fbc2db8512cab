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
   of their life have passed, and those for the servers that were met with them, so that a reconnect needs no KDC;
   while there is none, the old ones are used on.
4. The last round chooses no security layer (RFC 4752, 3.1): bytes are protected by TLS, or not at all. ZooKeeper's
   servers offer nothing else that they would speak afterwards.
5. A server that refuses own tickets may have got another key since they were made out: they are thrown away, and got
   anew, once. A password that the KDC refuses is refused for good, and never offered again: accounts are locked for
   less. All else that runs out or is missing is no refusal, for it may be there the next time: the client goes on
   trying. A KDC that could not help is not asked again at once, and one that has refused a key (it may be replaced) not
   for a while.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from everlatch.errors import InvalidArgumentError, InvalidTypeError
from everlatch.sasl import SaslRefusedError, SaslTokenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.sasl import SaslExchange

__all__ = ["Kerberos", "KerberosNotInstalledError"]

logger = logging.getLogger("everlatch")

_NO_LAYER: Final = 1
"""The bit of "no security layer" in the last round's first byte."""
_RENEW_AFTER: Final = 0.8
"""Of a ticket's life."""
_SHORTEST_PAUSE: Final = 1.0
_ASK_AGAIN_AFTER: Final = 1.0
_OFFER_AGAIN_AFTER: Final = 10.0
"""Seconds. Rule 5."""
_REFUSALS: Final = frozenset({-1765328378, -1765328366, -1765328361, -1765328360, -1765328353})
"""KRB5KDC_ERR_C_PRINCIPAL_UNKNOWN, _CLIENT_REVOKED, _KEY_EXP, _PREAUTH_FAILED; KRB5KRB_AP_ERR_BAD_INTEGRITY."""
_NEW_FOR: Final = 60.0
"""Seconds for which tickets are new: a server that refuses those refuses the principal."""
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
        self._memory = _new_cache()
        self._own: Any = None
        """Credentials of a keytab or a password."""
        self._renew_at = 0.0
        self._failure: SaslTokenError | None = None
        self._ask_at = 0.0
        """Before that, the last failure is one still."""
        self._hosts: dict[str, None] = {}
        """Servers that were met."""
        self._is_stale = False
        """Whether servers have refused the tickets that there are."""
        self._anew_at = -math.inf
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Kerberos({self.principal!r}, service={self.service!r})"

    @property
    def password(self) -> str | None:
        """Secret: keep it out of logs."""
        return self._password

    def begin(self, host: str) -> SaslExchange:
        """With the server of this name."""
        return _GssapiExchange(self, self.server_host or host)

    def keep_fresh(self) -> Callable[[], float] | None:
        """Own tickets are renewed; others are somebody else's business."""
        return self._renew if self._is_own else None

    @property
    def library_error(self) -> type[Exception]:
        """What the library raises."""
        found: type[Exception] = self._gssapi.exceptions.GSSError
        return found

    def get_anew(self) -> bool:
        """A server has refused the tickets: it may have another key since they were made out. Whether new ones are
        worth an attempt: own ones are, unless those were new. Waits for nothing."""
        now = time.monotonic()
        if not self._is_own or now < self._anew_at + _NEW_FOR:
            return False
        self._anew_at, self._is_stale = now, True
        return True

    @property
    def _is_own(self) -> bool:
        return self.keytab is not None or self._password is not None

    def _renew(self) -> float:
        """Raises `SaslTokenError`. Returns in how many seconds it is due again."""
        with self._lock:
            if self._is_due:
                self._acquire_own()
                for host in list(self._hosts):
                    self._fetch_ticket_for(host)
            return max(self._renew_at - time.monotonic(), _SHORTEST_PAUSE)

    def _fetch_ticket_for(self, host: str) -> None:
        """The library keeps it, for the exchange that will ask for it."""
        try:
            self._context_with(host, self._own).step()
        except self.library_error as error:
            logger.warning("no ticket for %s@%s yet: %s", self.service, host, _told(error))

    def context(self, host: str) -> Any:
        """A security context to be made with a server, by the tickets that there are now. Blocks; raises
        `SaslTokenError`."""
        try:
            with self._lock:
                made = self._context_with(host, self._credentials())
                self._hosts[host] = None
                return made
        except self.library_error as error:
            raise self.failure(error) from error

    def _context_with(self, host: str, credentials: Any) -> Any:
        gssapi = self._gssapi
        target = gssapi.Name(f"{self.service}@{host}", gssapi.NameType.hostbased_service)
        flags = gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.integrity
        return gssapi.SecurityContext(name=target, creds=credentials, flags=flags, usage="initiate")

    def failure(self, error: Exception) -> SaslTokenError:
        """What the library has raised, in words that say who was to be authenticated."""
        who = self.principal or "who has a ticket"
        if self._password is not None and _is_refusal(error):
            return SaslRefusedError(f"the KDC refuses the password of {who}: {_told(error)}")
        return SaslTokenError(f"{who} has no ticket that serves: {_told(error)}")

    def _credentials(self) -> Any:
        if not self._is_own:
            store = None if self.ccache is None else {b"ccache": os.fsencode(self.ccache)}
            return self._gssapi.Credentials(name=self._name(), usage="initiate", store=store)
        if self._is_due:
            try:
                self._acquire_own()
            except (SaslTokenError, self.library_error):
                if self._is_stale or not self._lives():
                    raise
        return self._own

    def _acquire_own(self) -> None:
        if self._failure is not None and time.monotonic() < self._ask_at:
            raise type(self._failure)(*self._failure.args)  # a new one each time: traces would grow in one
        try:
            if self._is_stale:  # the library would look for the same tickets in the same cache
                self._memory = _new_cache()
            own = self._from_keytab() if self._password is None else self._from_password(self._password)
            life = own.lifetime
        except self.library_error as error:
            failure = self.failure(error)
            self._ask_at = time.monotonic() + _pause_after(failure, is_refusal=_is_refusal(error))
            self._failure = type(failure)(*failure.args)
            raise failure from error
        self._failure, self._is_stale = None, False
        self._own = own
        self._renew_at = math.inf if life is None else time.monotonic() + life * _RENEW_AFTER

    def _from_password(self, password: str) -> Any:
        acquired = self._gssapi.raw.acquire_cred_with_password(self._name(), password.encode(), usage="initiate")
        return self._gssapi.Credentials(acquired.creds)

    def _from_keytab(self) -> Any:
        assert self.keytab is not None
        store = {b"client_keytab": os.fsencode(self.keytab), b"ccache": self._memory}
        return self._gssapi.Credentials(name=self._name(), usage="initiate", store=store)

    @property
    def _is_due(self) -> bool:
        """Whether own tickets are to be renewed. Their time is the calendar's, which goes on while the machine is
        suspended, and may be set; `monotonic` knows nothing of either."""
        return self._is_stale or time.monotonic() >= self._renew_at or not self._lives()

    def _lives(self) -> bool:
        try:
            return self._own is not None and (self._own.lifetime is None or self._own.lifetime > 0)
        except self.library_error:
            return False

    def _name(self) -> Any:
        if self.principal is None:
            return None
        return self._gssapi.Name(self.principal, self._gssapi.NameType.kerberos_principal)


class _GssapiExchange:
    """The library's tokens until the context is made; then the choice of no security layer; then the server's word."""

    def __init__(self, kerberos: Kerberos, host: str) -> None:
        self._kerberos = kerberos
        self._host = host
        self._context: Any = None
        self._has_chosen = False

    def step(self, challenge: bytes | None) -> bytes | None:
        if self._has_chosen:
            if challenge:
                raise SaslTokenError(f"{self._target} goes on after the last round")
            return None
        try:
            if self._context is None:
                self._context = self._kerberos.context(self._host)
            if self._context.complete:
                return self._choose(challenge)
            token = self._context.step(challenge or None)
        except self._kerberos.library_error as error:
            raise self._kerberos.failure(error) from error
        # Its part is done, and it has nothing to say: the server's last round is asked for by an empty token.
        return token or b""

    def refused(self) -> bool:
        return self._kerberos.get_anew()

    @property
    def _target(self) -> str:
        return f"{self._kerberos.service}@{self._host}"

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


def _new_cache() -> bytes:
    return f"MEMORY:everlatch-{os.getpid()}-{next(_caches)}".encode()


def _pause_after(failure: SaslTokenError, *, is_refusal: bool) -> float:
    """How long the KDC is left alone. Rule 5."""
    if isinstance(failure, SaslRefusedError):
        return math.inf
    return _OFFER_AGAIN_AFTER if is_refusal else _ASK_AGAIN_AFTER


def _is_refusal(error: Any) -> bool:
    """Whether the KDC knows who asks, and says no. Codes are unsigned there."""
    return (error.min_code - (1 << 32) if error.min_code >= 1 << 31 else error.min_code) in _REFUSALS


def _told(error: Any) -> str:
    """The library's words, without its numbers."""
    words = [*error.get_all_statuses(error.maj_code, True), *error.get_all_statuses(error.min_code, False)]
    return "; ".join(dict.fromkeys(str(word) for word in words if word and word != "Success"))


def _library() -> Any:
    try:
        import gssapi
        import gssapi.raw
    except ImportError as error:
        raise KerberosNotInstalledError(
            f"Kerberos needs the package gssapi: pip install 'everlatch[kerberos]' ({error})"
        ) from error
    return gssapi
