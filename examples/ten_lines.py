"""Load a packed model, stream a chat, complete a text, read logits. A directory may stand where `demo` stands."""

import flashmoe

model = flashmoe.load("demo", memory="8MB")

for piece in model.stream([{"role": "user", "content": "What can you do?"}], enable_thinking=False):
    print(piece.text, end="", flush=True)

answer = model.generate("The keeper of the lighthouse", raw=True, max_tokens=16, temperature=0)
print(answer.text, answer.token_ids, answer.finish_reason)

print(model.logits(answer.token_ids).shape)
