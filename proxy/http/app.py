"""The application: routes, access control, errors, and the edge around them."""

from __future__ import annotations

import falcon
import falcon.asgi

from proxy.http.absent import ABSENT, Absent
from proxy.http.chat import ChatCompletions
from proxy.http.completions import LegacyCompletions
from proxy.http.edge import App, Edge
from proxy.http.errors import on_bug, on_http_error, on_rejection
from proxy.http.guard import AccessControl
from proxy.http.health import HealthCheck
from proxy.http.metrics import MetricsPage
from proxy.http.models import Models, OneModel
from proxy.http.openapi import Docs, OpenApi
from proxy.http.quota import KeyQuota
from proxy.http.service import Service
from proxy.http.usage import RecentRequests, UsageSummary
from proxy.protocol.failures import Rejection


def create_app(service: Service) -> App:
    """The ASGI application for `service`."""
    app = falcon.asgi.App(middleware=[AccessControl(service.settings, service.keyring)])
    app.add_middleware(KeyQuota(service.keyring, service.accounts.ledger))
    app.add_middleware(service.accounts)
    app.req_options.strip_url_path_trailing_slash = True
    app.add_error_handler(Exception, on_bug)
    app.add_error_handler(falcon.HTTPError, on_http_error)
    app.add_error_handler(Rejection, on_rejection)
    app.add_route("/v1/chat/completions", ChatCompletions(service))
    app.add_route("/v1/completions", LegacyCompletions(service))
    app.add_route("/v1/models", Models(service))
    app.add_route("/v1/models/{model_id:path}", OneModel(service))
    app.add_route("/v1/usage", UsageSummary(service))
    app.add_route("/v1/usage/recent", RecentRequests(service))
    app.add_route("/metrics", MetricsPage(service.accounts.metrics))
    app.add_route("/health", HealthCheck(service))
    app.add_route("/openapi.json", OpenApi(service))
    app.add_route("/docs", Docs(service))
    for path, words in ABSENT.items():
        app.add_sink(Absent(words), f"{path}(?:/.*)?$")
    return Edge(app, service.accounts, service.settings.client_timeout)
