"""Alerts on their way: a real HTTP receiver and a real mail server, both away at times; each alert arrives once."""

import email
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from email import policy
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.database import Database

from alerting import digests
from alerting.alerts import Alert, Kind, raise_alerts
from alerting.channels import chosen_channels
from alerting.digests import DigestOutcome, deliver
from meter_assets_tests.alert_support import NOW, SECRET, Mailbox, mail_server, minutes, receiving
from meter_assets_tests.support import free_ports
from metering.errors import MetersError
from metering.settings import LOOPBACK, Settings, load_settings
from metering.store import ALERTS, ensure_collections

PASSWORD = "a-password-of-the-test"  # noqa: S105 - it opens nothing


@pytest.fixture
def alerts(database: Settings) -> Iterator[Database]:
    with MongoClient(database.mongo, tz_aware=True) as client:
        own = client[database.mongo_database]
        ensure_collections(own)
        yield own


def webhook(settings: Settings, url: str, **changes: Any) -> Settings:
    """Settings that send by webhook."""
    chosen = {"alert_channels": "webhook", "webhook_url": SecretStr(url), "webhook_secret": SecretStr(SECRET)}
    return settings.model_copy(update={**chosen, **changes})


def mail(settings: Settings, port: int, **changes: Any) -> Settings:
    """Settings that send by mail."""
    chosen = {
        "alert_channels": "email",
        "smtp_host": LOOPBACK,
        "smtp_port": port,
        "smtp_starttls": False,
        "alert_mail_from": "meters@example.org",
        "alert_mail_to": "duty@example.org, boss@example.org",
    }
    return settings.model_copy(update={**chosen, **changes})


def note(about: object, text: str = "e-1 says nothing") -> Alert:
    return Alert(Kind.METER_SILENT, str(about), "e-1", "warning", text, {"last_sign_at": NOW})


def send(database: Database, settings: Settings, now: datetime = NOW) -> DigestOutcome:
    (channel,) = chosen_channels(settings)
    return deliver(database, channel, now)


def send_until_settled(
    database: Database, settings: Settings, now: datetime
) -> tuple[DigestOutcome, list[float], datetime]:
    """Send, and again whenever it is time to; returns how it ended, the waits in seconds, and the time of the end."""
    waits = []
    while (outcome := send(database, settings, now)).next_try_at:
        waits.append((outcome.next_try_at - now).total_seconds())
        now = outcome.next_try_at
    return outcome, waits, now


def states(database: Database, channel: str) -> list[str]:
    return [alert["channels"][channel]["state"] for alert in database[ALERTS].find().sort("_id", 1)]


def test_a_webhook_that_is_away_gets_each_alert_once_under_one_delivery_id(alerts: Database, database: Settings):
    with receiving(failures=3) as (url, receiver):
        settings = webhook(database, url)
        raise_alerts(alerts, settings, [note(number) for number in range(5)], NOW)
        first = send(alerts, settings)
        assert (first.waiting, first.error) == (5, f"{LOOPBACK} answered 503")
        assert first.next_try_at == NOW + timedelta(seconds=10)
        # News that come meanwhile are another digest: this one stays what it was when it was first sent.
        raise_alerts(alerts, settings, [note("later")], NOW)
        assert send(alerts, settings, NOW + timedelta(seconds=9)).waiting == 5
        assert len(receiver.posts) == 1
        outcome, waits, now = send_until_settled(alerts, settings, NOW + timedelta(seconds=10))
        assert waits == [20, 40]
        assert outcome.sent == 5
        assert send(alerts, settings, now).sent == 1
        assert send(alerts, settings, now).sent == 0
    assert [status for _, status in receiver.posts] == [503, 503, 503, 204, 204]
    first_digest = {name for name, _ in receiver.posts[:4]}
    assert len(first_digest) == 1
    assert receiver.posts[4][0] not in first_digest
    assert receiver.ids == [*(f"meter_silent|{number}" for number in range(5)), "meter_silent|later"]
    assert receiver.accepted[0][0] == {
        "id": "meter_silent|0",
        "short_id": receiver.accepted[0][0]["short_id"],
        "kind": "meter_silent",
        "subject": "e-1",
        "severity": "warning",
        "text": "e-1 says nothing",
        "details": {"last_sign_at": "2024-05-27T12:00:00Z"},
        "created_at": "2024-05-27T12:00:00Z",
    }
    assert states(alerts, "webhook") == ["sent"] * 6


def test_a_digest_sent_again_after_a_crash_has_the_same_id(alerts: Database, database: Settings, monkeypatch):
    """The process ends between the receiver's yes and our note of it."""
    with receiving() as (url, receiver):
        settings = webhook(database, url)
        raise_alerts(alerts, settings, [note(1), note(2)], NOW)
        with monkeypatch.context() as crash:
            crash.setattr(digests, "_note", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                send(alerts, settings)
        raise_alerts(alerts, settings, [note(3)], NOW)
        assert send(alerts, settings, NOW + minutes(3)).sent == 2
    assert receiver.posts[0] == receiver.posts[1]
    assert receiver.accepted[0] == receiver.accepted[1]


def test_two_processes_send_each_alert_once(alerts: Database, database: Settings):
    with receiving() as (url, receiver):
        settings = webhook(database, url)
        together = threading.Barrier(4)

        def compete(_: int) -> int:
            with MongoClient(settings.mongo, tz_aware=True) as client:
                own = client[settings.mongo_database]
                together.wait()
                return sum(send(own, settings).sent for _ in range(3))

        for number in range(10):
            raise_alerts(alerts, settings, [note(f"{number}-{each}") for each in range(20)], NOW)
            with ThreadPoolExecutor(4) as pool:
                assert sum(pool.map(compete, range(4))) == 20
    assert len(receiver.ids) == len(set(receiver.ids)) == 200


def test_a_lease_of_a_process_that_died_runs_out(alerts: Database, database: Settings):
    with receiving() as (url, receiver):
        settings = webhook(database, url)
        raise_alerts(alerts, settings, [note(1)], NOW)
        assert digests._lease(alerts, "webhook", "gone", NOW)
        assert send(alerts, settings, NOW + minutes(1)).sent == 0
        assert send(alerts, settings, NOW + minutes(3)).sent == 1
    assert len(receiver.posts) == 1


def test_waits_are_capped_and_after_a_day_the_alert_is_given_up(alerts: Database, database: Settings, monkeypatch):
    monkeypatch.setattr(digests, "MAX_ATTEMPTS", 9)
    settings = webhook(database, f"http://{LOOPBACK}:{free_ports(1)[0]}/")
    raise_alerts(alerts, settings, [note(1)], NOW)
    outcome, waits, _ = send_until_settled(alerts, settings, NOW)
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600]
    assert (outcome.failed, outcome.error) == (1, f"no answer from {LOOPBACK} (ConnectionError)")
    assert states(alerts, "webhook") == ["failed"]


def test_a_wrong_key_is_refused_and_no_secret_is_stored(alerts: Database, database: Settings):
    with receiving() as (url, _):
        settings = webhook(database, url, webhook_secret=SecretStr("another-key"))
        raise_alerts(alerts, settings, [note(1)], NOW)
        assert send(alerts, settings).error == f"{LOOPBACK} answered 401"
    assert send(alerts, settings, NOW + minutes(1)).waiting == 1
    stored = str(alerts[ALERTS].find_one())
    assert "no answer" in stored
    assert not [secret for secret in ("another-key", "token-in-the-path") if secret in stored]


def test_a_mail_server_that_refuses_for_a_while_gets_one_plain_mail(alerts: Database, database: Settings):
    mailbox = Mailbox(failures=2)
    with mail_server(mailbox) as port:
        settings = mail(database, port)
        hostile = "<script>alert(1)</script> ünï\nBcc: all@example.org"
        raise_alerts(alerts, settings, [note(1, hostile), note(2)], NOW)
        outcome = send(alerts, settings)
        assert outcome.error == f"{LOOPBACK} did not take the mail (SMTPDataError 451)"
        assert send(alerts, settings, NOW + timedelta(seconds=10)).waiting == 2
        assert send(alerts, settings, NOW + timedelta(seconds=30)).sent == 2
        assert send(alerts, settings, NOW + minutes(60)).sent == 0
    (envelope,) = mailbox.mails
    assert envelope.rcpt_tos == ["duty@example.org", "boss@example.org"]
    message = email.message_from_bytes(envelope.content, policy=policy.default)
    assert message["Subject"] == "[meters] 2 alerts: 2 meter silent"
    assert message.get_content_type() == "text/plain"
    assert "<script>alert(1)</script> ünï Bcc: all@example.org" in message.get_content()
    assert message["Bcc"] is None


@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # that this server does so is the test's own business
def test_a_login_that_fails_tells_no_password(alerts: Database, database: Settings):
    def judge(server: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> AuthResult:
        return AuthResult(success=login.password == PASSWORD.encode(), handled=False)

    mailbox = Mailbox()
    with mail_server(mailbox, authenticator=judge, auth_require_tls=False, auth_required=True) as port:
        settings = mail(database, port, smtp_user="meters", smtp_password=SecretStr("wrong-password"))
        raise_alerts(alerts, settings, [note(1)], NOW)
        outcome = send(alerts, settings)
        assert outcome.error == f"{LOOPBACK} did not take the mail (SMTPAuthenticationError 535)"
        assert "wrong-password" not in str(alerts[ALERTS].find_one())
        right = settings.model_copy(update={"smtp_password": SecretStr(PASSWORD)})
        assert send(alerts, right, NOW + minutes(1)).sent == 1
    assert len(mailbox.mails) == 1


def test_a_server_without_encryption_gets_no_mail_where_encryption_is_set(alerts: Database, database: Settings):
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        settings = mail(database, port, smtp_starttls=True)
        raise_alerts(alerts, settings, [note(1)], NOW)
        assert send(alerts, settings).error == f"{LOOPBACK} did not take the mail (SMTPNotSupportedError)"
    assert mailbox.tries == 0


def test_ten_thousand_alerts_are_one_mail_and_one_post(alerts: Database, database: Settings):
    mailbox = Mailbox()
    with receiving() as (url, receiver), mail_server(mailbox) as port:
        settings = mail(webhook(database, url), port, alert_channels="webhook,email")
        raise_alerts(alerts, settings, [note(f"{number:05}") for number in range(10_000)], NOW)
        assert [deliver(alerts, channel, NOW).sent for channel in chosen_channels(settings)] == [10_000, 10_000]
    assert [len(digest) for digest in receiver.accepted] == [10_000]
    assert len(mailbox.mails) == 1
    assert b"and 9,800 more" in mailbox.mails[0].content


def test_the_log_gets_a_line_an_alert(alerts: Database, database: Settings, caplog):
    with caplog.at_level(logging.WARNING, logger="meters.alerts"):
        raise_alerts(alerts, database, [note(1), note(2)], NOW)
        assert send(alerts, database).sent == 2
    assert [record.message.split(maxsplit=1)[1] for record in caplog.records] == ["warning   e-1 says nothing"] * 2


def test_one_channel_that_is_away_does_not_hold_up_another(alerts: Database, database: Settings):
    settings = webhook(database, f"http://{LOOPBACK}:{free_ports(1)[0]}/", alert_channels="webhook,log")
    raise_alerts(alerts, settings, [note(1)], NOW)
    away, log = (deliver(alerts, channel, NOW) for channel in chosen_channels(settings))
    assert (away.waiting, log.sent) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"alert_channels": "webhook"}, "METERS_WEBHOOK_URL"),
        ({"alert_channels": "webhook", "webhook_url": SecretStr("http://x")}, "METERS_WEBHOOK_SECRET"),
        ({"alert_channels": "log,email"}, "METERS_SMTP_HOST"),
    ],
)
def test_a_channel_without_its_settings_is_one_line(settings: Settings, changes: dict, needs: str):
    with pytest.raises(MetersError, match=needs):
        chosen_channels(settings.model_copy(update=changes))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("METERS_ALERT_CHANNELS", "log,pigeon"),
        ("METERS_WEBHOOK_URL", "file:///etc/secret-file"),
        ("METERS_WEBHOOK_URL", "https:///no-host-secret"),
    ],
)
def test_an_impossible_setting_is_one_line_without_its_secret(monkeypatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    try:
        with pytest.raises(MetersError, match=name) as raised:
            load_settings()
    finally:
        monkeypatch.undo()
        load_settings.cache_clear()
    assert "secret" not in str(raised.value)


def test_secrets_reach_child_processes_and_nobody_else(settings: Settings, monkeypatch):
    chosen = webhook(settings, "https://example.org/token", smtp_password=SecretStr(PASSWORD))
    for name, value in chosen.environment().items():
        monkeypatch.setenv(name, value)
    child = Settings()
    assert child == chosen
    assert child.smtp_password == SecretStr(PASSWORD)
    for shown in (repr(child), str(child), child.model_dump_json()):
        assert not [secret for secret in (PASSWORD, SECRET, "token") if secret in shown]
