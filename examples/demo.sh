#!/bin/sh
# What a first look shows: a turn of chat, a sum in a quarter of the model's memory, a tool call that is checked. Run by
# `make demo`, which puts `flashmoe` on the path.
set -eu
here=$(dirname "$0")

show() {
    printf '\n$'
    for word; do
        case $word in *" "*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$@"
}

echo "Flash-MoE ships with a small model of the Qwen3.5-MoE architecture, trained for tool calls, JSON and sums."
show flashmoe run demo -p "What can you do?" --no-thinking

printf '\nThe same model of 17.9 MB in a budget of 8 MB: experts are read from disk as words ask for them.\n'
show flashmoe run demo -p "What is 37 + 48?" --memory 8MB

printf '\nA tool call, taken apart and checked by the program itself:\n'
show python "$here/tool_call.py"

printf '\nThe same with a model of your own: flashmoe pack CHECKPOINT OUT, then flashmoe run OUT -p "..."\n'
