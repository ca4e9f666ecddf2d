"""Messages as the senders' public documentation gives them, with a model's name where theirs go.

Alertmanager: prometheus.io/docs/alerting/latest/configuration/#webhook_config · Grafana: its page "Configure webhook
notifications" · CloudEvents: bindings/http-protocol-binding.md and formats/json-format.md of its specification 1.0 ·
SNS: "HTTP/HTTPS notification JSON format", and a CloudWatch alarm's message · MLflow: mlflow.webhooks.types.
"""

from __future__ import annotations

import json
from typing import Any

ALERTMANAGER: dict[str, Any] = {
    "version": "4",
    "groupKey": '{}/{severity="critical"}:{alertname="PredictionsDrift"}',
    "truncatedAlerts": 0,
    "status": "firing",
    "receiver": "perennial",
    "groupLabels": {"alertname": "PredictionsDrift"},
    "commonLabels": {"alertname": "PredictionsDrift", "severity": "critical"},
    "commonAnnotations": {},
    "externalURL": "http://prometheus.example.org:9093",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "PredictionsDrift", "perennial_model": "toy", "severity": "critical"},
            "annotations": {"summary": "toy says yes twice as often", "description": "0.42, was 0.21"},
            "startsAt": "2026-03-01T11:08:45.828123456Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://admin:pass@prometheus.example.org:9090/graph?g0.expr=x",
            "fingerprint": "1a30ba71cca2921f",
        },
        {
            "status": "resolved",
            "labels": {"alertname": "PredictionsDrift", "perennial_model": "other", "severity": "critical"},
            "annotations": {},
            "startsAt": "2026-03-01T09:00:00Z",
            "endsAt": "2026-03-01T10:00:00Z",
            "generatorURL": "",
            "fingerprint": "2b30ba71cca2921f",
        },
    ],
}

GRAFANA: dict[str, Any] = {
    "receiver": "My Super Webhook",
    "status": "firing",
    "orgId": 1,
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "Error rate of toy", "model": "toy", "zone": "us-1"},
            "annotations": {
                "description": "The model has a high error rate",
                "runbook_url": "https://myrunbook.com/runbook/1234",
                "summary": "This alert was triggered for zone us-1",
            },
            "startsAt": "2026-03-01T12:51:03.157076+02:00",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "https://play.grafana.org/alerting/1afz29v7z/edit",
            "fingerprint": "c6eadffa33fcdf37",
            "silenceURL": "https://play.grafana.org/alerting/silence/new?alertmanager=grafana",
            "dashboardURL": "",
            "panelURL": "",
            "values": {"B": 44.23943737541908, "C": 1},
        }
    ],
    "groupLabels": {},
    "commonLabels": {"model": "toy"},
    "commonAnnotations": {},
    "externalURL": "https://play.grafana.org/",
    "version": "1",
    "groupKey": "{}:{}",
    "truncatedAlerts": 0,
    "title": "[FIRING:1]  (toy)",
    "state": "alerting",
    "message": "**Firing**",
}

CLOUD_EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "type": "com.example.drift",
    "source": "/monitoring/eu",
    "subject": "toy",
    "id": "A234-1234-1234",
    "time": "2026-03-01T11:31:00Z",
    "comexampleextension1": "value",
    "datacontenttype": "application/json",
    "data": {"message": "PSI of temp is 0.4", "psi": 0.4},
}

CLOUDWATCH_ALARM: dict[str, Any] = {
    "AlarmName": "toy-drift",
    "AlarmDescription": "PSI of the features",
    "AWSAccountId": "123456789012",
    "NewStateValue": "ALARM",
    "NewStateReason": "Threshold Crossed: 1 datapoint (0.4) was greater than the threshold (0.2).",
    "StateChangeTime": "2026-03-01T11:59:30.000+0000",
    "Region": "US East (N. Virginia)",
    "OldStateValue": "OK",
    "Trigger": {
        "MetricName": "psi",
        "Namespace": "models",
        "Dimensions": [{"value": "toy", "name": "perennial_model"}],
        "Threshold": 0.2,
    },
}

SNS_NOTIFICATION: dict[str, Any] = {
    "Type": "Notification",
    "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
    "TopicArn": "arn:aws:sns:us-east-1:123456789012:drift",
    "Subject": "ALARM: toy-drift",
    "Message": json.dumps(CLOUDWATCH_ALARM),
    "Timestamp": "2026-03-01T11:59:31.123Z",
    "UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe&SubscriptionArn=arn",
}

SNS_CONFIRMATION: dict[str, Any] = {
    "Type": "SubscriptionConfirmation",
    "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
    "Token": "2336412f37fb687f5d51e6e2425ba1f2",
    "TopicArn": "arn:aws:sns:us-east-1:123456789012:drift",
    "Message": "You have chosen to subscribe to the topic arn:aws:sns:us-east-1:123456789012:drift.",
    "SubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37fb687f5d51e6e2425ba1f2",
    "Timestamp": "2026-03-01T11:59:31.123Z",
}

MLFLOW_TAG_SET: dict[str, Any] = {
    "entity": "model_version_tag",
    "action": "set",
    "timestamp": "2026-03-01T11:59:00.123456+00:00",
    "data": {"name": "toy", "version": "3", "key": "perennial.alert", "value": "the new sensors read higher"},
}
