"""OpenAI's APIs. Keep-alives are comments: `event:`, `id:` and `retry:` lines break clients of chat completions."""
