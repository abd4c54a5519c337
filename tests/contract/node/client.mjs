// Calls the gateway at PIPESD_URL with OpenAI's Node client and prints what it read, as JSON.
import OpenAI from "openai";

const { PIPESD_URL, PIPESD_MODEL: model, PIPESD_QUESTION: question } = process.env;
const client = new OpenAI({ baseURL: `${PIPESD_URL}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: question }];
const asked = { model, messages, temperature: 0, max_tokens: 128 };
const asking = { model, input: question, temperature: 0, max_output_tokens: 128 };
const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const seen = {};

const whole = await client.chat.completions.create(asked);
seen.whole = whole.choices[0].message.content;
seen.usage = whole.usage;

const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
seen.streamed = "";
for await (const chunk of stream) seen.streamed += chunk.choices[0]?.delta?.content ?? "";
seen.streamedUsage = (await stream.finalChatCompletion()).usage;

const tools = [{ type: "function", function: { name: "weather", parameters, strict: true } }];
const forced = { tools, tool_choice: "required" };
const called = await client.chat.completions.stream({ ...asked, ...forced }).finalChatCompletion();
const { name, arguments: given } = called.choices[0].message.tool_calls[0].function;
seen.call = { name, arguments: given };

const form = { type: "json_schema", json_schema: { name: "weather", schema: parameters, strict: true } };
seen.json = (await client.chat.completions.create({ ...asked, response_format: form })).choices[0].message.content;

const response = await client.responses.stream(asking).finalResponse();
seen.response = response.output_text;

const flat = [{ type: "function", name: "weather", parameters, strict: true }];
const flatForced = { tools: flat, tool_choice: "required" };
const responseCall = await client.responses.stream({ ...asking, ...flatForced }).finalResponse();
seen.responseCall = { name: responseCall.output[0].name, arguments: responseCall.output[0].arguments };

try {
  await client.chat.completions.create({ ...asked, temperature: 9 });
} catch (error) {
  seen.error = { kind: error.constructor.name, status: error.status, param: error.param };
}

const left = await client.chat.completions.create({ ...asked, max_tokens: 400, ignore_eos: true, stream: true });
for await (const _ of left) break; // leaving the loop aborts the request
console.log(JSON.stringify(seen));
