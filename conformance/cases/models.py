"""The list of models."""

import asyncio

import openai

from conformance.cases import case
from conformance.target import Target, good, need, same

LIST = "endpoint.GET /v1/models"
ONE = "endpoint.GET /v1/models/{model}"


@case("openai.types.Model", shows=[LIST])
async def the_list_has_models(target: Target) -> None:
    """The list holds models with id, owner and time, each id once."""
    ids = [model["id"] for model in good(await target.send("GET", "/v1/models"), "models")["data"]]
    need(ids and len(ids) == len(set(ids)), f"ids {ids}")


@case("clients sort and compare by it", shows=[LIST])
async def created_does_not_change(target: Target) -> None:
    """A model's created is the same from call to call."""
    first, second = [good(await target.send("GET", "/v1/models"), "models") for _ in range(2)]
    same(first, second, "the second list")


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


@case("a model that was asked", shows=[LIST, "behaviour.context_length"], uses=["chat/plain"], scripted=True)
async def sizes_are_told_once_they_are_known(target: Target) -> None:
    """After an answer the list says of its model how much context and how long an answer it takes."""
    await target.whole(target.body("chat/plain"))
    for _ in range(50):
        models = good(await target.send("GET", "/v1/models"), "models")["data"]
        found = [model for model in models if model["id"] == "opus" and "context_length" in model]
        if found:
            need(found[0]["context_length"] >= found[0]["max_completion_tokens"] > 0, f"sizes {found[0]}")
            return
        await asyncio.sleep(0.05)
    need(False, "no context_length for opus")
