"""One run of llama.cpp: load a GGUF, read prompts, print the seconds of each as a line of JSON.

    peer_prompt.py FILE.gguf THREADS REPACK(0|1) < prompts.json

Batches of 2048 tokens, computed 512 at a time: llama.cpp's own defaults. Runs in the peer's own environment.
"""

import ctypes
import json
import sys
from time import perf_counter

import llama_cpp as llama

BATCH = 2048


def main() -> None:
    path, threads, repack = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
    prompts = json.load(sys.stdin)
    quiet = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(quiet, ctypes.c_void_p())
    llama.llama_backend_init()
    of_model = llama.llama_model_default_params()
    of_model.use_extra_bufts = repack
    model = llama.llama_model_load_from_file(path.encode(), of_model)
    of_context = llama.llama_context_default_params()
    of_context.n_ctx = max(map(len, prompts)) + 64
    of_context.n_batch = BATCH
    of_context.n_threads = of_context.n_threads_batch = threads
    seconds = []
    for tokens in prompts:
        context = llama.llama_init_from_model(model, of_context)
        started = perf_counter()
        for begin in range(0, len(tokens), BATCH):
            part = tokens[begin : begin + BATCH]
            ids = (ctypes.c_int32 * len(part))(*part)  # a batch does not keep it
            if llama.llama_decode(context, llama.llama_batch_get_one(ids, len(part))):
                raise SystemExit("llama_decode failed")
        llama.llama_synchronize(context)
        llama.llama_get_logits_ith(context, -1)
        seconds.append(perf_counter() - started)
        llama.llama_free(context)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
