#!/usr/bin/env python3
"""Opens a model directory that rustane wrote in transformers, and compares what the two compute.

    rustane eval RUN --logits logits.safetensors
    python check_trained.py RUN logits.safetensors [--lines FILE --ids FILE]

LOGITS holds `tokens`, I32 [1, seq], and `logits`, F32 [seq, vocab]: rustane's, for those tokens. --lines is a text
file, --ids rustane's tokens of each of its lines: numbers with blanks between, one line each, without special tokens.

Passes when no weight is missing, unexpected or of another shape, the fp32 logits differ by at most 1e-4, their mean
KL divergence is at most 1e-9, and the tokenizer of the directory gives the same ids. Exit status 1 otherwise.
"""
import argparse
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_ABS, MAX_KL = 1e-4, 1e-9


def fail(message):
    raise SystemExit(f"check_trained: {message}")


def open_model(directory):
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True,
        ignore_mismatched_sizes=True, output_loading_info=True)
    wrong = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if wrong:
        fail(f"{directory} does not load cleanly: " + "; ".join(f"{k}: {', '.join(v)}" for k, v in wrong.items()))
    return model.eval()


def read_logits(path, vocab):
    """rustane's tokens and logits, after a check that their shapes belong together."""
    tensors = load_file(path)
    for name in ("tokens", "logits"):
        if name not in tensors:
            fail(f"{path} has no tensor `{name}`, only {sorted(tensors)}")
    tokens, logits = tensors["tokens"], tensors["logits"]
    if tokens.dim() != 2 or tokens.size(0) != 1 or not tokens.numel():
        fail(f"{path}: `tokens` is {list(tokens.shape)}, wanted [1, seq]")
    if list(logits.shape) != [tokens.size(1), vocab] or logits.dtype != torch.float32:
        fail(f"{path}: `logits` is {logits.dtype} {list(logits.shape)}, wanted float32 {[tokens.size(1), vocab]}")
    if not logits.isfinite().all():
        fail(f"{path}: {(~logits.isfinite()).sum()} logits are not finite")
    return tokens.long(), logits


def compare_logits(model, path):
    tokens, ours = read_logits(path, model.config.vocab_size)
    with torch.no_grad():
        theirs = model(tokens, use_cache=False).logits[0]
    apart = (ours - theirs).abs()
    worst, kl = apart.max().item(), mean_kl(theirs, ours)
    at = divmod(apart.argmax().item(), apart.size(1))
    found = f"logits of {tokens.size(1)} tokens: max abs {worst:.3g} (position {at[0]}, token {at[1]}), mean KL {kl:.3g}"
    if not (worst <= MAX_ABS and kl <= MAX_KL):
        fail(f"{found}; wanted at most {MAX_ABS:g} and {MAX_KL:g}")
    print(found)


def mean_kl(p, q):
    """Mean over positions of the KL divergence of softmax(q) from softmax(p), in nats."""
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def compare_tokens(directory, lines, ids):
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    if not lines:
        print(f"tokenizer: loads, {len(tokenizer)} tokens")
        return
    # Split at line feeds only: Python's splitlines() would also split at form feeds and the like.
    texts = lines.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    rows = ids.read_text().removesuffix("\n").split("\n")
    if len(texts) != len(rows):
        fail(f"{lines} has {len(texts)} lines and {ids} has {len(rows)}")
    for number, (text, row) in enumerate(zip(texts, rows), 1):
        ours, theirs = [int(i) for i in row.split()], tokenizer.encode(text, add_special_tokens=False)
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
            fail(f"{lines}:{number}: {text[:60]!r} differs at token {at}: "
                 f"rustane {ours[at:at + 4]}, transformers {theirs[at:at + 4]}")
    print(f"tokenizer: {len(texts)} lines give the same ids")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("directory", type=Path)
    p.add_argument("logits", type=Path)
    p.add_argument("--lines", type=Path)
    p.add_argument("--ids", type=Path)
    a = p.parse_args()
    if (a.lines is None) != (a.ids is None):
        p.error("--lines and --ids belong together")
    for path in (a.directory, a.logits, a.lines, a.ids):
        if path and not path.exists():
            fail(f"{path} does not exist")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    compare_logits(open_model(a.directory), a.logits)
    compare_tokens(a.directory, a.lines, a.ids)


if __name__ == "__main__":
    main()
