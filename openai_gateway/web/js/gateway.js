// What is asked of the gateway, and its answers. Knows nothing of the page.

/** A refusal as a sentence for a person; `status` is 0 where the gateway itself does not answer. */
export class GatewayError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** An error of the gateway in words. `error`: OpenAI's error object, if there is one. */
export function inWords(status, error) {
  if (status === 401) return "The gateway wants an API key: enter it in the settings, then send again.";
  const words = error?.message ?? `The gateway answered with HTTP status ${status}.`;
  if (status === 429) return `The server is busy: ${words} Try again in a moment.`;
  if (status === 503) return `The server is out of reach: ${words}`;
  return words;
}

const GONE = "The connection to the gateway was lost. Is it still running?";

/** The JSON bodies of a stream of server-sent events, until [DONE]. `parts`: pieces of text, cut anywhere. */
export async function* events(parts) {
  let rest = "";
  for await (const part of parts) {
    const blocks = (rest + part).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(line[5] === " " ? 6 : 5)).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

async function* textOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.releaseLock();
  }
}

export class Gateway {
  /** `key`: a function that gives the API key, or "". */
  constructor(key) {
    this.key = key;
  }

  headers(more = {}) {
    const key = this.key();
    return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}), ...more };
  }

  /**
   * Streams an answer: first `{head: {route, reason}}`, then the chunks. Throws `GatewayError`, and
   * `AbortError` once `signal` is aborted.
   */
  async *ask(body, { signal, mode, drafts }) {
    const options = { "x-pipesd-provenance": "1", ...(mode ? { "x-pipesd-mode": mode } : {}), ...(drafts ? { "x-pipesd-drafts": "1" } : {}) };
    const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
    const request = { method: "POST", headers: this.headers(options), signal, body: JSON.stringify(streamed) };
    const response = await this.reached(() => fetch("/v1/chat/completions", request));
    if (!response.ok) throw await refusal(response);
    const [route, ...reason] = (response.headers.get("x-pipesd-route") ?? "").split("; reason=");
    yield { head: { route, reason: reason.join("") } };
    let ended = false;
    const chunks = events(textOf(response.body));
    for (;;) {
      const { value: chunk, done } = await this.reached(() => chunks.next());
      if (done) break;
      if (chunk.error) throw new GatewayError(chunk.error.code === "cloud_unreachable" ? 503 : 200, inWords(chunk.error.code === "cloud_unreachable" ? 503 : 0, chunk.error));
      ended ||= (chunk.choices ?? []).some((choice) => choice.finish_reason);
      yield chunk;
    }
    if (!ended) throw new GatewayError(0, GONE);
  }

  /** The names under which models are served, with their contexts. Throws `GatewayError`. */
  async models() {
    const response = await this.reached(() => fetch("/v1/models", { headers: this.headers() }));
    if (!response.ok) throw await refusal(response);
    return (await response.json()).data;
  }

  /** What `/health` says. Throws `GatewayError` where nothing answers. */
  async health() {
    const response = await this.reached(() => fetch("/health"));
    return response.json();
  }

  async reached(call) {
    try {
      return await call();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new GatewayError(0, GONE);
    }
  }
}

async function refusal(response) {
  let error;
  try {
    error = (await response.json()).error;
  } catch {
    error = undefined;
  }
  return new GatewayError(response.status, inWords(response.status, error));
}
