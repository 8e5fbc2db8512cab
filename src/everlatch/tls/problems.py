"""Why TLS failed: OpenSSL's errors in terms of who can do something about it.

Rules of this module:
1. What a server that speaks no TLS does depends on what it is: ZooKeeper's plain port takes the beginning of a TLS
   handshake for the length of a frame, and closes the connection. Others answer in their own protocol. So it is looked
   at what came, not only at what OpenSSL says, which differs between its versions.
2. An alert about certificates is about ours. With TLS 1.3 it comes when the client believes the handshake to be over.
"""

from __future__ import annotations

import ssl
from typing import Final

from everlatch.errors import ClientCertificateError, NoTlsError, ServerCertificateError, TlsError, describe

__all__ = ["broken", "handshake_failed", "looks_like_tls"]

_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_OTHER_NAME: Final = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""
_UNTRUSTED: Final = frozenset({2, 18, 19, 20, 21})
"""X509_V_ERR_…: UNABLE_TO_GET_ISSUER_CERT, DEPTH_ZERO_SELF_SIGNED_CERT, SELF_SIGNED_CERT_IN_CHAIN,
UNABLE_TO_GET_ISSUER_CERT_LOCALLY, UNABLE_TO_VERIFY_LEAF_SIGNATURE."""

_ABOUT_OUR_CERTIFICATE: Final = (
    *("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNSUPPORTED_CERTIFICATE", "CERTIFICATE_REVOKED"),
    *("CERTIFICATE_EXPIRED", "CERTIFICATE_UNKNOWN", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR"),
)
_HANDSHAKE, _ALERT = 22, 21
"""Types of TLS records that a server's first one may have; the third byte of every record's head is part of its
version, the second one is 3."""


def looks_like_tls(heard: bytes) -> bool:
    """Whether the first bytes of a server are those of TLS, as far as they have come."""
    return heard[:1] in (b"", bytes([_HANDSHAKE]), bytes([_ALERT])) and heard[1:2] in (b"", b"\x03")


def handshake_failed(error: BaseException | None, heard: bytes, host: str, has_certificate: bool | None) -> TlsError:
    """Why the handshake failed. `error`: what OpenSSL said, or how the connection broke (`None`: the
    server closed it). `heard`: how what came from the server began. `host`: the name that its certificate should have.
    `has_certificate`: whether we have one to show; `None`: unknown."""
    if isinstance(error, ssl.SSLCertVerificationError):
        failed: TlsError = ServerCertificateError(_of_server(error, host))
    elif not looks_like_tls(heard):
        failed = NoTlsError(f"what listens there does not speak TLS: it answered {heard!r}; is that a plain port?")
    elif isinstance(error, ssl.SSLError):
        failed = _of_openssl(error, has_certificate, agreed=heard[:1] == bytes([_HANDSHAKE]))
    elif heard:
        failed = TlsError(f"the server ended the connection in the middle of the TLS handshake{_how(error)}")
    else:
        failed = NoTlsError(
            f"the server closed the connection instead of shaking hands by TLS{_how(error)}: ZooKeeper's plain port "
            "does that (its TLS port is secureClientPort), and one that has too many connections"
        )
    failed.__cause__ = error
    return failed


def broken(error: BaseException | None, *, answered: bool, has_certificate: bool | None) -> TlsError | None:
    """Why a connection by TLS ended whose handshake was done; `None`: as any other connection may end. `answered`:
    whether the server has sent anything on it."""
    if isinstance(error, ssl.SSLError):
        failed = _of_openssl(error, has_certificate, agreed=True)
    elif isinstance(error, OSError) and not answered:
        # The alert that says so may be lost with the connection.
        failed = TlsError(
            f"the server ended the connection right after the TLS handshake{_how(error)}: a server that wants "
            f"{'another' if has_certificate else 'a'} client certificate may do that"
        )
    else:
        return None
    failed.__cause__ = error
    return failed


def _of_server(error: ssl.SSLCertVerificationError, host: str) -> str:
    said = error.verify_message.rstrip(".")
    if error.verify_code in _OTHER_NAME:
        return (
            f"the server's certificate is not for {host!r}; name the server in the connect string as its certificate "
            "does, or give it one that has this name (check_hostname=False accepts any that is trusted)"
        )
    if error.verify_code == _EXPIRED:
        return "the server's certificate, or one above it, has expired: renew it (or is this machine's clock wrong?)"
    if error.verify_code == _NOT_YET_VALID:
        return "the server's certificate, or one above it, is not valid yet: is a clock wrong?"
    if error.verify_code in _UNTRUSTED:
        return f"the server's certificate is not trusted ({said}): does ca hold the authority that has issued it?"
    return f"the server's certificate was refused: {said}"


def _of_openssl(error: ssl.SSLError, has_certificate: bool | None, *, agreed: bool) -> TlsError:
    """`agreed`: whether the server has taken up the handshake. What it refuses then is not versions and ciphers."""
    reason: str = getattr(error, "reason", None) or ""  # not set on those that Python itself raises
    said = reason.lower().replace("_", " ") or describe(error)
    if "ALERT" in reason and reason.endswith(_ABOUT_OUR_CERTIFICATE):
        return ClientCertificateError(f"the server {_of_client(has_certificate)} ({said})")
    if reason.endswith("ALERT_HANDSHAKE_FAILURE"):
        if agreed and has_certificate is False:  # TLS 1.2 in Java
            return ClientCertificateError(f"the server {_of_client(has_certificate)} ({said})")
        why = "does it refuse the client certificate?" if agreed else "nothing that both allow"
        return TlsError(f"the server refused the TLS handshake ({said}): {why}")
    if "PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        return TlsError(f"there is no version of TLS that the server and we speak ({said})")
    return TlsError(f"TLS with the server failed: {said}")


def _of_client(has_certificate: bool | None) -> str:
    if has_certificate is False:
        return "wants a client certificate: give cert and key"
    return "refuses the client certificate: does it trust who has issued it, and is it still valid?"


def _how(error: BaseException | None) -> str:
    return f" ({describe(error)})" if error is not None else ""
