#!/bin/sh
# From nothing to streamed text in one go: `demo.sh DIR` makes a checkpoint there, packs it and generates from it.
# Run by `make demo`, which puts `flashmoe` on the path.
set -eu
here=$(dirname "$0")
dir=$1

say() { printf '\n%s\n' "$1"; }
show() {
    printf '$'
    for word; do
        case $word in *" "*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$@"
}

mkdir -p "$dir"
say "1. A small checkpoint of the Qwen3.5-MoE architecture, in the form in which such models are published:"
index=$dir/checkpoint/model.safetensors.index.json
if [ ! -f "$index" ] || [ "$here/make_demo_checkpoint.py" -nt "$index" ] || [ "$here/chat_template.jinja" -nt "$index" ]; then
    show python "$here/make_demo_checkpoint.py" "$dir/checkpoint"
else
    echo "$dir/checkpoint is there already."
fi

say "2. Packed: experts in 4 bits, one contiguous record each, so that one read brings one expert:"
rm -rf "$dir/model"
show flashmoe pack "$dir/checkpoint" "$dir/model"

say "3. Run, in a quarter of the memory it takes: experts are read from disk as words ask for them."
echo "   The weights are random, so the words are too. What you see is the engine at work, not a model that knows things."
show flashmoe run "$dir/model" -p "Why do lighthouse keepers count ships?" --max-tokens 128 --memory 8MB --seed 1

say "The same with a real model: flashmoe pack CHECKPOINT OUT, then flashmoe run OUT -p \"...\""
