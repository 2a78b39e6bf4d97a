// The server's HTTP interface. The API key lives in this module's memory and nowhere else.

let key = "";
let asking = null;

/** Fetch a path; asks for the key, as often as it takes, where the server wants one. Throws an Error with a sentence. */
export async function request(path, options = {}) {
  for (;;) {
    const used = key;
    const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response;
    if (response.status !== 401) throw new Error(await sentence(response));
    if (used === key) await (asking ??= askForKey().finally(() => (asking = null)));
    options.signal?.throwIfAborted();
  }
}

async function sentence(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

function askForKey() {
  const dialog = document.getElementById("key-dialog");
  const field = document.getElementById("key");
  if (key) document.getElementById("key-note").textContent = "That key was not right. Try another.";
  field.value = "";
  dialog.showModal();
  return new Promise((done) => {
    const cancel = (event) => event.preventDefault(); // without a key there is nothing to go back to
    dialog.addEventListener("cancel", cancel);
    dialog.addEventListener("close", function closed() {
      if (!field.value) return dialog.showModal();
      dialog.removeEventListener("cancel", cancel);
      dialog.removeEventListener("close", closed);
      key = field.value;
      field.value = "";
      done();
    });
  });
}

/** The server-sent events of a response: {data} with the parsed JSON, or {comment}. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop();
      for (const block of blocks) {
        if (block === "data: [DONE]") return;
        if (block.startsWith("data: ")) yield { data: JSON.parse(block.slice(6)) };
        else if (block.startsWith(": ")) yield { comment: block.slice(2) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
