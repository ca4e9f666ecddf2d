"""From a request to its answer, whatever the web framework: who sends, how often, what it says, what became of it."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from perennial.domain.alert import Alert, Fate
from perennial.errors import (
    AlertConflictError,
    PerennialError,
    RequestError,
    SpecError,
    StoreUnavailableError,
    TransientError,
)
from perennial.spec.model import ModelSpec
from perennial.stages.alerts import Received, receive, tick
from perennial_airflow.webhook import alertmanager, cloudevents, grafana, mlflow, native, sns
from perennial_airflow.webhook.authentication import Credentials, NotAuthenticatedError, Sender, authenticate
from perennial_airflow.webhook.bodies import parse_json
from perennial_airflow.webhook.rate_limit import RateLimit
from perennial_airflow.webhook.signals import BadMessageError, Signal, cleaned
from perennial_airflow.webhook.sns_signature import NOTIFICATION, SnsVerifier
from perennial_airflow.webhook.world import CREDENTIALS_S, WORLD_S, Kept, Specs, World, build_world, load_credentials

log = logging.getLogger(__name__)

RETRY_AFTER_S: Final = 5
GO_ON_S: Final = 10.0
"""For so many seconds a message's alerts are gone on with after something did not answer for one of them."""
_MODEL: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_STATUS: Final = {Fate.STARTED: 202, Fate.DEFERRED: 202, Fate.COALESCED: 200, Fate.REFUSED: 409}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request, read."""

    headers: Sequence[tuple[str, str]]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the sender gets, as JSON."""

    status: int
    content: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class _RefusedError(Exception):
    """Carries the answer to a request that gets no further."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answer = Answer(status=status, content={"message": message}, headers=named)
        super().__init__(message)


Reader = Callable[[Message, Sender], list[Signal]]
READERS: Final[Mapping[str, Reader]] = {
    "alertmanager": lambda message, _: alertmanager.read(parse_json(message.body)),
    "grafana": lambda message, _: grafana.read(parse_json(message.body)),
    "cloudevents": lambda message, sender: cloudevents.read(message.headers, message.body, signed=sender.signed),
    "mlflow": lambda message, sender: mlflow.read(parse_json(message.body), sender.message_id),
}
"""Of the forms that are authenticated by their headers."""


class Webhook:
    """Answers messages. One for each process of the API server; its methods may be called by many threads."""

    def __init__(
        self,
        *,
        credentials: Callable[[], Credentials] | None = None,
        world: Callable[[], World] | None = None,
        sns_verifier: SnsVerifier | None = None,
        rate_limit: RateLimit | None = None,
    ) -> None:
        self._credentials = credentials or Kept(load_credentials, CREDENTIALS_S)
        self._world = world or Kept(build_world, WORLD_S)
        self._sns = sns_verifier or SnsVerifier()
        self._rate_limit = rate_limit or RateLimit()
        self._specs = Specs()

    def alert(self, message: Message) -> Answer:
        """`POST /alerts`: one alert in Perennial's own form."""

        def answer() -> Answer:
            sender = self._sender(message)
            signal = native.read(parse_json(message.body), sender.message_id)
            received = self._record(signal, sender)
            return Answer(status=_STATUS[received.outcome.fate], content=_told(received))

        return _guarded(answer)

    def forwarded(self, form: str, message: Message) -> Answer:
        """`POST /alerts/{form}`: any number of alerts, as another system sends them. 200 once all are recorded."""

        def answer() -> Answer:
            if form == "sns":
                return self._of_sns(message)
            sender = self._sender(message)
            return self._results(READERS[form](message, sender), sender)

        return _guarded(answer)

    def tick(self, message: Message) -> Answer:
        """`POST /tick`: let the model's deferred and interrupted alerts go on, if they are due."""

        def answer() -> Answer:
            self._sender(message)
            world = self._world()
            spec = self._spec(native.read_tick(parse_json(message.body)), world)
            found = tick(
                spec,
                store=world.store,
                root=world.root,
                ledger=world.ledger,
                starter=world.starter,
                clock=world.clock,
            )
            return Answer(status=200, content={"outcomes": [settled.outcome.to_dict() for settled in found]})

        return _guarded(answer)

    def _sender(self, message: Message) -> Sender:
        credentials = self._credentials()
        try:
            sender = authenticate(message.headers, message.body, credentials, self._now())
        except NotAuthenticatedError as error:
            raise _unknown(error) from None
        self._limit(sender, credentials)
        return sender

    def _limit(self, sender: Sender, credentials: Credentials) -> None:
        wait_s = self._rate_limit.wait_s(sender.name, credentials.requests_per_s)
        if wait_s:
            said = f"more than {credentials.requests_per_s:g} requests a second; try again later"
            raise _RefusedError(429, said, Retry_After=str(math.ceil(wait_s)))

    def _of_sns(self, message: Message) -> Answer:
        credentials = self._credentials()
        try:
            body = parse_json(message.body)
            self._sns.verify(body, credentials.sns_topics, self._now())
        except (BadMessageError, NotAuthenticatedError) as error:
            raise _unknown(error) from None
        sender = Sender(name=f"sns:{body['TopicArn'].rpartition(':')[2]}", signed=True)
        self._limit(sender, credentials)
        if body["Type"] == NOTIFICATION:
            return self._results(sns.read(body), sender)
        if body["Type"] == "SubscriptionConfirmation" and not self._sns.confirm(body):
            raise BadMessageError("SubscribeURL is no address of SNS")
        return Answer(status=200, content={"results": [], "message": f"{body['Type']} taken note of"})

    def _results(self, signals: Sequence[Signal], sender: Sender) -> Answer:
        """Raises the last error, once all the others are recorded: the message comes again, and they with it."""
        results: list[dict[str, Any]] = []
        failed: PerennialError | None = None
        began = time.monotonic()
        for signal in signals:
            if isinstance(failed, TransientError) and time.monotonic() - began > GO_ON_S:
                break  # the sender would not wait for the rest to fail, too
            try:
                results.append(self._result(signal, sender))
            except PerennialError as error:
                log.warning("alert %r for %s: %s: %s", signal.alert_id, signal.model, type(error).__name__, error)
                failed = error
        if failed is not None:
            raise failed
        usable = not results or any(result["outcome"] or result["message"] == _NOTHING for result in results)
        return Answer(status=200 if usable else 422, content={"results": results})

    def _result(self, signal: Signal, sender: Sender) -> dict[str, Any]:
        """One of several: what is wrong with it keeps none of the others from being recorded."""
        nothing = {"model": signal.model, "id": signal.alert_id, "key": None, "outcome": None, "duplicate": False}
        if not signal.wanted:
            return {**nothing, "message": _NOTHING}
        try:
            received = self._record(signal, sender)
        except AlertConflictError as error:
            # It is the same alert for its sender: Alertmanager repeats one with annotations of the day.
            if error.outcome is None:
                raise TransientError(f"the alert {signal.alert_id} is being recorded; try again") from error
            return {**nothing, "outcome": error.outcome.to_dict(), "duplicate": True, "message": _OTHER}
        except _RefusedError as error:
            return {**nothing, "message": error.answer.content["message"]}
        except BadMessageError as error:
            return {**nothing, "message": str(error)}
        return {**_told(received), "message": ""}

    def _record(self, signal: Signal, sender: Sender) -> Received:
        world = self._world()
        if signal.model is None:
            raise BadMessageError("no model is named; give the alert the label or field perennial_model")
        spec = self._spec(signal.model, world)
        now = world.clock.now()
        try:
            alert = Alert(
                model=signal.model,
                alert_id=signal.alert_id,
                source=signal.source,
                summary=cleaned(signal.summary),
                raised_at=signal.raised_at or now,
                received_at=now,
                sender=sender.name,
                evidence=cleaned(signal.evidence),
            )
        except RequestError as error:
            raise BadMessageError(str(error)) from error
        return receive(
            alert,
            spec,
            store=world.store,
            root=world.root,
            ledger=world.ledger,
            starter=world.starter,
            clock=world.clock,
        )

    def _spec(self, model: str, world: World) -> ModelSpec:
        spec = self._specs.get(world.specs, model) if _MODEL.fullmatch(model) else None
        if spec is None:
            raise _RefusedError(404, "no such model")
        return spec

    def _now(self) -> datetime:
        return self._world().clock.now()


_NOTHING: Final = "nothing to do: it is over, or asks for nothing"
_OTHER: Final = "on record already, in other words"


def _guarded(answer: Callable[[], Answer]) -> Answer:
    """Every error as an answer; what is not on record is to be sent again (503)."""
    try:
        return answer()
    except _RefusedError as error:
        return error.answer
    except BadMessageError as error:
        return Answer(status=400, content={"message": str(error)})
    except AlertConflictError as error:
        return Answer(status=409, content={"message": str(error)})
    except PerennialError as error:
        level = logging.WARNING if isinstance(error, TransientError) else logging.ERROR
        log.log(level, "not answered: %s: %s", type(error).__name__, error)
        return come_again(_why(error))


def _why(error: PerennialError) -> str:
    """Not its text, which may name places."""
    if isinstance(error, SpecError):
        return "the model's spec is broken"
    if isinstance(error, StoreUnavailableError):
        return "the store does not answer"
    return f"not done, or not altogether ({type(error).__name__}); the API server's log says more"


def come_again(why: str) -> Answer:
    """What the sender is told to send again."""
    return Answer(status=503, content={"message": f"{why}; try again"}, headers={"Retry-After": str(RETRY_AFTER_S)})


def _unknown(reason: Exception) -> _RefusedError:
    log.info("a message was refused (401): %s", reason)
    return _RefusedError(401, "not authenticated", WWW_Authenticate="Bearer")


def _told(received: Received) -> dict[str, Any]:
    alert = received.alert
    return {
        "model": alert.model,
        "id": alert.alert_id,
        "key": alert.key,
        "outcome": received.outcome.to_dict(),
        "duplicate": received.duplicate,
    }
