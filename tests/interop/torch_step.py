#!/usr/bin/env python3
"""The yardstick for `rustane bench step`: one training step of the same model in PyTorch, timed.

    python torch_step.py --seq 256 --batch 4 --threads 2
    python torch_step.py --dtype bf16 --compile

The shape defaults to the 110m preset. A step is forward, backward and AdamW on random tokens; with --clip also the
gradient norm. Matrix products that share an input are joined (q,k,v and gate,up), attention is PyTorch's fused kernel
and AdamW its fused update, so that the yardstick is not an easy one. Prints one JSON line; times are medians.

--dtype bf16 keeps fp32 weights, gradients and moments and runs the matrix products in bf16 (autocast).

`gflop_per_s` counts matrix products only, three times the forward's: linear layers, head, and causal attention.
`cpu_ms_per_step` is the processor time of all threads; on a busy machine it says more than the wall clock.
"""
import argparse
import json
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape = p.add_argument_group("shape")
    shape.add_argument("--dim", type=int, default=768)
    shape.add_argument("--hidden", type=int, default=2048)
    shape.add_argument("--layers", type=int, default=12)
    shape.add_argument("--heads", type=int, default=12)
    shape.add_argument("--kv-heads", type=int, help="default: --heads")
    shape.add_argument("--head-dim", type=int, help="default: dim / heads")
    shape.add_argument("--vocab", type=int, default=32000)
    shape.add_argument("--untied", action="store_true", help="a head of its own instead of the embedding")
    p.add_argument("--seq", type=int, default=256)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--steps", type=int, default=5, help="timed steps")
    p.add_argument("--warmup", type=int, default=2, help="steps before them")
    p.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    p.add_argument("--clip", type=float, help="clip the gradient norm")
    p.add_argument("--compile", action="store_true", help="torch.compile the loss")
    p.add_argument("--threads", type=int, help="default: PyTorch's choice")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    a.kv_heads = a.kv_heads or a.heads
    a.head_dim = a.head_dim or a.dim // a.heads
    if a.heads % a.kv_heads:
        p.error(f"--kv-heads {a.kv_heads} does not divide --heads {a.heads}")
    if a.steps < 1 or a.warmup < 1:
        p.error("--steps and --warmup are at least 1: the first step also allocates")
    return a


class Rope(nn.Module):
    """Turns channel `i` of each head with channel `i + head_dim/2`."""

    def __init__(self, head_dim, seq, theta=10000.0):
        super().__init__()
        rate = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angle = torch.outer(torch.arange(seq, dtype=torch.float64), rate)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, x):
        low, high = x.float().chunk(2, dim=-1)
        turned = torch.cat([low * self.cos - high * self.sin, high * self.cos + low * self.sin], dim=-1)
        return turned.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = a.heads, a.kv_heads, a.head_dim
        self.qkv = nn.Linear(a.dim, (a.heads + 2 * a.kv_heads) * a.head_dim, bias=False)
        self.out = nn.Linear(a.heads * a.head_dim, a.dim, bias=False)

    def forward(self, x, rope):
        batch, seq, _ = x.shape
        qkv = self.qkv(x).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        y = F.scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        return self.out(y.transpose(1, 2).flatten(2))


class Ffn(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.gate_up = nn.Linear(a.dim, 2 * a.hidden, bias=False)
        self.down = nn.Linear(a.hidden, a.dim, bias=False)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Model(nn.Module):
    """The Llama block of rustane; `forward` gives the mean cross-entropy."""

    def __init__(self, a):
        super().__init__()
        self.embed = nn.Embedding(a.vocab, a.dim)
        self.rope = Rope(a.head_dim, a.seq)
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.RMSNorm(a.dim, 1e-5), Attention(a), nn.RMSNorm(a.dim, 1e-5), Ffn(a)])
            for _ in range(a.layers))
        self.norm = nn.RMSNorm(a.dim, 1e-5)
        self.head = nn.Linear(a.dim, a.vocab, bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
        if not a.untied:
            self.head.weight = self.embed.weight

    def logits(self, tokens):
        x = self.embed(tokens)
        for attn_norm, attention, ffn_norm, ffn in self.blocks:
            x = x + attention(attn_norm(x), self.rope)
            x = x + ffn(ffn_norm(x))
        return self.head(self.norm(x))

    def forward(self, tokens, targets):
        return F.cross_entropy(self.logits(tokens).float().flatten(0, 1), targets.flatten())


def flop_per_token(a):
    """Six per weight of a matrix product and token, and the mean of `seq + 1` over 2 keys per query in q·kᵀ and p·v."""
    q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    weights = a.layers * (a.dim * (2 * q + 2 * kv) + 3 * a.dim * a.hidden) + a.dim * a.vocab
    return 6 * weights + 6 * a.layers * 2 * q * (a.seq + 1) / 2


def main():
    a = arguments()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    device = torch.device(a.device)
    wait = torch.cuda.synchronize if a.device == "cuda" else lambda: None

    model = Model(a).to(device)
    params = list(model.parameters())
    optimizer = torch.optim.AdamW([
        {"params": [p for p in params if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in params if p.dim() == 1], "weight_decay": 0.0},
    ], lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    loss_of = torch.compile(model) if a.compile else model
    ids = torch.randint(a.vocab, (a.batch, a.seq + 1)).to(device)
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step():
        """One step; `(loss, milliseconds of forward, backward, update, and processor)`."""
        wait()
        cpu, marks = time.process_time(), [time.perf_counter()]

        def mark():
            wait()
            marks.append(time.perf_counter())

        with torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.dtype == "bf16"):
            loss = loss_of(tokens, targets)
        mark()
        loss.backward()
        mark()
        if a.clip:
            torch.nn.utils.clip_grad_norm_(params, a.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mark()
        cpu = time.process_time() - cpu
        return loss.item(), [1e3 * (e - s) for s, e in zip(marks, marks[1:])] + [1e3 * cpu]

    start = time.perf_counter()
    first_loss, _ = step()
    first_step_s = time.perf_counter() - start
    for _ in range(a.warmup - 1):
        step()
    timed = [step() for _ in range(a.steps)]
    phases = [t for _, t in timed]
    forward, backward, update, cpu = map(statistics.median, zip(*phases))
    whole = [sum(t[:3]) for t in phases]
    ms = statistics.median(whole)
    count = a.batch * a.seq
    # Linux counts the peak in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    shape = {k: getattr(a, k) for k in ("dim", "hidden", "layers", "heads", "kv_heads", "head_dim", "vocab", "seq", "batch")}
    print(json.dumps({
        "engine": f"torch {torch.__version__}",
        "device": torch.cuda.get_device_name() if a.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(), "dtype": a.dtype, "compile": a.compile, "clip": a.clip,
        **shape, "tied": not a.untied, "params": sum(p.numel() for p in params), "steps": a.steps,
        "tok_per_s": round(1e3 * count / ms, 2),
        "ms_per_step": round(ms, 2), "ms_min": round(min(whole), 2), "ms_max": round(max(whole), 2),
        "ms_forward": round(forward, 2), "ms_backward": round(backward, 2), "ms_update": round(update, 2),
        "cpu_ms_per_step": round(cpu, 2),
        "gflop_per_step": round(flop_per_token(a) * count / 1e9, 3),
        "gflop_per_s": round(flop_per_token(a) * count / ms / 1e6, 2),
        "first_step_s": round(first_step_s, 3), "first_loss": first_loss, "last_loss": timed[-1][0],
        "peak_rss_mib": round(peak, 1),
        "peak_device_mib": round(torch.cuda.max_memory_allocated() / 2**20, 1) if a.device == "cuda" else None,
    }))


if __name__ == "__main__":
    main()
