"""The application: routes, access control, errors, and the edge around them."""

from __future__ import annotations

import falcon
import falcon.asgi

from proxy.http.access import AccessControl
from proxy.http.edge import App, Edge
from proxy.http.errors import on_bug, on_http_error, on_rejection
from proxy.http.quota import KeyQuota
from proxy.http.routes import ROUTES, resource
from proxy.http.service import Service
from proxy.http.unsupported import UNSUPPORTED, Unsupported
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
    # One resource serves all methods of its path.
    for route in {route.path: route for route in ROUTES}.values():
        # A name may contain slashes.
        app.add_route(route.path.replace("{model}", "{model_id:path}"), resource(route, service))
    for path, words in UNSUPPORTED.items():
        app.add_sink(Unsupported(words), f"{path}(?:/.*)?$")
    return service.inspector.around(Edge(app, service.accounts, service.settings.client_timeout))
