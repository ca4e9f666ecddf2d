"""Tells people of an alert, through the notifiers that Airflow's providers have.

Each message is built here as it is to be read, and `notify` is called directly: called as a function, a notifier would
render its texts as Jinja templates first, and a text of an alert, such as a value of a column, must not be one.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, Final

from perennial.errors import TerminalError
from perennial.spec.monitoring import EmailNotice, Notice, SlackNotice

if TYPE_CHECKING:
    from airflow.sdk.bases.notifier import BaseNotifier

    from perennial.alert_delivery import AlertMessage

TIMEOUT_S: Final = 20
_PACKAGES: Final = {"slack": "slack", "email": "smtp", "webhook": "http"}


def tell(notice: Notice, message: AlertMessage, context: Mapping[str, Any]) -> None:
    """Send the message; whatever the provider raises leaves as it is.

    Raises:
        TerminalError: the provider's package is not installed.
    """
    notifier_for(notice, message).notify(context)


def notifier_for(notice: Notice, message: AlertMessage) -> BaseNotifier:
    """The provider's notifier, with the message.

    Raises:
        TerminalError: the provider's package is not installed.
    """
    try:
        if isinstance(notice, SlackNotice):
            return _slack(notice, message)
        return _email(notice, message) if isinstance(notice, EmailNotice) else _webhook(notice.connection, message)
    except ModuleNotFoundError as error:
        package = f"apache-airflow-providers-{_PACKAGES[notice.kind]}"
        raise TerminalError(f"monitoring.notify: kind {notice.kind} needs the package {package}") from error


def _slack(notice: SlackNotice, message: AlertMessage) -> BaseNotifier:
    from airflow.providers.slack.notifications.slack import SlackNotifier

    # Slack's own three; a `<!channel>` in a value would else call everybody.
    text = "\n".join(escape(line, quote=False) for line in (f"*{message.title}*", *message.lines))
    return SlackNotifier(
        slack_conn_id=notice.connection,
        channel=notice.channel,
        text=text,
        username="Perennial",
        timeout=TIMEOUT_S,
        unfurl_links=False,
    )


def _email(notice: EmailNotice, message: AlertMessage) -> BaseNotifier:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    # A line break in a subject would begin another header.
    subject = " ".join(f"{message.title}: {message.alert.summary}".split())
    content = "".join(f"<p>{escape(line)}</p>" for line in message.lines)
    return SmtpNotifier(smtp_conn_id=notice.connection, to=list(notice.to), subject=subject[:200], html_content=content)


def _webhook(connection: str, message: AlertMessage) -> BaseNotifier:
    from airflow.providers.http.notifications.http import HttpNotifier

    return HttpNotifier(
        http_conn_id=connection, json=message.to_dict(), extra_options={"timeout": TIMEOUT_S, "check_response": True}
    )
