"""One run of llama.cpp: load a GGUF, decode tokens one by one, print what it took as a line of JSON.

    peer.py FILE.gguf THREADS REPACK(0|1) < tokens.json

Runs in the peer's own environment (llama-cpp-python and numpy); knows nothing of Flash-MoE.
"""

import ctypes
import json
import sys
from time import perf_counter

import llama_cpp as llama


def main() -> None:
    path, threads, repack = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
    tokens = json.load(sys.stdin)
    quiet = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(quiet, ctypes.c_void_p())
    llama.llama_backend_init()
    started = perf_counter()
    of_model = llama.llama_model_default_params()
    of_model.use_extra_bufts = repack
    model = llama.llama_model_load_from_file(path.encode(), of_model)
    of_context = llama.llama_context_default_params()
    of_context.n_ctx = 1024
    of_context.n_threads = of_context.n_threads_batch = threads
    context = llama.llama_init_from_model(model, of_context)
    loaded = perf_counter() - started
    seconds = []
    for token in tokens:
        started = perf_counter()
        ids = (ctypes.c_int32 * 1)(token)  # a batch does not keep it
        if llama.llama_decode(context, llama.llama_batch_get_one(ids, 1)):
            raise SystemExit("llama_decode failed")
        llama.llama_synchronize(context)
        llama.llama_get_logits_ith(context, -1)
        seconds.append(perf_counter() - started)
    print(json.dumps({"load": loaded, "seconds": seconds, "about": llama.llama_print_system_info().decode()}))


if __name__ == "__main__":
    main()
