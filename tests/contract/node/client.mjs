// Calls the gateway at PIPESD_URL with OpenAI's Node client and prints what it read, as JSON.
import OpenAI from "openai";

const { PIPESD_URL, PIPESD_MODEL: model } = process.env;
const client = new OpenAI({ baseURL: `${PIPESD_URL}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hello" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const seen = {};

const whole = await client.chat.completions.create({ model, messages });
seen.whole = whole.choices[0].message.content;
seen.usage = whole.usage;

const stream = client.chat.completions.stream({ model, messages, stream_options: { include_usage: true } });
seen.streamed = "";
for await (const chunk of stream) seen.streamed += chunk.choices[0]?.delta?.content ?? "";
seen.streamedUsage = (await stream.finalChatCompletion()).usage;

const tools = [{ type: "function", function: { name: "weather", parameters } }];
const called = await client.chat.completions.stream({ model, messages, tools }).finalChatCompletion();
seen.call = called.choices[0].message.tool_calls[0].function;

const response = await client.responses.stream({ model, input: "hello" }).finalResponse();
seen.response = response.output_text;

const flat = [{ type: "function", name: "weather", parameters, strict: false }];
const responseCall = await client.responses.stream({ model, input: "hello", tools: flat }).finalResponse();
seen.responseCall = { name: responseCall.output[0].name, arguments: responseCall.output[0].arguments };

try {
  await client.chat.completions.create({ model, messages, temperature: 9 });
} catch (error) {
  seen.error = { kind: error.constructor.name, status: error.status, param: error.param };
}

const left = await client.chat.completions.create({ model, messages, stream: true });
for await (const _ of left) break; // leaving the loop aborts the request
console.log(JSON.stringify(seen));
