"""What nobody may be told, and who looks for it in everything that is said.

Rules of this file: besides the password, secret is what the client makes of it: whoever has that can try passwords out.
What a server sees on the wire it knows anyhow; here it is about logs, errors and reprs.
"""

from __future__ import annotations

import logging
import traceback

from everlatch.sasl import DigestMd5
from everlatch.wire.digest_md5 import DigestMd5Error, directives
from fuzz.findings import BrokenPromiseError

__all__ = ["PASSWORD", "USER", "Eavesdropper", "Mechanism", "Secrets"]

USER, PASSWORD = "bob", "pa55word-of-the-fuzzer"


class Mechanism(DigestMd5):
    """With nonces that a seed gives; also one whose steps take their time."""

    def __init__(self, seed: str, *, is_blocking: bool = False) -> None:
        super().__init__(USER, PASSWORD)
        self.is_blocking = is_blocking
        self._seed = seed
        self._begun = 0

    def _new_nonce(self) -> str:
        self._begun += 1
        return f"cnonce-{self._begun}-{self._seed}"


class Secrets:
    """Of one case; `others` besides the password of SASL."""

    def __init__(self, *others: str) -> None:
        self._known = {PASSWORD, *others}

    def note_response(self, token: bytes) -> None:
        """The client has said this."""
        try:
            told = directives(token)
        except DigestMd5Error:
            return
        self._known |= {told[name] for name in ("response", "cnonce") if told.get(name)}

    def check(self, text: str, where: str) -> None:
        """Raises `BrokenPromiseError` if it tells one."""
        for secret in self._known:
            if secret in text:
                raise BrokenPromiseError(f"a secret is told: in {where}")

    def check_error(self, error: BaseException | None) -> None:
        """And everything that led to it."""
        if error is not None:
            self.check("".join([*traceback.format_exception(error), repr(error), repr(vars(error))]), "an error")


class Eavesdropper(logging.Handler):
    """Hears all that is logged, and judges in the end: what a client makes of a password is known only when the server
    has heard it."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__(logging.DEBUG)
        self._secrets = secrets
        self._heard: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """logging's call."""
        trace = "" if record.exc_info is None else "".join(traceback.format_exception(*record.exc_info))
        self._heard[f"{record.getMessage()} {record.args!r} {trace}"] = None

    def judge(self) -> None:
        """Raises `BrokenPromiseError`."""
        for line in self._heard:
            self._secrets.check(line, "a log")
