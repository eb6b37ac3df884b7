#!/usr/bin/env python3
"""Writes a language model with random weights as a GGUF file that llama.cpp loads.

    make_model.py {tiny,demo} FILE

It talks nonsense, and costs the time and the KV bytes of a real model of its shape, which is what the
example is about. The weights come from a seeded generator: one preset, one file, byte for byte. Its
vocabulary is three control tokens and the 256 bytes, so it reads any text.

    tiny   0.4 M parameters in 2 layers, for tests
    demo   106 M parameters in 30 layers, 22.5 KiB of KV per token

Needs the packages gguf and numpy; scripts/build-llama.sh makes a Python that has them.
"""

import os
import sys
from dataclasses import dataclass

import gguf
import numpy


@dataclass(frozen=True)
class Shape:
    layers: int
    width: int
    heads: int
    kv_heads: int
    inner_width: int

    @property
    def head_width(self):
        return self.width // self.heads

    @property
    def kv_width(self):
        return self.kv_heads * self.head_width


PRESETS = {
    "tiny": Shape(layers=2, width=128, heads=4, kv_heads=2, inner_width=256),
    "demo": Shape(layers=30, width=576, heads=9, kv_heads=3, inner_width=1536),
}
CONTROL_TOKENS = [b"<unk>", b"<s>", b"</s>"]
BYTE_TOKENS = [b"<0x%02X>" % value for value in range(256)]
CONTEXT_TOKENS = 1 << 17


def write_header(writer, preset, shape):
    tokens = CONTROL_TOKENS + BYTE_TOKENS
    writer.add_name(f"hostkv-{preset}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.inner_width)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(
        [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
        + [gguf.TokenType.BYTE] * len(BYTE_TOKENS)
    )
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def write_weights(writer, shape, generator):
    def matrix(name, rows, columns, gain=1.0, silent_rows=0):
        values = generator.standard_normal((rows, columns), dtype=numpy.float32)
        values *= numpy.float32(gain / columns**0.5)
        values[:silent_rows] = 0
        writer.add_tensor(name, values.astype(numpy.float16))

    def norm(name):
        writer.add_tensor(name, numpy.ones(shape.width, dtype=numpy.float32))

    vocabulary = len(CONTROL_TOKENS) + len(BYTE_TOKENS)
    # Undo the division by the root of the width: an embedding's elements are of size 1.
    matrix("token_embd.weight", vocabulary, shape.width, gain=shape.width**0.5)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm.weight")
        # Queries and keys a little larger than usual: attention then prefers some positions, so a single
        # wrong KV row far back shows in the logits.
        matrix(f"{block}.attn_q.weight", shape.width, shape.width, gain=1.8)
        matrix(f"{block}.attn_k.weight", shape.kv_width, shape.width, gain=1.8)
        matrix(f"{block}.attn_v.weight", shape.kv_width, shape.width)
        matrix(f"{block}.attn_output.weight", shape.width, shape.width)
        norm(f"{block}.ffn_norm.weight")
        matrix(f"{block}.ffn_gate.weight", shape.inner_width, shape.width)
        matrix(f"{block}.ffn_up.weight", shape.inner_width, shape.width)
        matrix(f"{block}.ffn_down.weight", shape.width, shape.inner_width)
    norm("output_norm.weight")
    # Control tokens get logit 0 and the largest of 256 others is above that: the model never ends its text.
    matrix("output.weight", vocabulary, shape.width, gain=3.0, silent_rows=len(CONTROL_TOKENS))


def main(arguments):
    if len(arguments) != 2 or arguments[0] not in PRESETS:
        print(f"usage: make_model.py {{{','.join(PRESETS)}}} FILE", file=sys.stderr)
        return 2
    preset, path = arguments
    unfinished = f"{path}.{os.getpid()}.part"
    try:
        writer = gguf.GGUFWriter(unfinished, "llama")
        write_header(writer, preset, PRESETS[preset])
        write_weights(writer, PRESETS[preset], numpy.random.Generator(numpy.random.PCG64(1)))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        # Whoever finds the file under its name finds the whole of it.
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
