"""Load a packed model, stream a chat, get an answer whole, read logits. A directory may stand where `demo` stands."""

import flashmoe

model = flashmoe.load("demo", memory="8MB")

for piece in model.stream([{"role": "user", "content": "What can you do?"}], enable_thinking=False):
    print(piece.text, end="", flush=True)

answer = model.generate("Tell me a short story about a fox and an owl.", enable_thinking=False, temperature=0)
print(answer.text, answer.token_ids, answer.finish_reason)

print(model.logits(answer.token_ids).shape)
