"""What a client was told of TLS: the files of certificates and keys, or a context of the user's own.

Rules of this module:
1. The server's certificate is always verified against `ca`, or what the system trusts; only the user's own context may
   say otherwise. Its name is verified as well, unless `check_hostname` is off.
2. Files are read when the settings are made, so that what can't be right is said at once; and again before a
   connection when they have changed, so that certificates can be rotated. Files that can't be read then (one is half
   written, the key is not yet that of the certificate) leave what was read last in force, with one warning for each
   such state of the files.
3. The password of the key is in no text: no repr, no error, no log.
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import NoReturn, TypeAlias

from everlatch.errors import CertificateFileError, InvalidArgumentError, InvalidTypeError, describe

__all__ = ["PathLike", "TlsSettings"]

logger = logging.getLogger("everlatch")

PathLike: TypeAlias = "str | os.PathLike[str]"
"""A path of a file."""

_State: TypeAlias = "tuple[tuple[int, int, int] | None, ...]"
"""Of each file its time, size and inode; `None`: it can't be looked at."""


class TlsSettings:
    """How a client speaks TLS: what a `Client` makes of its arguments, and the questions of `everlatch.admin` take.
    Raises `InvalidArgumentError`, and `CertificateFileError` for files that are not what they should be.

    `context`: a ready one, of the user's own, instead of all else. `ca`, `cert`, `key`: paths of PEM files, or `None`.
    `key_password`: what the key is encrypted with. Secret.
    `check_hostname`: whether a server's certificate must have the name, or the IP address, that it is reached by.
    """

    __slots__ = ("_context", "_own", "_refused", "_state", "ca", "cert", "check_hostname", "key", "key_password")

    def __init__(
        self,
        context: ssl.SSLContext | None = None,
        *,
        ca: PathLike | None = None,
        cert: PathLike | None = None,
        key: PathLike | None = None,
        key_password: str | None = None,
        check_hostname: bool = True,
    ) -> None:
        self.ca = _path("ca", ca)
        self.cert = _path("cert", cert)
        self.key = _path("key", key)
        self.key_password = _checked_password(key_password)
        given = _given(ca, cert, key, key_password)
        if context is not None:
            _check_context(context, given, check_hostname=check_hostname)
        if cert is None and key is not None:
            raise InvalidArgumentError("key is the key of a certificate: give cert as well")
        if cert is None and key_password is not None:
            raise InvalidArgumentError("key_password is for the key of a certificate: give cert and key as well")
        self.check_hostname = check_hostname if context is None else context.check_hostname
        self._own = context
        self._state: _State = self._look() if context is None else ()
        self._refused: _State | None = None
        """The state of the files that could not be loaded last."""
        self._context = self._load() if context is None else context

    @classmethod
    def from_arguments(
        cls,
        tls: bool | ssl.SSLContext | None = None,
        ca: PathLike | None = None,
        cert: PathLike | None = None,
        key: PathLike | None = None,
        key_password: str | None = None,
        check_hostname: bool = True,
    ) -> TlsSettings | None:
        """The settings that a client's arguments make; `None`: no TLS.

        `tls`: left out, TLS is on if any of `ca`, `cert` and `key` is given. Raises `InvalidArgumentError` for what
        contradicts itself, `CertificateFileError` for files that are not what they should be.
        """
        if tls is not None and not isinstance(tls, (bool, ssl.SSLContext)):
            raise InvalidTypeError(f"tls is True, False, None or an ssl.SSLContext, not a {type(tls).__name__}")
        given = _given(ca, cert, key, key_password)
        if tls is False and given:
            raise InvalidArgumentError(f"tls=False says no TLS, and {', '.join(given)} that there is to be some")
        if tls is None and not given:
            if not check_hostname:
                raise InvalidArgumentError("check_hostname=False is for TLS, which is not on: give tls=True, or ca")
            return None
        if tls is False:
            return None
        context = tls if isinstance(tls, ssl.SSLContext) else None
        return cls(context, ca=ca, cert=cert, key=key, key_password=key_password, check_hostname=check_hostname)

    def __repr__(self) -> str:
        if self._own is not None:
            return "<TlsSettings: a context of the user's own>"
        secret = ", key_password=<secret>" if self.key_password is not None else ""
        return (
            f"<TlsSettings ca={self.ca!r}, cert={self.cert!r}, key={self.key!r}{secret}, "
            f"check_hostname={self.check_hostname}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("TlsSettings can't be pickled: they may hold the password of a key")

    @property
    def is_plain(self) -> bool:
        """Whether it is files and words alone, which another process can be told; no context of the user's own."""
        return self._own is None

    @property
    def has_certificate(self) -> bool | None:
        """Whether servers are shown a certificate; `None`: only the user's own context knows."""
        return None if self._own is not None else self.cert is not None

    def context(self) -> ssl.SSLContext:
        """The context for the next connection: of the files as they are now, or as they were when they could be loaded
        last (rule 2). Never raises."""
        if self._own is not None:
            return self._own
        state = self._look()
        if state not in (self._state, self._refused):
            try:
                self._context = self._load()
            except CertificateFileError as error:
                self._refused = state
                logger.warning("TLS goes on with the certificates that were read last: %s", describe(error))
            else:
                self._state, self._refused = state, None
                logger.info("certificates have changed, and were read again: %r", self)
        return self._context

    def _look(self) -> _State:
        return tuple(_state_of(path) for path in (self.ca, self.cert, self.key) if path is not None)

    def _load(self) -> ssl.SSLContext:
        context = _trusting(self.ca)
        context.check_hostname = self.check_hostname
        # A server that wants to shake hands again has no use for it in this protocol. (TLS 1.3 has no such thing.)
        context.options |= ssl.OP_NO_RENEGOTIATION
        if self.cert is not None:
            _present(context, self.cert, self.key, self.key_password)
        return context


class _PasswordWantedError(Exception):
    """OpenSSL asks for a password, and there is none."""


def _path(name: str, path: PathLike | None) -> str | None:
    if path is None:
        return None
    try:
        text = os.fspath(path)
    except TypeError:
        raise InvalidTypeError(f"{name} is the path of a PEM file, not a {type(path).__name__}") from None
    if not isinstance(text, str):
        raise InvalidTypeError(f"{name} is a path of type str, not {type(text).__name__}")
    if not text or "\0" in text:
        raise InvalidArgumentError(f"{name} is the path of a PEM file, not {text!r}")
    return text


def _checked_password(password: str | None) -> str | None:
    if password is not None and not isinstance(password, str):
        raise InvalidTypeError(f"key_password is str, not {type(password).__name__}")
    return password


def _given(ca: PathLike | None, cert: PathLike | None, key: PathLike | None, key_password: str | None) -> list[str]:
    """The names of those that are."""
    arguments = {"ca": ca, "cert": cert, "key": key, "key_password": key_password}
    return [name for name, value in arguments.items() if value is not None]


def _check_context(context: ssl.SSLContext, given: list[str], *, check_hostname: bool) -> None:
    if given or not check_hostname:
        more = ", ".join([*given, *([] if check_hostname else ["check_hostname"])])
        raise InvalidArgumentError(f"an SSLContext has it all: {more} can't be given as well, set it up there")
    if context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise InvalidArgumentError(
            "the SSLContext is for servers (PROTOCOL_TLS_SERVER); a client needs one for clients"
        )


def _trusting(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (ssl.SSLError, ValueError):  # ValueError: what is no text at all
        raise CertificateFileError("ca", str(ca), "it holds no certificate in PEM form") from None
    except OSError as error:
        raise CertificateFileError("ca", str(ca), _reason(error)) from error


def _present(context: ssl.SSLContext, cert: str, key: str | None, password: str | None) -> None:
    """Has the context show a certificate. What is wrong with it is said without the password, and without what OpenSSL
    makes of it: an error's cause would have both."""
    argument, files = ("cert", cert) if key is None else ("cert and key", f"{cert}, {key}")
    asked = _Password(password)
    try:
        context.load_cert_chain(cert, key, asked)
        return
    except _PasswordWantedError:
        problem = "the key is encrypted: give key_password"
    except ssl.SSLError as error:
        problem = _problem(getattr(error, "reason", None) or "", locked=asked.was_asked)
    except OSError as error:
        problem = _reason(error) if key is None else _reason_of_either(cert, key, error)
    except ValueError:  # longer than OpenSSL takes
        problem = "key_password can't be the password of a key"
    raise CertificateFileError(argument, files, problem)


class _Password:
    """Tells OpenSSL the password when it asks for it, which it does only for a key that is encrypted. Without one it
    would ask on the terminal."""

    def __init__(self, password: str | None) -> None:
        self._password = password
        self.was_asked = False

    def __call__(self) -> str:
        self.was_asked = True
        if self._password is None:
            raise _PasswordWantedError
        return self._password


def _problem(reason: str, *, locked: bool) -> str:
    if locked:
        return "key_password does not open the key"
    if reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate"
    named = f" ({reason.lower().replace('_', ' ')})" if reason else ""
    return f"it is no certificate with its key in PEM form{named}"


def _reason(error: OSError) -> str:
    return error.strerror or describe(error)


def _reason_of_either(cert: str, key: str, error: OSError) -> str:
    """`load_cert_chain` doesn't say which of its files it is."""
    for path in (cert, key):
        try:
            with open(path, "rb"):
                pass
        except OSError as found:
            return f"{path}: {_reason(found)}"
    return _reason(error)


def _state_of(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
