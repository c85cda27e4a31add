#!/usr/bin/env python3
"""Writes the golden models: what PyTorch and transformers compute on tiny random models.

    python make_golden.py [OUT] [--case NAME ...]

OUT defaults to `golden/` beside this file. Each case becomes `OUT/models/<case>/`, a Hugging Face directory as
transformers writes it, plus

- `golden.safetensors`: the batch, logits, loss, every gradient, the weights after 1 and 10 AdamW steps, and a greedy
  continuation;
- `golden.json`: the training rule in words a reader can check, and how far this fp32 run is from the same run in
  fp64 (`noise`): no tolerance below that figure makes sense.

`OUT/muon.safetensors` holds three steps of Muon on a few matrix shapes.

Seeds are fixed and the run is single-threaded. Another CPU may round the last bits differently.
"""
import argparse
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GraniteConfig, LlamaConfig, Qwen2Config, Qwen3Config

# At the usual 0.02 the logits hardly depend on the attention, and a wrong rope layout goes unseen.
MATRIX_STD = 0.06
NORM_STD = 0.1
STEPS = 10
# Prompt length, tokens to continue, and the least lead of the best logit at each of them: far above fp32 noise.
PROMPT, CONTINUE, LEAST_GAP = 5, 16, 1e-3

ADAMW = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8}
WEIGHT_DECAY = 0.1
CLIP = 1.0

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, attention_dropout=0.0,
             bos_token_id=None, eos_token_id=None, pad_token_id=None)


@dataclass
class Case:
    """One model: its configuration, the length of its two sequences, the seed of its weights."""

    config: transformers.PretrainedConfig
    seq: int
    # AdamW's first step is near ±lr however small the gradient, so a gradient within rounding of zero turns rounding
    # into a full step. These seeds draw none below 3e-7 (see `noise` in golden.json).
    seed: int
    # Whether to write the weights after ten steps without clipping too.
    unclipped: bool = False


def rope(theta=10000.0, **scaling):
    return {"rope_type": "default", "rope_theta": theta} | scaling


def llama(**kw):
    return LlamaConfig(**(SMALL | dict(rms_norm_eps=1e-5, rope_parameters=rope(), tie_word_embeddings=False) | kw))


def cases():
    return {
        "llama_mha_tied": Case(llama(num_key_value_heads=4, tie_word_embeddings=True), 17, 17, unclipped=True),
        "llama_gqa_untied": Case(llama(vocab_size=72), 24, 12),
        "llama_head_dim": Case(llama(head_dim=12), 19, 6),
        # Wavelengths 6.3, 20, 63, 199, … tokens against the borders 64/4 = 16 and 64/1 = 64: every branch of the scaling.
        "llama_rope_llama3": Case(llama(hidden_size=48, num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=128,
                                        rope_parameters=rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                                             high_freq_factor=4.0,
                                                             original_max_position_embeddings=64)), 24, 5),
        "llama_theta_eps": Case(llama(rms_norm_eps=1e-6, rope_parameters=rope(500000.0)), 23, 24),
        "qwen2_gqa_tied": Case(Qwen2Config(**SMALL, rms_norm_eps=1e-6, rope_parameters=rope(),
                                           tie_word_embeddings=True), 23, 11),
        "qwen3_gqa_untied": Case(Qwen3Config(**SMALL, head_dim=16, rms_norm_eps=1e-6, rope_parameters=rope(1e6),
                                             tie_word_embeddings=False), 21, 3),
        "granite_residual": Case(GraniteConfig(**SMALL, rms_norm_eps=1e-5, rope_parameters=rope(),
                                               residual_multiplier=0.35, attention_multiplier=8 ** -0.5,
                                               tie_word_embeddings=True), 22, 2),
        # Only to be loaded: bf16 weights over several files, and the logits of the same weights in fp32.
        "llama_bf16_sharded": Case(llama(tie_word_embeddings=True), 17, 8),
    }


def build(case):
    """A model with redrawn weights: matrices and biases around 0, norms around 1."""
    g = torch.Generator().manual_seed(case.seed)
    model = AutoModelForCausalLM.from_config(case.config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            norm = name.endswith("norm.weight")
            p.copy_(torch.randn(p.shape, generator=g) * (NORM_STD if norm else MATRIX_STD) + (1.0 if norm else 0.0))
    return model


def draw_batch(case):
    g = torch.Generator().manual_seed(1000 + case.seed)
    ids = torch.randint(case.config.vocab_size, (2, case.seq + 1), generator=g)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def loss_of(model, tokens, targets):
    logits = model(tokens, use_cache=False).logits
    return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def train(case, dtype, clip):
    """Ten AdamW steps on one batch: `(tensors, losses before each step and after the last, gradient norms)`."""
    model = build(case).to(dtype)
    tokens, targets = draw_batch(case)
    params = dict(model.named_parameters())
    opt = torch.optim.AdamW([
        {"params": [p for p in params.values() if p.dim() == 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in params.values() if p.dim() == 1], "weight_decay": 0.0},
    ], **ADAMW)
    tensors, losses, norms = {}, [], []
    for step in range(1, STEPS + 1):
        opt.zero_grad()
        logits, loss = loss_of(model, tokens, targets)
        loss.backward()
        if step == 1:
            tensors["logits"] = logits.detach().clone()
            for name, p in params.items():
                assert p.grad.isfinite().all() and p.grad.any(), f"{name} has no gradient"
                tensors[f"grad.{name}"] = p.grad.clone()
        losses.append(loss.item())
        # With an infinite limit the norm is measured and the gradients stay as they are.
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), clip or math.inf).item())
        opt.step()
        if step in (1, STEPS):
            for name, p in params.items():
                tensors[f"after{step}.{name}"] = p.detach().clone()
    with torch.no_grad():
        losses.append(loss_of(model, tokens, targets)[1].item())
    return tensors, losses, norms


def greedy(model, vocab):
    """A prompt, its most likely continuation, and the least lead of a chosen token over the runner-up."""
    for seed in range(100):
        g = torch.Generator().manual_seed(2000 + seed)
        prompt = torch.randint(vocab, (1, PROMPT), generator=g)
        ids, gap = prompt, math.inf
        with torch.no_grad():
            for _ in range(CONTINUE):
                best = model(ids, use_cache=False).logits[0, -1].topk(2)
                gap = min(gap, (best.values[0] - best.values[1]).item())
                ids = torch.cat([ids, best.indices[None, :1]], 1)
            cached = model.generate(prompt, do_sample=False, max_new_tokens=CONTINUE, use_cache=True)
        if gap >= LEAST_GAP:
            assert torch.equal(ids, cached), "generate() with its cache continues differently"
            return prompt[0], ids[0, PROMPT:], gap
    raise SystemExit(f"no prompt keeps the best token {LEAST_GAP} ahead; lower LEAST_GAP or change the case's seed")


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def noise(fp32, fp64):
    """Largest distance of the fp32 run from the fp64 run, by kind of tensor: absolute for logits, else relative per tensor."""
    worst = {"logits_max_abs": (fp32["logits"].double() - fp64["logits"]).abs().max().item()}
    for kind in ("grad", "after1", f"after{STEPS}"):
        worst[f"{kind}_rel"] = max(relative(t, fp64[n]) for n, t in fp32.items() if n.startswith(kind + "."))
    return {k: float(f"{v:.2e}") for k, v in worst.items()}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_model(case, out):
    if out.exists():
        shutil.rmtree(out)
    model = build(case)
    model.save_pretrained(out)
    tokens, targets = draw_batch(case)

    tensors, losses, norms = train(case, torch.float32, CLIP)
    tensors["loss"] = torch.tensor(losses[0])
    tensors["grad_norm"] = torch.tensor(norms[0])
    tensors["losses"], tensors["grad_norms"] = torch.tensor(losses), torch.tensor(norms)
    facts = {
        "torch": torch.__version__.partition("+")[0],
        "transformers": transformers.__version__,
        "loss": "mean cross-entropy over all positions of both sequences, nats",
        "optimizer": {
            "rule": "torch.optim.AdamW, the same batch every step",
            **ADAMW,
            "weight_decay": WEIGHT_DECAY,
            "decays": "every 2-D tensor, the embedding and the head too; no 1-D tensor (norms, biases)",
        },
        "clip": {"max_norm": CLIP, "rule": "all gradients times min(1, max_norm / (norm + 1e-6)), norm over all tensors"},
        "grad": "before clipping",
        "after": "weights after the named number of steps, with clipping",
        "noise": noise(tensors, train(case, torch.float64, CLIP)[0]),
    }
    if case.unclipped:
        free, free_losses, _ = train(case, torch.float32, None)
        tensors |= {f"unclipped.{n}": t for n, t in free.items() if n.startswith(f"after{STEPS}.")}
        tensors["unclipped.losses"] = torch.tensor(free_losses)
        facts["unclipped"] = "the same steps without clipping"

    prompt, continuation, gap = greedy(model, case.config.vocab_size)
    facts["greedy"] = {"rule": "most likely token each time, from `prompt`", "least_top2_gap": gap}
    tensors |= {"tokens": tokens, "targets": targets, "prompt": prompt, "greedy": continuation}
    write_golden(out, tensors, facts)
    print(f"{out.name:20} loss {losses[0]:.4f} -> {losses[-1]:.4f}  norm {norms[0]:.3f}  gap {gap:.4f}  {facts['noise']}")


def write_sharded(case, out):
    if out.exists():
        shutil.rmtree(out)
    model = build(case).to(torch.bfloat16)
    model.save_pretrained(out, max_shard_size="12KB")
    shards = len(list(out.glob("model-*.safetensors")))
    assert shards > 2, f"{out.name} has {shards} shards"
    tokens, _ = draw_batch(case)
    with torch.no_grad():
        logits = model.float()(tokens, use_cache=False).logits
    write_golden(out, {"tokens": tokens, "logits": logits}, {
        "torch": torch.__version__.partition("+")[0],
        "transformers": transformers.__version__,
        "logits": "of the bf16 weights widened to fp32, computed in fp32",
    })
    print(f"{out.name:20} {shards} shards")


def write_golden(out, tensors, facts):
    narrow = {n: (t.to(torch.int32) if t.dtype == torch.int64 else t).contiguous() for n, t in tensors.items()}
    save_file(narrow, out / "golden.safetensors")
    write_json(out / "golden.json", facts)


def orthogonalize(g):
    """Newton–Schulz: pulls every singular value of `g` near 1. Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.mT if g.size(0) > g.size(1) else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if g.size(0) > g.size(1) else x


MUON = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
MUON_SHAPES = [(8, 8), (16, 24), (48, 16), (20, 64), (33, 7)]


def muon_step(w, g, m):
    """One update; returns the new weight and momentum."""
    m = MUON["momentum"] * m + g
    update = orthogonalize(g + MUON["momentum"] * m) * math.sqrt(max(1.0, w.size(0) / w.size(1)))
    return w * (1 - MUON["lr"] * MUON["weight_decay"]) - MUON["lr"] * update, m


def write_muon(out):
    gen = torch.Generator().manual_seed(9)
    tensors, worst = {}, 0.0
    for shape in MUON_SHAPES:
        w = torch.randn(shape, generator=gen) * MATRIX_STD
        grads = [torch.randn(shape, generator=gen) * 0.01 for _ in range(3)]
        name = "x".join(map(str, shape))
        tensors[f"{name}.weight"] = w
        theirs = torch.nn.Parameter(w.clone())
        opt = torch.optim.Muon([theirs], **MUON, nesterov=True, adjust_lr_fn="original")
        m, w64, m64 = torch.zeros(shape), w.double(), torch.zeros(shape, dtype=torch.float64)
        for step, g in enumerate(grads, 1):
            w, m = muon_step(w, g, m)
            w64, m64 = muon_step(w64, g.double(), m64)
            theirs.grad = g.clone()
            opt.step()
            worst = max(worst, relative(w, w64))
            tensors |= {f"{name}.grad{step}": g, f"{name}.after{step}": w}
        # torch orthogonalizes in bf16, which bounds how well the two can agree.
        moved = tensors[f"{name}.weight"]
        apart = relative(theirs.detach() - moved, w - moved)
        assert apart < 0.05, f"torch.optim.Muon moves {name} elsewhere: {apart:.3f} apart"
        print(f"muon {name:8} {apart:.4f} from torch.optim.Muon")
    save_file(tensors, out / "muon.safetensors")
    write_json(out / "muon.json", {
        "torch": torch.__version__.partition("+")[0],
        "rule": "m = momentum·m + g; u = newton_schulz(g + momentum·m)·sqrt(max(1, rows/cols)); "
                "w = w·(1 − lr·weight_decay) − lr·u",
        "newton_schulz": "x = g/(‖g‖ + 1e-7), of the transpose when rows > cols; 5 times: s = x·xᵀ, "
                         "x = 3.4445·x + (−4.7750·s + 2.0315·s·s)·x",
        **MUON,
        "noise": {"after_rel": float(f"{worst:.2e}")},
    })


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", nargs="?", type=Path, default=Path(__file__).parent / "golden")
    p.add_argument("--case", action="append", choices=[*cases(), "muon"], help="only this one; may be repeated")
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    (a.out / "models").mkdir(parents=True, exist_ok=True)
    for name, case in cases().items():
        if a.case is None or name in a.case:
            write = write_sharded if name == "llama_bf16_sharded" else write_model
            write(case, a.out / "models" / name)
    if a.case is None or "muon" in a.case:
        write_muon(a.out)


if __name__ == "__main__":
    main()
