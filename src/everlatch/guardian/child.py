"""A guardian's process as its parent sees it: started, told, ended, and taken care of when it has died.

Rules:
1. It is started by `vfork` and `exec`, with nothing of ours but its two pipes and a pidfd of this process, which we
   open ourselves: whoever has our pid later is not taken for us.
2. It runs the code that we have, compiled, which it reads from its standard input. So it fits to us though everlatch is
   upgraded under a process that runs, and needs no compiler, which takes a megabyte and ten milliseconds.
3. It begins with all signals blocked that can be: what ends us, or a whole group of processes, doesn't end it.
4. It is our child, so that no `init` is needed to take it away; what was reaped already by other code is no error.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import marshal
import os
import signal
import subprocess
import sys
import tempfile
import time
from types import CodeType
from typing import IO, TYPE_CHECKING

from everlatch.errors import GuardianUnavailableError
from everlatch.guardian.descriptor import Descriptor
from everlatch.guardian.line import Line
from everlatch.guardian.told import DEPUTY, DIGEST_MD5, UP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everlatch.guardian.guarded import Guarded
    from everlatch.guardian.told import Message

__all__ = ["Child", "check_available"]

_BOOT = """\
# The guardian of everlatch, which closes its parent's ZooKeeper sessions when that has died
import marshal, sys
for name, code in marshal.load(open(0, "rb")):
    module = sys.modules[name] = type(sys)(name)
    if code:
        exec(code, module.__dict__)
module.main(sys.argv[1:])
"""
_DEPUTY = """\
# Authenticates for the guardian of everlatch, by Kerberos
import marshal, sys
source = open(0, "rb")
package, sys.path[:], directory = marshal.load(source)
everlatch = sys.modules["everlatch"] = type(sys)("everlatch")
everlatch.__path__ = package
from everlatch.guardian.kerberized import main
main(source, directory)
"""
_PACKAGE = "everlatch.guardian"
_PARTS = ("told", "owners", "exchange", "names", "connection", "deputy", "farewell", "process")
"""The modules of the process, each behind those that it imports."""
_DIGEST_MD5 = "everlatch.wire.digest_md5"
_NEEDED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF")
"""What it may take from our environment: where libraries and certificates are. Anything else may be secret."""
_KERBEROS = ("KRB5", "GSS")
"""What else a deputy takes of it: variables that begin so are of the Kerberos library, and name files."""
_FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP")
"""What a process does to itself; never blocked."""


def check_available() -> None:
    """Raises `GuardianUnavailableError` if there can be none here."""
    if not hasattr(os, "fork") or not hasattr(signal, "pthread_sigmask"):
        raise GuardianUnavailableError("there is no guardian on this system: it takes POSIX processes and signals")
    if getattr(sys, "frozen", False) or not sys.executable:
        raise GuardianUnavailableError(
            "there is no guardian in a program without a Python interpreter of its own (sys.executable)"
        )
    try:
        _program()
    except ImportError as error:
        raise GuardianUnavailableError(f"there is no guardian, for its code can't be had: {error}") from error


@functools.cache
def _program() -> bytes:
    """What the process begins with. Raises `ImportError`."""
    codes = [(f"{_PACKAGE}.{part}", _code(f"{_PACKAGE}.{part}")) for part in _PARTS]
    return marshal.dumps([("everlatch", None), (_PACKAGE, None), *codes])


def _code(name: str) -> CodeType:
    """That of a module, from its cache if it has one. Raises `ImportError`."""
    spec = importlib.util.find_spec(name)
    get_code = getattr(spec and spec.loader, "get_code", None)
    code = get_code(name) if get_code is not None else None
    if not isinstance(code, CodeType):
        raise ImportError(f"{name} was not loaded from a file")
    return code


class Child:
    """A process that guards. Raises `GuardianUnavailableError` when it can't be started."""

    def __init__(self) -> None:
        self.is_up = False
        self.began = time.monotonic()
        self._knows_sasl = self._knows_deputy = False
        self.how_it_ended: int | None = None
        """As `waitpid` has it, as an exit code."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            try:
                self.line = Line()
                theirs.callback(os.close, self.line.far_end)
                ours.callback(self.line.close)
                near, far = os.pipe()
                theirs.callback(os.close, far)
                self.status = Descriptor(near)
                """Readable when it has something to say; at its end, it has ended."""
                ours.callback(self.status.close)
                os.set_blocking(near, False)  # it may be read from several loops
                own = _own_pidfd()
                if own >= 0:
                    theirs.callback(os.close, own)
                self.pid = _spawn(self.line.far_end, far, own)
            except OSError as error:
                raise GuardianUnavailableError(f"starting the guardian failed: {error}") from error
            ours.pop_all()

    def tell(self, message: Message) -> None:
        """Raises `LineBrokenError`."""
        self.line.tell(message)

    def tell_session(self, key: int, guarded: Guarded) -> None:
        """What a client's session is now. Raises `LineBrokenError`."""
        if guarded.sasl is not None and not self._knows_sasl:
            self._knows_sasl = True
            self.line.tell((DIGEST_MD5, marshal.dumps(_code(_DIGEST_MD5))))
        if guarded.kerberos is not None and not self._knows_deputy:
            self._knows_deputy = True
            self.line.tell((DEPUTY, *_deputy()))
        self.line.tell(guarded.message(key))

    def read_status(self, status: Descriptor) -> bool:
        """What it says by `status`, or a duplicate of it. Whether it lives."""
        try:
            said = os.read(status.number, 64)
        except BlockingIOError:
            return True
        self.is_up = self.is_up or said == UP
        return bool(said)

    def kill(self) -> None:
        """Nobody is left to be guarded; or it is stuck, or hears us no more. `status` tells when it has ended."""
        if self._wait(os.WNOHANG):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> None:
        """It has ended, or will at once. Takes all away that was left of it."""
        self._wait(0)
        self._close()

    def _wait(self, options: int) -> bool:
        if self.how_it_ended is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # reaped by somebody else, who waits for any child
                pid, status = self.pid, 0
            if pid:
                self.how_it_ended = os.waitstatus_to_exitcode(status)
        return self.how_it_ended is not None

    def _close(self) -> None:
        self.line.close()
        self.status.close()


def _own_pidfd() -> int:
    """−1: there are none here."""
    try:
        return os.pidfd_open(os.getpid())
    except (AttributeError, OSError):  # not on this system, or forbidden
        return -1


def _python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, *["-I", "-S", "-E", "-B", "-X", "frozen_modules=on", "-c"], program, *arguments]


def _environment(*prefixes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in _NEEDED or name.startswith(prefixes)}


def _deputy() -> Message:
    """How a deputy is started, so that it finds what we find. It doesn't import all of everlatch, which takes time."""
    try:
        directory = os.getcwd()
    except OSError:  # it was deleted
        directory = "/"
    everlatch = importlib.util.find_spec("everlatch")
    package = list((everlatch and everlatch.submodule_search_locations) or ())
    paths = [os.path.join(directory, path) for path in sys.path if isinstance(path, str)]
    places = ([os.path.join(directory, path) for path in package], paths, directory)
    return _python(_DEPUTY), _environment(*_KERBEROS), places


def _spawn(pipe: int, status: int, own: int) -> int:
    numbers = (pipe, status, own, os.getpid())
    command = _python(_BOOT, *map(str, numbers))
    with _signals_blocked(), _readable(_program()) as code:
        started = subprocess.Popen(  # noqa: S603 (our own interpreter)
            command,
            stdin=code,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
            pass_fds=[descriptor for descriptor in (pipe, status, own) if descriptor >= 0],
            start_new_session=True,
        )
    started.returncode = 0  # we wait for it ourselves: it must not complain that nobody has
    return started.pid


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A child inherits the mask."""
    faults = {getattr(signal, name) for name in _FAULTS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _readable(data: bytes) -> IO[bytes]:
    """A file that `data` can be read from. (A pipe may hold as little as a page.)"""
    file: IO[bytes]
    try:
        file = os.fdopen(os.memfd_create("everlatch-guardian"), "w+b", buffering=0)
    except (AttributeError, OSError):  # not on this system, or forbidden
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (who asks closes it)
    file.write(data)
    file.seek(0)
    return file
