"""The list of models."""

import asyncio
import json
from typing import Any

import openai
from anthropic.types import ModelInfo
from pydantic import TypeAdapter

from conformance.cases import case
from conformance.target import Target, good, need, same

LIST = "endpoint.GET /v1/models"
ONE = "endpoint.GET /v1/models/{model}"
MODEL_INFO: TypeAdapter[Any] = TypeAdapter(ModelInfo)


# How long sizes may be on their way: the server asks a process of its own for them, and lists models without meanwhile.
PATIENCE = 60.0


async def sized(target: Target) -> list[dict[str, Any]]:
    """The list of models once it has their sizes, which come one by one; the last one that came if it never has."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while True:
        models: list[dict[str, Any]] = good(await target.send("GET", "/v1/models"), "models")["data"]
        known = all("context_length" in model for model in models)
        if known or asyncio.get_running_loop().time() > end:
            return models
        await asyncio.sleep(0.1)


@case("openai.types.Model", shows=[LIST])
async def the_list_has_models(target: Target) -> None:
    """The list holds models with id, owner and time, each id once."""
    ids = [model["id"] for model in good(await target.send("GET", "/v1/models"), "models")["data"]]
    need(ids and len(ids) == len(set(ids)), f"ids {ids}")


@case("clients sort and compare by it", shows=[LIST])
async def created_does_not_change(target: Target) -> None:
    """A model's created is the same from call to call."""
    first, second = [good(await target.send("GET", "/v1/models"), "models")["data"] for _ in range(2)]
    made = [{model["id"]: model["created"] for model in models} for models in (first, second)]
    same(made[0], made[1], "the second list")


@case("openai-python, models.list and retrieve", shows=[LIST, ONE])
async def the_client_lists_and_retrieves(target: Target) -> None:
    """OpenAI's client lists the models and retrieves each by its id."""

    def ask() -> None:
        with target.client() as client:
            for model in client.models.list().data[:5]:
                need(client.models.retrieve(model.id).id == model.id, f"{model.id} comes back under another id")

    await asyncio.to_thread(ask)


@case("clients that put a provider before the name", shows=[ONE], scripted=True)
async def an_id_may_hold_a_slash(target: Target) -> None:
    """A model is found by an id with a slash, escaped or not."""
    for path in ("anthropic/claude-opus-4", "anthropic%2Fclaude-opus-4"):
        good(await target.send("GET", f"/v1/models/{path}"), "model")


@case("openai-python, NotFoundError", shows=[ONE])
async def a_name_that_means_nothing_is_not_found(target: Target) -> None:
    """A name that means no model is a 404 model_not_found, which the client raises as NotFoundError."""
    async with target.async_client() as client:
        try:
            await client.models.retrieve("no-such-model-1")
        except openai.NotFoundError as error:
            same("model_not_found", error.code, "code")
        else:
            need(False, "it was found")


@case("clients that fill a context up to its size", shows=[LIST, ONE, "behaviour.context_length"])
async def sizes_need_no_answer_first(target: Target) -> None:
    """List and model say how much context the latest Opus takes, before anything was asked."""
    listed = [model.get("context_length") for model in await sized(target) if model["id"] == "opus"]
    one = good(await target.send("GET", "/v1/models/opus"), "model")
    need(listed and listed[0] and listed[0] >= 100_000, f"sizes {listed}")
    same(listed[0], one["context_length"], "context_length of the one model")


@case("anthropic.types.ModelInfo, anthropic.pagination", shows=[LIST, ONE])
async def clients_of_anthropics_api_get_its_form(target: Target) -> None:
    """With the header `anthropic-version` the list comes in pages of that API's models, and one model as such."""
    await sized(target)
    headers = {"anthropic-version": "2023-06-01"}
    page = (await target.send("GET", "/v1/models?limit=2", headers=headers)).json()
    models = [MODEL_INFO.validate_json(json.dumps(model)) for model in page["data"]]
    same([models[0].id, models[-1].id, True], [page["first_id"], page["last_id"], page["has_more"]], "the page")
    rest = (await target.send("GET", f"/v1/models?after_id={page['last_id']}", headers=headers)).json()
    need(not {model["id"] for model in rest["data"]} & {model.id for model in models}, "a model on two pages")
    one = await target.send("GET", f"/v1/models/{models[0].id}", headers=headers)
    same(page["data"][0], one.json(), "the one model")


@case("a model that was asked", shows=[LIST, "behaviour.context_length"], uses=["chat/plain"], scripted=True)
async def sizes_are_told_once_they_are_known(target: Target) -> None:
    """After an answer the list says of its model how much context and how long an answer it takes."""
    await target.whole(target.body("chat/plain"))
    end = asyncio.get_running_loop().time() + PATIENCE
    while asyncio.get_running_loop().time() < end:
        models = good(await target.send("GET", "/v1/models"), "models")["data"]
        found = [model for model in models if model["id"] == "opus" and "max_completion_tokens" in model]
        if found:
            need(found[0]["context_length"] >= found[0]["max_completion_tokens"] > 0, f"sizes {found[0]}")
            return
        await asyncio.sleep(0.05)
    need(False, "no max_completion_tokens for opus")
