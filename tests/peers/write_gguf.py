"""Writes a GGUF file of a Llama shape with weights of noise, for timing llama.cpp.

    python write_gguf.py llama-1.1b q8_0 out.gguf        # pip install gguf numpy

Matrices of one shape share their noise: a time does not depend on the values, and writing them does.
"""

import sys

import gguf
import numpy as np

# dim, hidden, layers, heads, kv_heads, vocab, tied; the names are those of `rustane bench decode --shape`.
SHAPES = {
    "llama-1.1b": (2048, 5632, 22, 32, 4, 32000, False),
    "smollm-135m": (576, 1536, 30, 9, 3, 49152, True),
}
TYPES = {
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}


def main(shape, type_name, path):
    dim, hidden, layers, heads, kv_heads, vocab, tied = SHAPES[shape]
    kind, file_type = TYPES[type_name]
    head_dim = dim // heads
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(shape)
    w.add_context_length(2048)
    w.add_embedding_length(dim)
    w.add_block_count(layers)
    w.add_feed_forward_length(hidden)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(head_dim)
    w.add_rope_freq_base(10000.0)
    w.add_file_type(file_type)
    w.add_vocab_size(vocab)
    tokens = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{i:02X}>".encode() for i in range(256)]
    types = [2, 3, 3] + [6] * 256
    tokens += [f"t{i}".encode() for i in range(vocab - len(tokens))]
    types += [1] * (vocab - len(types))
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * vocab)
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    random, made = np.random.default_rng(0), {}

    def matrix(name, rows, columns):
        if (rows, columns) not in made:
            values = random.standard_normal((rows, columns), dtype=np.float32) * 0.02
            made[rows, columns] = gguf.quants.quantize(values, kind)
        w.add_tensor(name, made[rows, columns], raw_dtype=kind)

    def gain(name):
        w.add_tensor(name, np.ones(dim, np.float32))

    matrix("token_embd.weight", vocab, dim)
    if not tied:
        matrix("output.weight", vocab, dim)
    gain("output_norm.weight")
    for layer in range(layers):
        block = f"blk.{layer}."
        gain(block + "attn_norm.weight")
        gain(block + "ffn_norm.weight")
        matrix(block + "attn_q.weight", dim, dim)
        matrix(block + "attn_k.weight", kv_heads * head_dim, dim)
        matrix(block + "attn_v.weight", kv_heads * head_dim, dim)
        matrix(block + "attn_output.weight", dim, dim)
        matrix(block + "ffn_gate.weight", hidden, dim)
        matrix(block + "ffn_up.weight", hidden, dim)
        matrix(block + "ffn_down.weight", dim, hidden)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES or sys.argv[2] not in TYPES:
        sys.exit(f"usage: write_gguf.py {'|'.join(SHAPES)} {'|'.join(TYPES)} FILE")
    main(*sys.argv[1:])
