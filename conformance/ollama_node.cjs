// Ollama's client for Node against the server at argv[2]; what it makes of the answers is printed as JSON.
// stdin: the requests to send, by name. `silent` on argv: the server says one piece and no more, and the client leaves.
const { Ollama } = require("ollama");

const [host, silent] = process.argv.slice(2);
const asked = JSON.parse(require("node:fs").readFileSync(0, "utf-8"));
const client = new Ollama({ host });

async function folded(parts) {
  const found = { content: "", thinking: "", calls: [], pieces: 0 };
  for await (const part of parts) {
    found.content += part.message?.content ?? part.response;
    found.thinking += part.message?.thinking ?? part.thinking ?? "";
    found.calls.push(...(part.message?.tool_calls ?? []).map((call) => call.function));
    found.pieces += 1;
    if (part.done) found.end = { reason: part.done_reason, counts: [part.prompt_eval_count, part.eval_count] };
  }
  return found;
}

const chat = (request, stream) => async () =>
  folded(stream ? await client.chat({ ...request, stream }) : [await client.chat({ ...request, stream })]);
const generated = (stream) => async () =>
  folded(stream ? await client.generate({ ...asked.generated, stream }) : [await client.generate({ ...asked.generated, stream })]);

async function tools() {
  const called = await client.chat({ ...asked.tools, stream: false });
  const messages = [...asked.tools.messages, called.message];
  for (const call of called.message.tool_calls) {
    messages.push({ role: "tool", tool_name: call.function.name, content: asked.results[call.function.name] });
  }
  return folded([await client.chat({ ...asked.tools, messages, stream: false })]);
}

const failing = (request, stream) => async () => {
  let text = "";
  try {
    if (!stream) await client.chat({ ...request, stream });
    for await (const part of await client.chat({ ...request, stream: true })) text += part.message.content;
  } catch (error) {
    return { name: error.name, status: error.status_code ?? null, message: error.message, text };
  }
};

const refused = (act) => async () => act().then(() => null, (error) => ({ status: error.status_code, message: error.message }));

async function left() {
  for await (const part of await client.chat({ ...asked.chat, stream: true })) {
    client.abort();
    return part.message.thinking;
  }
}

const acts = silent
  ? { left }
  : {
      whole: chat(asked.chat, false),
      streamed: chat(asked.chat, true),
      generated: generated(false),
      generatedStreamed: generated(true),
      tools,
      cut: failing(asked.cut, true),
      busy: failing(asked.busy, false),
      models: async () => (await client.list()).models.map((model) => model.name),
      shown: async () => (await client.show({ model: "sonnet" })).capabilities,
      running: async () => (await client.ps()).models.length >= 0,
      version: async () => (await client.version()).version,
      embed: refused(() => client.embed({ model: "sonnet", input: "x" })),
      pull: refused(() => client.pull({ model: "sonnet" })),
      delete: refused(() => client.delete({ model: "sonnet" })),
    };

(async () => {
  const found = {};
  for (const [name, act] of Object.entries(acts)) found[name] = await act();
  console.log(JSON.stringify(found));
  process.exit(0);
})();
