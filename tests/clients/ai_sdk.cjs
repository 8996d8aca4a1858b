// The AI SDK against the server at argv[2]; what it makes of the answers is printed as JSON.
const { generateText, streamText, generateObject, tool, stepCountIs, jsonSchema } = require("ai");
const { createOpenAI } = require("@ai-sdk/openai");
const { createOpenResponses } = require("@ai-sdk/open-responses");

const url = `${process.argv[2]}/v1`;
const CALL = JSON.stringify([["call", "toolu_1", "get_weather"]]);
const THINK = JSON.stringify([["think", "Hm."], ["say", "Seven."], ["end"]]);
const PERSON = JSON.stringify([["say", '{"name":"Ada"}'], ["end"]]);
const nothing = jsonSchema({ type: "object", properties: {}, additionalProperties: false });
const person = jsonSchema({
  type: "object",
  properties: { name: { type: "string" } },
  required: ["name"],
  additionalProperties: false,
});
const get_weather = tool({ description: "The weather.", inputSchema: nothing, execute: async () => "sunny" });
const openai = createOpenAI({ baseURL: url, apiKey: "any" });
const open = createOpenResponses({ name: "open", url: `${url}/responses` });

async function judged(model, providerOptions) {
  const more = { model, maxRetries: 0, providerOptions };
  const looped = { ...more, prompt: CALL, tools: { get_weather }, stopWhen: stepCountIs(3) };
  const found = { plain: (await generateText({ ...more, prompt: "Hello." })).text };
  const streamed = streamText({ ...more, prompt: "Hello." });
  let text = "";
  for await (const piece of streamed.textStream) text += piece;
  found.streamed = [text, await streamed.finishReason, (await streamed.usage).outputTokens];
  const whole = await generateText(looped);
  found.tools = [whole.text, whole.steps.length];
  const running = streamText(looped);
  await running.consumeStream();
  found.toolsStreamed = [await running.text, (await running.steps).length];
  const first = await generateText({ ...more, prompt: THINK });
  const messages = [{ role: "user", content: "One." }, ...first.response.messages, { role: "user", content: "Two." }];
  found.further = [(await generateText({ ...more, messages })).text, first.warnings.length];
  found.object = (await generateObject({ ...more, prompt: PERSON, schema: person })).object;
  return found;
}

async function previous() {
  const model = openai.responses("sonnet");
  const first = await generateText({ model, prompt: "One." });
  const previousResponseId = first.providerMetadata.openai.responseId;
  return (await generateText({ model, prompt: "Two.", providerOptions: { openai: { previousResponseId } } })).text;
}

(async () => {
  const stateless = { openai: { store: false, include: ["reasoning.encrypted_content"] } };
  const found = {
    stored: await judged(openai("sonnet")),
    stateless: await judged(openai.responses("sonnet"), stateless),
    open: await judged(open("sonnet")),
    previous: await previous(),
  };
  console.log(JSON.stringify(found));
})();
