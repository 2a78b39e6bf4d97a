// Puts the page together: fields, buttons and keys.

import { request } from "/page/api.js";
import { Chat, submitOnEnter } from "/page/chat.js";
import { Live } from "/page/live.js";

const SAMPLE_TOOL = {
  type: "function",
  function: {
    name: "search_vehicle",
    description: "Search vehicle",
    parameters: {
      type: "object",
      properties: {
        number: { type: "string" },
        employee: { type: "string", description: "Who the vehicle is for" },
      },
      required: ["employee"],
    },
  },
};
const SAMPLE_QUESTION = "Please where is our vehicle, employee: Sofia number 0f78945";
const byId = (id) => document.getElementById(id);
const [message, composer, stop, tools] = ["message", "composer", "stop", "tools"].map(byId);
let model = "";

/** What the server calls its model. */
async function modelName() {
  model ||= (await (await request("/v1/models")).json()).data[0].id;
  byId("model").textContent = model;
  return model;
}

/** The fields of the next request. Throws an Error with a sentence. */
async function settings() {
  const number = (id) => (byId(id).value === "" ? undefined : Number(byId(id).value));
  return {
    model: await modelName(),
    system: byId("system").value.trim(),
    tools: givenTools(),
    max_tokens: number("max-tokens"),
    temperature: number("temperature"),
    chat_template_kwargs: { enable_thinking: byId("thinking").checked },
  };
}

function givenTools() {
  const written = tools.value.trim();
  if (!written) return undefined;
  try {
    const given = JSON.parse(written);
    if (!Array.isArray(given)) throw new SyntaxError("it is no list");
    return given.length ? given : undefined;
  } catch (error) {
    throw new Error(`The tools are not a JSON list: ${error.message}.`);
  }
}

async function running(answer) {
  byId("empty").hidden = true;
  byId("send").hidden = true;
  stop.hidden = false;
  const kept = await answer;
  if (chat.busy) return kept;
  const inside = document.activeElement === stop;
  byId("send").hidden = false;
  stop.hidden = true;
  if (inside) message.focus();
  return kept;
}

const status = (text) => (byId("status").textContent = text);
const chat = new Chat(byId("log"), status, settings);
chat.onanswer = running;

composer.addEventListener("keydown", submitOnEnter);
composer.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = message.value;
  if (!text.trim() || chat.busy) return;
  message.value = "";
  if (!(await running(chat.send(text))) && !message.value) message.value = text;
});
stop.addEventListener("click", () => chat.stop());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && chat.busy) chat.stop();
});
byId("clear").addEventListener("click", () => {
  chat.clear();
  byId("empty").hidden = false;
  message.focus();
});
byId("sample").addEventListener("click", () => {
  tools.value = JSON.stringify([SAMPLE_TOOL], null, 2);
  message.value = SAMPLE_QUESTION;
  message.focus();
});

const question = chat.resume();
byId("empty").hidden = chat.messages.length > 0;
if (question) message.value = question;
if (matchMedia("(max-width: 52rem)").matches) byId("live").open = false;
try {
  await modelName();
} catch {
  status("The server cannot be reached.");
}
new Live();
if (document.activeElement === document.body) message.focus(); // and not the form for a call that waits
