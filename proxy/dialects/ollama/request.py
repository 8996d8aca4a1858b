"""The bodies of Ollama's requests as types; they decode and describe them (`ollama._types` of the package `ollama`).

Fields that are not declared here have no effect, and are named: a client may be newer than they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Raw, Struct

from proxy.dialects.parameters import Ignored
from proxy.protocol.models import EFFORTS

Name = Annotated[str, Meta(min_length=1)]
# A model that has no name is none; one that ends with `:latest` is the one without.
Model = Annotated[str, Meta(pattern=r"\S", description="A name of `/api/tags`; any other means the latest Opus.")]
Level: Any = Literal[EFFORTS]
Images = list[Annotated[str, Meta(min_length=1, description="Base64: png, jpeg, gif or webp.")]]


class Options(Struct, frozen=True, kw_only=True):
    """`num_predict`: most tokens; 0, -1 and -2 mean no limit. `top_k` 0: none. All the others have no effect."""

    num_predict: Annotated[int, Meta(ge=-2)] | None = None
    stop: str | list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    embedding_only: Any = None
    f16_kv: Any = None
    frequency_penalty: Any = None
    logits_all: Any = None
    low_vram: Any = None
    main_gpu: Any = None
    min_p: Any = None
    mirostat: Any = None
    mirostat_eta: Any = None
    mirostat_tau: Any = None
    num_batch: Any = None
    num_ctx: Any = None
    num_gpu: Any = None
    num_keep: Any = None
    num_thread: Any = None
    numa: Any = None
    penalize_newline: Any = None
    presence_penalty: Any = None
    repeat_last_n: Any = None
    repeat_penalty: Any = None
    seed: Any = None
    tfs_z: Any = None
    typical_p: Any = None
    use_mlock: Any = None
    use_mmap: Any = None
    vocab_only: Any = None


class Asked(Struct, frozen=True, kw_only=True):
    """What both kinds of requests hold. `stream`: it is one unless this is false.

    `format`: `json`, or a JSON Schema. `think`: whether, or how much. `keep_alive`: seconds, or a duration as text.
    """

    model: Model
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Raw] | None = None
    think: bool | Level | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    logprobs: Any = None
    top_logprobs: Any = None
    truncate: Any = None
    shift: Any = None


class PastFunction(Struct, frozen=True):
    """`arguments`: an object; some clients send it as text."""

    name: Name
    arguments: dict[str, Raw] | str | None = None


class PastCall(Struct, frozen=True):
    """A call of an earlier answer. Most clients keep no id of it."""

    function: PastFunction
    id: str | None = None


class InMessage(Struct, frozen=True):
    """`tool_name`, `tool_call_id`: of the call whose result this is; without both it is that of the oldest one open.
    `name`: what older clients call `tool_name`; it has no effect in other messages.

    `thinking` is not passed on: without a signature it is not genuine.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: Images | None = None
    tool_calls: list[PastCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    name: str | None = None


class ToolFunction(Struct, frozen=True):
    """`parameters`: a JSON Schema of an object."""

    name: Name
    description: str | None = None
    parameters: dict[str, Raw] | None = None


class Tool(Struct, frozen=True):
    function: ToolFunction
    type: Literal["function"] | None = None


class ChatRequest(Asked, frozen=True, kw_only=True):
    """The body of `POST /api/chat`. Without messages the model is only loaded, which is nothing to do here."""

    messages: list[InMessage] | None = None
    tools: list[Tool] | None = None


class GenerateRequest(Asked, frozen=True, kw_only=True):
    """The body of `POST /api/generate`. Without prompt and images the model is only loaded.

    `suffix`, `template` and `context` are refused when they hold anything.
    """

    prompt: str | None = None
    system: str | None = None
    images: Images | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    width: Any = None
    height: Any = None
    steps: Any = None


class ShowRequest(Struct, frozen=True, kw_only=True):
    """The body of `POST /api/show`. `name`: what older clients call `model`. `verbose` has no effect."""

    model: str = ""
    name: str = ""
    verbose: bool | None = None


# Accepted, without effect, and named in the response header; values that ask for what is done anyway.
IGNORED: Final[Ignored] = {"logprobs": (False,), "top_logprobs": (0,), "truncate": (), "shift": ()}
IGNORED_BY_GENERATE: Final[Ignored] = {"raw": (False,), "width": (), "height": (), "steps": ()}
_NEUTRAL: Final[Ignored] = {
    "frequency_penalty": (0,),
    "min_p": (0,),
    "mirostat": (0,),
    "presence_penalty": (0,),
    "repeat_penalty": (1,),
    "tfs_z": (1,),
    "typical_p": (1,),
}
IGNORED_OPTIONS: Final[Ignored] = {
    name: _NEUTRAL.get(name, ())
    for name in Options.__struct_fields__
    if name not in ("num_predict", "stop", "temperature", "top_p", "top_k")
}
