"""What may be wrong with the way to a site, with its token, and with the site itself. Changes nothing.

Each look builds on those before it: a site that cannot be reached is not asked for more.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpx2
from msgspec import Struct

from nightcrew.engines.remote_link import TIMEOUT, Link
from nightcrew.errors import ConfigurationError, EngineError, NotAllowed
from nightcrew.health import Examination, Finding, Severity
from nightcrew.release import release
from nightcrew.remoting import DOCTOR, HEALTH, HELLO, LIVE, PROTOCOL, READY, Hello
from nightcrew.words import moment, span

DAY = 86_400.0
TOKEN_SOON = 7 * DAY
"""A token that ends within this is worth a word."""
CERTIFICATE_SOON = 14 * DAY
CLOCK_NOTED, CLOCK_WRONG = 5.0, 300.0
"""Seconds that the clocks may differ."""


class _Check(Struct, frozen=True):
    name: str
    ok: bool
    note: str = ""


class _Health(Struct, frozen=True):
    checks: list[_Check]


class RemoteDoctor:
    """Looks at a site from outside, and at its store through it, as far as the token of `link` may."""

    def __init__(self, link: Link, now: Callable[[], float] = time.time) -> None:
        # Without patience: what is not there now is what is to be told.
        self._link = link.hasty()
        self._now = now
        self._facts: dict[str, Any] = {}
        self._checks: list[str] = []
        self._findings: list[Finding] = []

    async def examine(self) -> Examination:
        """Make every check."""
        self._facts, self._checks, self._findings = {}, [], []
        try:
            usable = await self._reach() and await self._enter()
        finally:
            await self._link.close()
        return Examination(self._link.base, usable, self._facts, self._checks, self._findings)

    # from outside, without a token

    async def _reach(self) -> bool:
        """Whether there is a site that can be used."""
        self._checks.append("reach")
        async with httpx2.AsyncClient(
            timeout=TIMEOUT, follow_redirects=False, headers={"User-Agent": "nightcrew"}
        ) as client:
            began = self._now()
            try:
                live = await client.get(self._link.base + LIVE)
            except httpx2.TransportError as error:
                self._unreachable(error)
                return False
            ended = self._now()
            self._facts["seconds"] = round(ended - began, 3)
            self._tls(live)
            if live.status_code != HTTPStatus.OK or live.text.strip() != "ok":
                where = f", which leads to {live.headers.get('location', '')!r}" if live.is_redirect else ""
                self._wrong(
                    "reach",
                    f"there is no site of Nightcrew's at {self._link.base}: it answers {live.status_code}{where}",
                    "mind the path in NIGHTCREW_URL, and where the proxy sends it",
                    status=live.status_code,
                )
                return False
            self._clock(live, began, ended)
            return await self._ready(client)

    def _unreachable(self, error: httpx2.TransportError) -> None:
        refused: BaseException | None = error
        while refused is not None and not isinstance(refused, ssl.SSLError):
            refused = refused.__cause__ or refused.__context__
        if refused is None:
            self._wrong(
                "reach",
                f"{self._link.base} cannot be reached: {type(error).__name__}{f': {error}' if str(error) else ''}",
                "see that the site runs, that its name leads there, and that no firewall is in between",
            )
            return
        self._checks.append("tls")
        self._wrong(
            "tls",
            f"{self._link.base} cannot be trusted: {error}",
            "give the site a certificate for this name; for an authority of your own, set SSL_CERT_FILE here",
        )

    def _tls(self, answer: httpx2.Response) -> None:
        stream = answer.extensions.get("network_stream")
        secured = None if stream is None else stream.get_extra_info("ssl_object")
        if secured is None:
            return  # this machine itself: over the network, nothing else is allowed
        self._checks.append("tls")
        shown = secured.getpeercert() or {}
        self._facts["tls"] = secured.version()
        if "notAfter" not in shown:
            return
        end = float(ssl.cert_time_to_seconds(str(shown["notAfter"])))
        self._facts["certificate_ends_at"] = end
        left = end - self._now()
        if left < CERTIFICATE_SOON:
            self._note(
                "tls",
                f"the certificate of {self._link.base} ends in {span(left)}, on {moment(end)}",
                "renew it; SIGHUP has a site that adds TLS itself read it again",
            )

    def _clock(self, answer: httpx2.Response, began: float, ended: float) -> None:
        try:
            theirs = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
        except (ValueError, TypeError):
            return  # it says no time
        self._checks.append("clock")
        # It says whole seconds, and was written somewhere between asking and hearing.
        apart = theirs - ended if theirs > ended else max(began - theirs - 1.0, 0.0) * -1.0
        self._facts["clock"] = round(apart, 1)
        if abs(apart) < CLOCK_NOTED:
            return
        self._found(
            "clock",
            f"the clock of the site is {span(abs(apart))} {'ahead' if apart > 0 else 'behind'} of the one here",
            "have both set theirs by the network (NTP): times for jobs to run at are told by one and kept by the other",
            Severity.WRONG if abs(apart) >= CLOCK_WRONG else Severity.NOTE,
            seconds=round(apart, 1),
        )

    async def _ready(self, client: httpx2.AsyncClient) -> bool:
        self._checks.append("ready")
        try:
            ready = await client.get(self._link.base + READY)
            said = f"it answers {ready.status_code}"
        except httpx2.TransportError as error:
            ready, said = None, type(error).__name__
        if ready is not None and ready.status_code == HTTPStatus.OK:
            return True
        self._wrong(
            "ready",
            f"the site lives, and cannot use its job store ({said})",
            "look at its log; where it runs, `nightcrew doctor` on the URL of its store tells more",
        )
        return False

    # with the token

    async def _enter(self) -> bool:
        """Whether the token may look at what waits."""
        self._checks.append("token")
        try:
            hello = await self._link.ask("GET", HELLO, answer=Hello)
        except (NotAllowed, ConfigurationError) as error:
            self._wrong("token", str(error), "make one where the store is: `nightcrew tokens create`")
            return False
        except EngineError as error:
            self._wrong("token", str(error), "see that the proxy passes on everything below the site's path")
            return False
        self._token(hello)
        if not self._version(hello) or "read" not in hello.scopes:
            return False
        await self._health()
        if "operate" in hello.scopes:
            await self._store()
        return True

    def _token(self, hello: Hello) -> None:
        self._facts["token"] = {"name": hello.token, "scopes": hello.scopes, "ends_at": hello.ends_at}
        if hello.ends_at is not None and (left := hello.ends_at - self._now()) < TOKEN_SOON:
            self._note(
                "token",
                f"the token {hello.token!r} ends in {span(max(left, 0.0))}, on {moment(hello.ends_at)}",
                "make a new one (`nightcrew tokens create`), and put it in the place of this one",
            )

    def _version(self, hello: Hello) -> bool:
        """Whether the site and this program understand each other."""
        self._checks.append("version")
        ours = release()
        self._facts["version"] = hello.version
        if hello.protocol != PROTOCOL:
            self._wrong(
                "version",
                f"the site speaks version {hello.protocol} of what remote apps are told, and this one {PROTOCOL}",
                "update the older one of the two",
            )
            return False
        if hello.version != ours:
            self._note(
                "version",
                f"the site is of version {hello.version or 'unknown'}, and this is {ours or 'unknown'}",
                "they understand each other; update the older one when you can",
            )
        return True

    async def _health(self) -> None:
        self._checks.append("health")
        try:
            health = await self._link.ask("GET", HEALTH, answer=_Health)
        except (EngineError, NotAllowed) as error:
            self._wrong("health", str(error), "look at the site's log")
            return
        self._facts["health"] = {check.name: check.note or check.ok for check in health.checks}
        for check in health.checks:
            if not check.ok:
                self._note(
                    "health",
                    f"{check.name}: {check.note or 'does not answer'}",
                    "start a worker: `nightcrew worker module:app`"
                    if check.name == "workers"
                    else "look at the site's log",
                )

    async def _store(self) -> None:
        try:
            found = await self._link.ask("GET", DOCTOR, answer=Examination)
        except (EngineError, NotAllowed, ConfigurationError) as error:
            self._note("store", f"the store could not be looked at: {error}", "run the doctor where it is")
            return
        self._facts["store"] = {"name": found.store, **found.facts}
        self._checks += [f"store.{check}" for check in found.checks]
        for finding in found.findings:
            self._found(
                f"store.{finding.check}", finding.what, finding.advice, finding.severity, **finding.facts
            )

    # what was found

    def _wrong(self, check: str, what: str, advice: str, **facts: Any) -> None:
        self._found(check, what, advice, Severity.WRONG, **facts)

    def _note(self, check: str, what: str, advice: str, **facts: Any) -> None:
        self._found(check, what, advice, Severity.NOTE, **facts)

    def _found(self, check: str, what: str, advice: str, severity: Severity, **facts: Any) -> None:
        self._findings.append(Finding(check, what, advice, severity, facts))
