"""Who is to be told of what, and the bytes that they get."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rollouts.controller.notification_messages import render, signature_headers
from rollouts.controller.notification_settings import (
    BUILT_IN_TRIGGERS,
    SUBSCRIBE_PREFIX,
    NotificationError,
    ReceiverType,
    parse_notifications,
)
from rollouts.controller.settings import Settings, SettingsError, read_config
from rollouts.engine.rollout_status import Notice
from rollouts.runtime.objects import ObjectKey

KEY = ObjectKey("team-a", "mymodel")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "receivers": {
        "channel": {"type": "slack", "urlFile": "/etc/url"},
        "audit": {
            "url": "https://audit.example/x",
            "namespaces": ["team-a"],
            "perMinute": 60,
            "timeout": "5s",
        },
    },
    "triggers": {"on-gate-held": {"phases": ["Paused"], "reasons": ["GateFailed"]}},
    "subscriptions": [{"receivers": ["audit"], "triggers": ["on-aborted"]}],
}


def notice(message: str = "it is worse", phase: str = "Aborted") -> Notice:
    return Notice(
        id="0" * 32,
        trigger="on-aborted",
        receiver="channel",
        phase=phase,
        reason="GateFailed",
        message=message,
        attempt=3,
        at=NOW,
        stable="v1 (aaaaaaaa)",
        canary="v2 (bbbbbbbb)",
    )


# --- configuration ---------------------------------------------------------------------------------


def asked(namespace: str, *names: str) -> tuple[set[tuple[str, str]], tuple[str, ...]]:
    annotations = {f"{SUBSCRIBE_PREFIX}{name}": "" for name in names}
    found = parse_notifications(GOOD).asked(namespace, {"other": "x", **annotations})
    return {(trigger.name, receiver) for trigger, receiver in found.pairs}, found.unknown


def test_a_rollout_is_subscribed_by_its_annotations_and_by_the_administrator():
    assert asked("team-a", "on-promoted.channel", "on-gate-held.audit") == (
        {("on-promoted", "channel"), ("on-gate-held", "audit"), ("on-aborted", "audit")},
        (),
    )
    assert asked("team-b") == (set(), ())  # the receiver is for team-a, whoever subscribes


@pytest.mark.parametrize(
    ("namespace", "name", "says"),
    [
        ("team-a", "on-abort.channel", "no trigger 'on-abort'; there are on-aborted, on-gate-held"),
        ("team-a", "on-aborted.chanel", "no receiver 'chanel'; there are audit, channel"),
        ("team-b", "on-aborted.audit", "no receiver 'audit'; there are channel"),
        ("team-a", "on-aborted", "no receiver ''"),
    ],
)
def test_a_subscription_that_nothing_comes_of_says_why(namespace, name, says):
    pairs, (text,) = asked(namespace, name)
    assert says in text
    assert name in text
    assert pairs <= {("on-aborted", "audit")}


@pytest.mark.parametrize("annotations", [None, "x", ["a"], {1: 2}, {"x": None}])
def test_annotations_of_any_shape_are_read(annotations):
    assert parse_notifications(GOOD).asked("team-b", annotations).pairs == ()


def changed(path: str, value: Any) -> Any:
    data = yaml.safe_load(yaml.safe_dump(GOOD))
    *outer, last = path.split("/")
    place = data
    for name in outer:
        place = place[int(name) if isinstance(place, list) else name]
    place[int(last) if isinstance(place, list) else last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("recievers", {}, "notifications: unknown: recievers; there are receivers, subscriptions, triggers"),
        ("receivers", [], "notifications.receivers: must map names"),
        ("receivers/Bad_Name", {}, "a name has at most 30 lower-case letters, digits and dashes"),
        ("receivers/audit/url", "", "exactly one of url and urlFile"),
        ("receivers/audit/urlFile", "/etc/x", "exactly one of url and urlFile"),
        ("receivers/audit/url", "ftp://x", "must be http:// or https:// with a host"),
        ("receivers/audit/url", "https://me:pa55@x/", "no credentials in the URL"),
        ("receivers/audit/url", 5, "are text"),
        ("receivers/audit/type", "email", "'email' is not a valid ReceiverType"),
        ("receivers/audit/timeout", "2m", "at most 60 s"),
        ("receivers/audit/timeout", "soon", "notifications.receivers.audit: "),
        ("receivers/audit/perMinute", 0, "whole number from 1 to 6000"),
        ("receivers/audit/perMinute", True, "whole number from 1 to 6000"),
        ("receivers/audit/namespaces", "team-a", "must be a list of names"),
        ("triggers/on-gate-held/phases", ["Pausd"], "no phase 'Pausd'; there are Healthy"),
        ("triggers/on-gate-held/reasons", ["Gate"], "no reason 'Gate', see docs/troubleshooting.md"),
        ("triggers/on-gate-held", {}, "needs phases or reasons"),
        ("subscriptions", {"receivers": []}, "must be a list of at most 32"),
        ("subscriptions/0/receivers", ["nobody"], "no receiver 'nobody'; there are audit, channel"),
        ("subscriptions/0/triggers", [], "an entry needs triggers"),
        ("subscriptions/0/namespace", "x", "unknown: namespace"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(path, value, says):
    with pytest.raises(NotificationError) as raised:
        parse_notifications(changed(path, value))
    assert says in str(raised.value)
    assert "pa55" not in str(raised.value)


def test_the_configuration_file_has_them(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"notifications": GOOD}))
    settings = read_config(str(file), Settings())
    assert settings.notifications.receivers["channel"].type is ReceiverType.SLACK
    assert settings.notifications.receivers["audit"].timeout == 5.0
    assert set(settings.notifications.triggers) == {*BUILT_IN_TRIGGERS, "on-gate-held"}
    file.write_text(yaml.safe_dump({"notifications": {"receivers": {"x": {}}}}))
    with pytest.raises(SettingsError, match=r"config\.yaml: notifications\.receivers\.x"):
        read_config(str(file), Settings())


# --- messages --------------------------------------------------------------------------------------


def test_a_webhook_gets_a_cloud_event():
    message = render(ReceiverType.WEBHOOK, KEY, "u-1", notice())
    assert message.content_type == "application/cloudevents+json; charset=utf-8"
    assert json.loads(message.body) == {
        "specversion": "1.0",
        "id": "0" * 32,
        "source": "/apis/inferencerollouts.dev/v1alpha1/namespaces/team-a/rollouts/mymodel",
        "type": "dev.inferencerollouts.rollout.aborted",
        "subject": "team-a/mymodel",
        "time": "2026-01-01T12:00:00Z",
        "datacontenttype": "application/json",
        "data": {
            "namespace": "team-a",
            "name": "mymodel",
            "uid": "u-1",
            "trigger": "on-aborted",
            "phase": "Aborted",
            "reason": "GateFailed",
            "message": "it is worse",
            "attempt": 3,
            "stable": "v1 (aaaaaaaa)",
            "canary": "v2 (bbbbbbbb)",
        },
    }


def slack(message: str, phase: str = "Aborted") -> str:
    return str(json.loads(render(ReceiverType.SLACK, KEY, "u", notice(message, phase)).body)["text"])


def test_slack_gets_the_message_in_a_code_block():
    assert slack("ttft +93 % & worse") == "team-a/mymodel: Aborted\n```\nttft +93 % &amp; worse\n```"


@given(st.text(max_size=300))
def test_no_text_of_a_tenant_is_markup(text):
    lines = slack(text, phase=text[:50]).split("\n")
    assert len(lines) == 4
    assert (lines[1], lines[3]) == ("```", "```")
    for line in (lines[0], lines[2]):
        assert "`" not in line
        assert "<" not in line
        assert ">" not in line
        assert all(char.isprintable() for char in line)
    shown = lines[2].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert shown == "".join(char if char.isprintable() else " " for char in text).replace("`", "'")


def test_links_mentions_and_blocks_of_a_tenant_stay_text():
    text = slack("<!channel> <https://evil.example|promote> ```*x* [a](http://b) @here\n>quote")
    assert text.split("\n")[2] == (
        "&lt;!channel&gt; &lt;https://evil.example|promote&gt; '''*x* [a](http://b) @here &gt;quote"
    )


# --- signatures ------------------------------------------------------------------------------------

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_signature_is_that_of_standard_webhooks():
    """The value is what `standardwebhooks` 1.0 (PyPI) signs: Webhook(SECRET).sign(id, at, body)."""
    at = datetime.fromtimestamp(1614265330, UTC)
    headers = signature_headers([SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_secret_of_a_change_signs_and_none_signs_nothing():
    both = signature_headers([SECRET, "plain"], "i", NOW, b"x")["webhook-signature"].split()
    assert both[0] == signature_headers([SECRET], "i", NOW, b"x")["webhook-signature"]
    assert both[1] == signature_headers(["plain"], "i", NOW, b"x")["webhook-signature"]
    assert "webhook-signature" not in signature_headers([], "i", NOW, b"x")
    with pytest.raises(ValueError, match="goes on in base64"):
        signature_headers(["whsec_not base64"], "i", NOW, b"x")
