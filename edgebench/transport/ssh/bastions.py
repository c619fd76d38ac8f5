"""Logging in hop by hop: jump hosts are shared by all devices behind them, and nobody is stormed.

One connection to a jump host serves up to ten devices (OpenSSH's default for MaxSessions), or as many as
the server lets through; then a further one is made. It is counted who uses a connection: it is closed when
the last user has left, and made anew when it died. Who waits for one that cannot be made gets the same error.

At most eight handshakes are in flight at one server, and at most eight through one jump host: beyond ten
OpenSSH begins to close what greets it (MaxStartups).
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future

from edgebench.errors import BugError, DeviceError
from edgebench.transport.base import Credentials, Deadline
from edgebench.transport.ssh.auth import authenticate
from edgebench.transport.ssh.base import HostKey, Link, Login, NoChannelError, Timeouts
from edgebench.transport.ssh.reach import shown_host_keys, verified_link

MAX_USERS = 10
MAX_HANDSHAKES = 8
GATE_S = 600.0  # how long one may wait for others to log in
CONNECT_ATTEMPTS = 3
CONNECT_PATIENCE_S = 20.0  # no further attempt after this: a board that hangs is told in seconds
ANSWER_S = 5.0  # how long a jump host may take to answer at all

Route = tuple[Login, ...]
_Key = tuple[Login, ...]


def connect(route: Route, credentials: Credentials, timeouts: Timeouts) -> Link:
    """A link to the last stop of the route, logged in at each; up to three attempts where one may help."""
    patience = Deadline(CONNECT_PATIENCE_S)
    for attempt in range(1, CONNECT_ATTEMPTS + 1):
        try:
            return _log_in(route, credentials, timeouts)
        except DeviceError as error:
            if not error.retryable or attempt == CONNECT_ATTEMPTS or patience.passed():
                raise
            time.sleep(attempt * timeouts.retry_s * _jitter())
    raise BugError("no attempt was made")


def scan(route: Route, credentials: Credentials, timeouts: Timeouts) -> tuple[HostKey, ...]:
    """All host keys of the last stop, which need not be known; the jump hosts before it are."""
    if len(route) == 1:
        return shown_host_keys(route[0], None, timeouts)
    with contextlib.closing(_borrow(route[:-1], credentials, timeouts)) as borrowed:
        return shown_host_keys(route[-1], borrowed.link, timeouts)


def _jitter() -> float:
    """A factor between 1 and 3, so that workers who failed together come back apart."""
    return 1 + secrets.randbelow(2000) / 1000


def _log_in(route: Route, credentials: Credentials, timeouts: Timeouts) -> Link:
    if not route:
        raise BugError("a route without a stop")
    if len(route) == 1:
        with GATES.passing(route[-1].where, route[-1].name):
            return _logged_in(route[-1], None, credentials, timeouts)
    while True:
        borrowed = _borrow(route[:-1], credentials, timeouts)
        try:
            with GATES.passing(_identity(route[:-1]), route[-1].name):
                link = _logged_in(route[-1], borrowed, credentials, timeouts)
        except NoChannelError:
            alone = borrowed.give_back_full()
            if alone:
                raise
        except BaseException as error:
            if isinstance(error, DeviceError) and error.retryable:
                borrowed.link.answers(ANSWER_S)
            borrowed.close()
            raise
        else:
            return link


def _logged_in(login: Login, borrowed: Borrowed | None, credentials: Credentials, timeouts: Timeouts) -> Link:
    via = None if borrowed is None else borrowed.link
    link = verified_link(login, via, timeouts)
    try:
        authenticate(link, login, credentials, timeouts)
        link.transport.set_keepalive(timeouts.keepalive_s)
    except BaseException:
        link.close()
        raise
    link.when_closed = None if borrowed is None else borrowed.close
    return link


def _borrow(route: Route, credentials: Credentials, timeouts: Timeouts) -> Borrowed:
    return BASTIONS.borrow(route, lambda: _log_in(route, credentials, timeouts))


def _identity(route: Sequence[Login]) -> _Key:
    """What makes two connections the same: everything about their logins but what messages call them."""
    return tuple(dataclasses.replace(login, name="") for login in route)


# --- who may knock -------------------------------------------------------------------------------


class Gates:
    """At most so many at a time do something with the same key."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._gates: dict[Hashable, tuple[threading.Semaphore, int]] = {}

    @contextlib.contextmanager
    def passing(self, key: Hashable, name: str) -> Iterator[None]:
        """Wait for one's turn; DeviceError, to be tried again, when it does not come."""
        gate = self._enter(key)
        try:
            if not gate.acquire(timeout=GATE_S):
                raise DeviceError(
                    f"{name}: too many logins wait for the same server",
                    hint="use fewer devices at a time",
                    retryable=True,
                )
            try:
                yield
            finally:
                gate.release()
        finally:
            self._leave(key)

    def known(self) -> int:
        """How many keys somebody does something with."""
        with self._lock:
            return len(self._gates)

    def _enter(self, key: Hashable) -> threading.Semaphore:
        with self._lock:
            gate, users = self._gates.get(key, (threading.Semaphore(self._limit), 0))
            self._gates[key] = gate, users + 1
            return gate

    def _leave(self, key: Hashable) -> None:
        with self._lock:
            gate, users = self._gates.pop(key)
            if users > 1:
                self._gates[key] = gate, users - 1


# --- shared connections --------------------------------------------------------------------------


class _Shared:
    """One connection to a jump host and the number of those who use it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.users = 1
        self.full = False

    @property
    def free(self) -> bool:
        return self.link.alive and not self.full and self.users < MAX_USERS


class Borrowed:
    """The use of a shared connection, until it is closed."""

    def __init__(self, owner: Bastions, key: _Key, shared: _Shared) -> None:
        self._owner = owner
        self._key = key
        self._shared = shared
        self._open = True

    @property
    def link(self) -> Link:
        """The connection to the jump host."""
        return self._shared.link

    def close(self) -> None:
        """Give the connection back, once; never raises."""
        self._owner.give_back(self, self._key, self._shared)

    def give_back_full(self) -> bool:
        """Give back a connection that takes no further channel; whether nobody else had used it."""
        return self._owner.give_back(self, self._key, self._shared, full=True)

    def ended(self) -> bool:
        """Whether this is the first time that it is given back. Its owner's lock is held."""
        was_open, self._open = self._open, False
        return was_open


class Bastions:
    """The shared connections of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: dict[_Key, list[_Shared]] = {}
        self._opening: dict[_Key, Future[None]] = {}

    def borrow(self, route: Route, open_link: Callable[[], Link]) -> Borrowed:
        """The use of a connection to the last stop of the route: one that is there, or a new one."""
        key, name = _identity(route), route[-1].name
        while True:
            with self._lock:
                found = self._free(key)
                if found is not None:
                    return found
                opening = self._opening.get(key)
                if opening is None:
                    mine = self._opening[key] = Future()
            if opening is None:
                return self._open(key, open_link, mine)
            _wait_for(opening, name)

    def open_links(self) -> int:
        """How many shared connections are open."""
        with self._lock:
            return sum(map(len, self._shared.values()))

    def _free(self, key: _Key) -> Borrowed | None:
        known = self._shared.get(key, [])
        self._shared[key] = [shared for shared in known if shared.link.alive]
        for shared in self._shared[key]:
            if shared.free:
                shared.users += 1
                return Borrowed(self, key, shared)
        return None

    def _open(self, key: _Key, open_link: Callable[[], Link], mine: Future[None]) -> Borrowed:
        try:
            shared = _Shared(open_link())
        except BaseException as error:
            with self._lock:
                del self._opening[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._opening[key]
            self._shared.setdefault(key, []).append(shared)
        mine.set_result(None)
        return Borrowed(self, key, shared)

    def give_back(self, borrowed: Borrowed, key: _Key, shared: _Shared, *, full: bool = False) -> bool:
        """Count one user less, and close what nobody uses; whether the user was the only one."""
        with self._lock:
            if not borrowed.ended():
                return False
            shared.users -= 1
            shared.full = full
            alone = shared.users == 0
            if alone:
                left = [other for other in self._shared.get(key, []) if other is not shared]
                self._shared[key] = left
                if not left:
                    del self._shared[key]
        if alone:
            shared.link.close()
        return alone


def _wait_for(opening: Future[None], name: str) -> None:
    """Return when somebody else has opened a connection; their error, in our name, when they could not."""
    try:
        error = opening.exception(timeout=GATE_S)
    except TimeoutError:
        return
    if isinstance(error, DeviceError):
        owner, colon, rest = error.message.partition(": ")
        message = f"{name}{colon}{rest}" if colon and owner.startswith("jump host ") else error.message
        raise DeviceError(message, hint=error.hint, detail=error.detail, retryable=error.retryable) from error


GATES = Gates(MAX_HANDSHAKES)
BASTIONS = Bastions()
