"""Times llama.cpp as `rustane bench decode` times rustane: a prompt in one pass, then token by token.

    CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python==0.3.36
    python llama_cpp_decode.py model.gguf --threads 2 --prompt 64 --tokens 64 --repetitions 5

Prints one JSON object with the names of `rustane bench decode --json`.
"""

import argparse
import json
import os
import statistics
import time

import llama_cpp


def main():
    args = argparse.ArgumentParser()
    args.add_argument("model")
    args.add_argument("--threads", type=int, default=os.cpu_count())
    args.add_argument("--prompt", type=int, default=64)
    args.add_argument("--tokens", type=int, default=64)
    args.add_argument("--repetitions", type=int, default=5)
    args.add_argument("--as-stored", action="store_true", help="weights as in the file: no repacking, no AMX")
    args = args.parse_args()

    llama_cpp.llama_backend_init()
    how = llama_cpp.llama_model_default_params()
    how.use_extra_bufts = not args.as_stored
    model = llama_cpp.llama_model_load_from_file(args.model.encode(), how)
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = 2048
    settings.n_batch = settings.n_ubatch = 512
    settings.n_threads = settings.n_threads_batch = args.threads
    context = llama_cpp.llama_init_from_model(model, settings)
    memory = llama_cpp.llama_get_memory(context)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def token(i):
        return ((i * 2654435761) >> 7) % vocab

    batch = llama_cpp.llama_batch_init(max(args.prompt, 1), 0, 1)

    def decode(tokens, start):
        batch.n_tokens = len(tokens)
        for i, id in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = id, start + i, 1, 0
            batch.logits[i] = i + 1 == len(tokens)
        assert llama_cpp.llama_decode(context, batch) == 0
        # Waits for the result, as the host does that draws from it.
        llama_cpp.llama_get_logits_ith(context, -1)

    def timed(tokens):
        begin = time.perf_counter()
        decode(tokens, 0)
        return time.perf_counter() - begin

    prompt = [token(i) for i in range(args.prompt)]
    prefill = []
    for n in range(args.repetitions + 1):
        llama_cpp.llama_memory_clear(memory, True)
        seconds = timed(prompt)
        # The first repetition warms up.
        if n > 0:
            prefill.append(seconds)
    ms = []
    for n in range(args.repetitions + 1):
        llama_cpp.llama_memory_seq_rm(memory, 0, args.prompt, -1)
        begin = time.perf_counter()
        for i in range(args.tokens):
            decode([token(args.prompt + i)], args.prompt + i)
        if n > 0:
            ms.append((time.perf_counter() - begin) * 1e3 / args.tokens)
    print(
        json.dumps(
            {
                "program": f"llama-cpp-python {llama_cpp.__version__}",
                "system": llama_cpp.llama_print_system_info().decode().strip(),
                "model": os.path.basename(args.model),
                "threads": args.threads,
                "as_stored": args.as_stored,
                "prompt": args.prompt,
                "tokens": args.tokens,
                "prefill_tok_per_s": args.prompt / statistics.median(prefill),
                "ms_per_token": ms,
                "tok_per_s": 1e3 / statistics.median(ms),
            }
        )
    )


if __name__ == "__main__":
    main()
