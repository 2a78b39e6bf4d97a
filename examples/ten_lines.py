"""Load a packed model, stream a chat, complete a text, read logits. This one is what `make demo` packs."""

import flashmoe

model = flashmoe.load(".demo/model", memory="8MB")

for piece in model.stream([{"role": "user", "content": "Why count ships?"}], max_tokens=32, seed=1):
    print(piece.text, end="", flush=True)

answer = model.generate("The lighthouse keeper", raw=True, max_tokens=16, temperature=0)
print(answer.text, answer.token_ids, answer.finish_reason)

print(model.logits(answer.token_ids).shape)
