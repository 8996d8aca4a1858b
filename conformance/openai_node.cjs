// OpenAI's client for Node against the server at argv[2]; what it makes of the answers is printed as JSON.
// stdin: the requests to send, by name. `silent` on argv: the server says one piece and no more, and the client leaves.
const OpenAI = require("openai").default;

const [url, silent] = process.argv.slice(2);
const asked = JSON.parse(require("node:fs").readFileSync(0, "utf-8"));
let sent = 0;
const client = new OpenAI({
  baseURL: `${url}/v1`,
  apiKey: "any",
  maxRetries: 1,
  fetch: (...request) => (sent++, fetch(...request)),
});
const chat = client.chat.completions;

const whole = async () => (await chat.create(asked.chat)).choices[0];

async function streamed() {
  const pieces = [];
  let usage = null;
  for await (const chunk of await chat.create({ ...asked.chat, stream: true, stream_options: { include_usage: true } })) {
    pieces.push(chunk.choices[0]?.delta.content ?? "");
    usage = chunk.usage ?? usage;
  }
  return { content: pieces.join(""), pieces: pieces.filter(Boolean).length, usage };
}

const folded = async () => (await chat.stream(asked.chat).finalChatCompletion()).choices[0];

const tools = (stream) => async () => {
  const called = [];
  const getWeather = (given) => (called.push(given), "19 degrees");
  const offered = asked.tools.tools.map((tool) => ({
    type: "function",
    function: { ...tool.function, function: getWeather, parse: JSON.parse },
  }));
  const runner = chat.runTools({ ...asked.tools, tools: offered, stream });
  return { content: await runner.finalContent(), called, roles: runner.messages.map((message) => message.role) };
};

const parsed = async () => (await chat.parse(asked.schema)).choices[0].message.parsed;
const parsedStreamed = async () => (await chat.stream(asked.schema).finalChatCompletion()).choices[0].message.parsed;
const models = async () => (await client.models.list()).data.map((model) => model.id);

const failing = (request, text = "") => async () => {
  const before = sent;
  try {
    for await (const chunk of await chat.create({ ...request, stream: true })) text += chunk.choices[0].delta.content ?? "";
  } catch (error) {
    const { status = null, code, message } = error;
    return { name: error.constructor.name, status, code, message, text, sent: sent - before };
  }
};

async function left() {
  for await (const chunk of await chat.create({ ...asked.chat, stream: true })) {
    if (chunk.choices[0].delta.content) return chunk.choices[0].delta.content;
  }
}

async function aborted() {
  try {
    await chat.create(asked.chat, { signal: AbortSignal.timeout(1000) });
  } catch (error) {
    return error.constructor.name;
  }
}

const normal = {
  whole, streamed, folded, tools: tools(false), toolsStreamed: tools(true), parsed, parsedStreamed, models,
  refused: failing({ ...asked.chat, messages: [] }), usedUp: failing(asked.usedUp), busy: failing(asked.busy),
  cut: failing(asked.cut),
  responses: () => client.responses.create({ model: "opus", input: "What is the capital of Italy?" }).then((response) => response.output_text),
};

(async () => {
  const results = {};
  for (const [name, run] of Object.entries(silent ? { left, aborted } : normal)) results[name] = await run();
  console.log(JSON.stringify(results));
})();
