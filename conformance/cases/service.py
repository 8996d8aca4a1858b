"""What a server says of itself: health, its description, its docs."""

import re

from conformance.cases import case
from conformance.target import Target, body_of, need, same


@case("README, endpoints", shows=["endpoint.GET /health"], scripted=True)
async def health_tells_the_state(target: Target) -> None:
    """/health tells status, versions, the login as far as it is known, and the processes."""
    body = body_of(await target.http.get("/health"))
    same({"status": "ok", "version": {"$matches": r"^\d"}, "cli_version": {"$matches": r"^\d"}}, body, "health")
    need({"waiting", "busy", "parked", "queued"} <= set(body["children"]), f"children {body['children']}")
    need("works" in body["login"], f"login {body['login']}")


@case("README, endpoints", shows=["endpoint.GET /health"], uses=["chat/plain"], scripted=True)
async def health_knows_of_the_last_answer(target: Target) -> None:
    """After a good answer /health knows that the login works, and since when."""
    await target.whole(target.body("chat/plain"))
    login = body_of(await target.http.get("/health"))["login"]
    need(login["last_success"] is not None, f"login {login}")


@case("RFC 9110, 9.3.2", shows=["endpoint.GET /health"], scripted=True)
async def head_is_get_without_a_body(target: Target) -> None:
    """HEAD gives what GET gives, without the body."""
    for path in ("/health", "/v1/models", "/openapi.json", "/docs"):
        answer = await target.send("HEAD", path)
        need(answer.status_code == 200 and not answer.content, f"{path}: {answer.status_code}, {len(answer.content)}")


@case("OpenAPI 3.2", shows=["endpoint.GET /openapi.json"], scripted=True)
async def it_describes_itself(target: Target) -> None:
    """/openapi.json describes the operations that this suite asks."""
    body = body_of(await target.send("GET", "/openapi.json"))
    same({"openapi": {"$matches": r"^3\."}}, body, "document")
    need(
        {"/v1/chat/completions", "/v1/models", "/v1/completions", "/health"} <= set(body["paths"]),
        f"paths {list(body['paths'])}",
    )


@case("README, endpoints", shows=["endpoint.GET /docs"], scripted=True)
async def it_can_be_read(target: Target) -> None:
    """/docs is a page that loads nothing from elsewhere."""
    answer = await target.send("GET", "/docs")
    need(answer.status_code == 200 and answer.headers["content-type"].startswith("text/html"), "no page")
    need(not re.search(r"<script|src=|<link", answer.text), "it loads something")
