#!/usr/bin/env python3
"""Ten training steps of the published sweep protocol in PyTorch, fp32: what `rustane bench sweep` must reproduce.

    python torch_published.py --dim 1024 --hidden 2816 --layers 8 [--seq 512] [--steps 10] [--threads 2]

Prints the loss before training and after each step. The protocol (ncdrone/rustane, `bench_param_sweep`): weights from a
64-bit congruential generator seeded by each tensor's size, tokens 31·i + 7 modulo 8192, the same sequence every step,
residual branches scaled by 1/√(2·layers), rotary pairs (2i, 2i+1), tied head, AdamW in its warm-up of 100 steps to 3e-4,
times 0.05 for matrices and 5 for the embedding, clipping at 1.
"""
import argparse
import math

import numpy as np
import torch
import torch.nn.functional as F

VOCAB, HEAD_DIM, EPS = 8192, 128, 1e-5
MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407


def uniform(rows, columns, scale):
    """`rows · columns` numbers in ±scale; the seed is 42 plus their count."""
    n, mask = rows * columns, 2**64 - 1
    states = np.array([(MULTIPLIER * (42 + n) + INCREMENT) & mask], dtype=np.uint64)
    # x ↦ a·x + c jumps as many steps as there are states.
    a, c = MULTIPLIER, INCREMENT
    while len(states) < n:
        states = np.concatenate([states, states * np.uint64(a) + np.uint64(c)])
        a, c = (a * a) & mask, (a * c + c) & mask
    u = (states[:n] >> np.uint64(32)).astype(np.float32) / np.float32(2**32 - 1)
    return torch.from_numpy((2 * u - 1) * np.float32(scale)).reshape(rows, columns)


def rms_norm(x, gain):
    return gain * x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt()


def rotate(x, cos, sin):
    """Pairs (2i, 2i+1) of `[heads, seq, head_dim]`."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class Model:
    def __init__(self, dim, hidden, layers, seq):
        self.heads, self.scale = dim // HEAD_DIM, 1 / math.sqrt(2 * layers)
        w, f = 1 / math.sqrt(dim), 1 / math.sqrt(hidden)
        # Matrices are [inputs, outputs], as the original keeps them.
        self.layers = [
            {
                "n1": torch.ones(dim), "q": uniform(dim, dim, w), "k": uniform(dim, dim, w), "v": uniform(dim, dim, w),
                "o": torch.zeros(dim, dim), "n2": torch.ones(dim), "w1": uniform(dim, hidden, f),
                "w3": uniform(dim, hidden, f), "w2": torch.zeros(hidden, dim),
            }
            for _ in range(layers)
        ]
        self.embed, self.final = uniform(VOCAB, dim, 0.005), torch.ones(dim)
        angle = torch.outer(torch.arange(seq).double(), 10000 ** (-torch.arange(0, HEAD_DIM, 2).double() / HEAD_DIM))
        self.cos, self.sin = angle.cos().float(), angle.sin().float()
        for p in self.params():
            p.requires_grad_()

    def params(self):
        return [p for layer in self.layers for p in layer.values()] + [self.embed, self.final]

    def groups(self, peak, decay):
        gains = [layer[n] for layer in self.layers for n in ("n1", "n2")] + [self.final]
        matrices = [p for layer in self.layers for n, p in layer.items() if n not in ("n1", "n2")]
        return [
            {"params": matrices, "peak": 0.05 * peak, "weight_decay": decay},
            {"params": [self.embed], "peak": 5 * peak, "weight_decay": 0.0},
            {"params": gains, "peak": peak, "weight_decay": 0.0},
        ]

    def loss(self, tokens, targets):
        x = self.embed[tokens]
        for p in self.layers:
            n = rms_norm(x, p["n1"])
            q, k, v = ((n @ p[m]).unflatten(-1, (self.heads, HEAD_DIM)).transpose(0, 1) for m in "qkv")
            o = F.scaled_dot_product_attention(rotate(q, self.cos, self.sin), rotate(k, self.cos, self.sin), v,
                                               is_causal=True)
            x = x + self.scale * (o.transpose(0, 1).flatten(-2) @ p["o"])
            n = rms_norm(x, p["n2"])
            x = x + self.scale * ((F.silu(n @ p["w1"]) * (n @ p["w3"])) @ p["w2"])
        return F.cross_entropy(rms_norm(x, self.final) @ self.embed.T, targets)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in [("dim", 1024), ("hidden", 2816), ("layers", 8), ("seq", 512), ("steps", 10), ("threads", 2)]:
        a.add_argument(f"--{name}", type=int, default=default)
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    model = Model(a.dim, a.hidden, a.layers, a.seq)
    stream = (31 * torch.arange(a.seq + 1) + 7) % VOCAB
    tokens, targets = stream[:-1], stream[1:]
    opt = torch.optim.AdamW(model.groups(3e-4, 0.1), betas=(0.9, 0.95), eps=1e-8)
    for step in range(a.steps):
        for group in opt.param_groups:
            group["lr"] = group["peak"] * (step + 1) / 100
        opt.zero_grad()
        loss = model.loss(tokens, targets)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.params(), 1.0)
        opt.step()
        print(f"{step:3}  loss {loss.item():.6f}  gradient norm {norm.item():.4f}", flush=True)
    with torch.no_grad():
        print(f"{a.steps:3}  loss {model.loss(tokens, targets).item():.6f}")


if __name__ == "__main__":
    main()
