// The conversation: what was said, in the form of the chat completions interface, and how the next answer comes.

import { events, request } from "/page/api.js";
import { element } from "/page/dom.js";
import { keep, kept } from "/page/kept.js";
import { Log } from "/page/log.js";
import { Turn, parsed } from "/page/turn.js";

const LEAST_TIMED_MILLISECONDS = 250;

export class Chat {
  /** log: where turns appear. status: told in words what happens. settings: gives the fields of the next request. */
  constructor(log, status, settings) {
    this.log = new Log(log);
    this.status = status;
    this.settings = settings;
    this.messages = [];
    this.running = null;
    this.coming = null; // the answer that streams, and what was said before it
    addEventListener("pagehide", () => this.keep());
  }

  get busy() {
    return this.running !== null;
  }

  clear() {
    this.stop();
    this.running = null; // what comes of it is no part of the new conversation
    this.coming = null;
    this.messages = [];
    this.log.clear();
    this.keep();
  }

  /** For after a reload; false if the browser keeps nothing, or no more. */
  keep() {
    const { messages, reply } = this.coming ?? {};
    const begun = reply && !isEmpty(reply);
    const question = reply && !begun && messages.at(-1).role === "user" ? messages.at(-1).content : "";
    return keep({ messages: begun ? [...messages, finished(reply)] : this.messages, question });
  }

  /** Show what was said before the page was loaded again; gives a question that was not answered. */
  resume() {
    const { messages, question } = kept();
    this.messages = messages;
    const names = {};
    let turn;
    for (const message of messages) {
      if (message.role === "user") new Turn(this.log, "user", "You").say(message.content);
      else if (message.role === "tool") new Turn(this.log, "user", `${names[message.tool_call_id]} gave`).say(message.content);
      else {
        turn = new Turn(this.log, "assistant", "Model");
        if (message.reasoning_content) turn.think(message.reasoning_content);
        turn.fold();
        if (message.content) turn.answer(message.content);
        for (const call of message.tool_calls ?? []) {
          names[call.id] = call.function.name;
          turn.beginCall(call.function.name);
          turn.writeCall(call.function.arguments);
        }
        turn.endCall();
      }
    }
    if (messages.at(-1)?.tool_calls) this.askForResults(turn, messages.at(-1).tool_calls);
    return question;
  }

  stop() {
    this.running?.abort();
  }

  /** Say this and stream the answer; resolves to whether the conversation goes on from there. */
  async send(text) {
    this.log.root.querySelectorAll(".results").forEach((form) => form.remove());
    new Turn(this.log, "user", "You").say(text);
    return this.answer([{ role: "user", content: text }]);
  }

  async answer(said) {
    const turn = new Turn(this.log, "assistant", "Model");
    const abort = (this.running = new AbortController());
    const messages = [...this.messages, ...said];
    const reply = { role: "assistant", content: "", reasoning_content: "", tool_calls: [] };
    this.log.root.setAttribute("aria-busy", "true");
    this.coming = { messages, reply };
    this.status("Waiting for the model");
    let ended = "";
    try {
      ended = await this.read(turn, reply, messages, abort.signal);
    } catch (error) {
      if (abort.signal.aborted) turn.note("Stopped.");
      else turn.note(error instanceof TypeError ? "The server cannot be reached." : error.message, "error");
    }
    turn.fold();
    turn.endCall();
    reply.tool_calls = reply.tool_calls.filter(isWhole);
    if (ended === "length") turn.note("Cut off: no more tokens were allowed.");
    if (this.running !== abort) return true;
    this.running = null;
    this.log.root.removeAttribute("aria-busy");
    this.status("");
    this.coming = null;
    if (isEmpty(reply) && !ended) return false; // neither the question nor the missing answer is part of what comes next
    this.messages = [...messages, finished(reply)];
    if (!this.keep()) turn.note("Too long to be kept: loading the page again would lose it.");
    if (reply.tool_calls.length && ended) this.askForResults(turn, reply.tool_calls);
    return true;
  }

  /** Stream one answer into `turn` and `reply`; resolves to why it ended. */
  async read(turn, reply, messages, signal) {
    const { system, ...fields } = await this.settings();
    const rules = system ? [{ role: "system", content: system }] : [];
    const body = { ...fields, messages: [...rules, ...messages], stream: true, stream_options: { include_usage: true } };
    const response = await request("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
    let ended = "";
    let first = 0;
    for await (const { data, comment } of events(response)) {
      if (comment?.startsWith("prompt ")) this.status(`Reading the prompt: ${comment.slice(7).replace("/", " of ")} tokens`);
      if (!data) continue;
      if (data.error) throw new Error(data.error.message);
      if (data.usage) this.tell(turn, data.usage, first && performance.now() - first);
      for (const { delta, finish_reason } of data.choices) {
        if (!first && (delta.reasoning_content || delta.content || delta.tool_calls)) {
          first = performance.now();
          this.status("Answering");
        }
        this.take(turn, reply, delta);
        ended = finish_reason ?? ended;
      }
    }
    if (!ended) throw new Error("The server broke off.");
    return ended;
  }

  take(turn, reply, delta) {
    if (delta.reasoning_content) {
      reply.reasoning_content += delta.reasoning_content;
      turn.think(delta.reasoning_content);
    }
    const content = reply.content ? delta.content : delta.content?.trimStart();
    if (content || delta.tool_calls) turn.fold();
    if (delta.content) reply.content += delta.content;
    if (content) turn.answer(content);
    for (const { id, index, function: written } of delta.tool_calls ?? []) {
      if (id) {
        reply.tool_calls.push({ id, type: "function", function: { name: written.name, arguments: "" } });
        turn.beginCall(written.name);
      }
      reply.tool_calls[index].function.arguments += written.arguments;
      turn.writeCall(written.arguments);
    }
  }

  tell(turn, usage, milliseconds) {
    const cached = usage.prompt_tokens_details.cached_tokens;
    const parts = [`${usage.completion_tokens} tokens`];
    // What came faster came in one piece, and says nothing of the model.
    if (milliseconds > LEAST_TIMED_MILLISECONDS) parts.push(`${rounded(((usage.completion_tokens - 1) * 1000) / milliseconds)} a second`);
    parts.push(`prompt ${usage.prompt_tokens}` + (cached ? `, ${cached} of them kept from before` : ""));
    turn.note(parts.join(" · "), "note numbers");
  }

  /** A form for what the calls gave; sending it goes on with the answer. */
  askForResults(turn, calls) {
    const fields = calls.map((call) => {
      const field = element("textarea");
      field.rows = 2;
      return { call, field };
    });
    const labels = fields.map(({ call, field }) => element("label", "", `What ${call.function.name} gave`, field));
    const button = element("button", "", "Send");
    const form = element("form", "results", ...labels, button);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.busy) return;
      form.remove();
      const results = fields.map(({ call, field }) => ({ role: "tool", tool_call_id: call.id, content: field.value }));
      for (const { call, field } of fields) new Turn(this.log, "user", `${call.function.name} gave`).say(field.value);
      this.onanswer(this.answer(results));
    });
    form.addEventListener("keydown", submitOnEnter);
    turn.ask(form);
    fields[0].field.focus();
  }

  /** Told of each answer that begins without `send`. */
  onanswer() {}
}

function isEmpty(reply) {
  return !reply.content && !reply.reasoning_content && !reply.tool_calls.length;
}

/** Whether a call came to its end: one that broke off cannot be answered. */
function isWhole(call) {
  return parsed(call.function.arguments) !== null;
}

/** A reply as the next request holds it: without the fields that are empty. */
function finished({ reasoning_content, tool_calls: begun, ...reply }) {
  const tool_calls = begun.filter(isWhole);
  return { ...reply, ...(reasoning_content && { reasoning_content }), ...(tool_calls.length && { tool_calls }) };
}

/** Enter sends the form it is pressed in; Shift+Enter, and Enter while a word is composed, do not. */
export function submitOnEnter(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.target.tagName !== "TEXTAREA") return;
  event.preventDefault();
  event.currentTarget.requestSubmit();
}

function rounded(value) {
  return value >= 10 ? value.toFixed(0) : value.toPrecision(2);
}
