// The AI SDK with its webSearch tool against the server at argv[2]; what it makes of the answer is printed as JSON.
const { generateText, streamText } = require("ai");
const { createOpenAI } = require("@ai-sdk/openai");
const { createAnthropic } = require("@ai-sdk/anthropic");

const url = `${process.argv[2]}/v1`;
const openai = createOpenAI({ baseURL: url, apiKey: "any" });
const anthropic = createAnthropic({ baseURL: url, apiKey: "any" });

async function judged(model, web_search, prompt, more) {
  const asked = { model, tools: { web_search }, prompt, maxRetries: 0, ...more };
  const whole = await generateText(asked);
  const running = streamText(asked);
  await running.consumeStream();
  const told = async (answer) => [
    await answer.text,
    [...new Set((await answer.sources).map((one) => one.url))].sort(),
    (await answer.toolCalls).map((one) => [one.toolName, one.providerExecuted]),
  ];
  return { whole: await told(whole), streamed: await told(running) };
}

(async () => {
  const held = { allowedDomains: ["docs.python.org"], maxUses: 1 };
  const found = {
    openai: await judged(
      openai.responses("claude-opus-4"),
      openai.tools.webSearch({}),
      "Search for the newest Python.",
    ),
    anthropic: await judged(
      anthropic("claude-opus-4"),
      anthropic.tools.webSearch_20250305(held),
      "How do task groups work?",
      { maxOutputTokens: 1024 },
    ),
  };
  console.log(JSON.stringify(found));
})();
