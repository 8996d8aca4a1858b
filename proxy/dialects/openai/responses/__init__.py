"""OpenAI's Responses API. A stream's events have names: its `event:` lines are those of `data.type`.

- `request.decode`: the body → an `AskedResponse`. `items.Talk` puts the conversation together, `tools` what is offered.
- `encoder.ResponsesEncoder`: deltas → events, and the whole `types.Response`.
- `reasoning.Seal`: signed thinking as `encrypted_content`, and back.
- `dialect.Responses`: the dialect, and its errors.

State is kept elsewhere, and joins here:

- `Rules.lookup` (`proxy.dialects.Lookup`) gives the items of an earlier response or conversation and single items, for
  `previous_response_id`, `conversation` and `item_reference`; `Rules.owner` is the key that asks. Without state it is
  `NoLookup`, which knows nothing and stores nothing.
- `ResponsesEncoder.ended` is set when a response has ended, whole or streamed, complete or failed: the response as the
  client was told, the items of its request, and those of its answer with their `encrypted_content`. `Ended.store` says
  whether the client wants it kept.
- `reasoning.Summary`, closed by `Seal.close`, is the content of a compaction item; `items` puts it in again.
"""
