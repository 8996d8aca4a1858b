// Anthropic's client for Node and the AI SDK's provider for it, against the server at argv[2]; what they make of the
// answers is printed as JSON. stdin: the requests to send, by name.
const Anthropic = require("@anthropic-ai/sdk").default;
const { createAnthropic } = require("@ai-sdk/anthropic");

const url = process.argv[2];
const asked = JSON.parse(require("node:fs").readFileSync(0, "utf-8"));
const { messages, models } = new Anthropic({ baseURL: url, apiKey: "any", maxRetries: 0 });

const shown = ({ id, content, stop_reason }) => ({ id, content, stop_reason });

async function listed() {
  const found = [];
  for await (const model of models.list({ limit: 2 })) found.push(model.id);
  return found;
}

async function failed() {
  try {
    await messages.create({ ...asked.plain, container: "container_1" });
  } catch (error) {
    return { name: error.constructor.name, status: error.status, type: error.type, request: error.requestID };
  }
}

// As the AI SDK's `generateText` and `streamText` ask.
const model = createAnthropic({ baseURL: `${url}/v1`, apiKey: "any" })("claude-opus-4");
const plain = {
  prompt: [
    { role: "system", content: asked.plain.system[0].text },
    { role: "user", content: [{ type: "text", text: asked.plain.messages[0].content[0].text }] },
  ],
  maxOutputTokens: asked.plain.max_tokens,
};

async function provided() {
  const { content, finishReason } = await model.doGenerate(plain);
  return { content, reason: finishReason.unified ?? finishReason };
}

async function providedStream() {
  const pieces = [];
  for await (const part of (await model.doStream(plain)).stream) {
    if (part.type === "text-delta") pieces.push(part.delta);
    if (part.type === "error") throw part.error;
  }
  return pieces;
}

(async () => {
  const found = {
    whole: shown(await messages.create(asked.plain)),
    folded: shown(await messages.stream(asked.plain).finalMessage()),
    called: shown(await messages.stream(asked.tools).finalMessage()),
    cited: shown(await messages.stream(asked.documents).finalMessage()),
    listed: await listed(),
    failed: await failed(),
    provided: await provided(),
    providedStream: await providedStream(),
  };
  console.log(JSON.stringify(found));
})();
