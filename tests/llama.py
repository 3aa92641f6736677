"""A real llama.cpp server on a tiny model, for whoever needs a real OpenAI-compatible upstream.

`write_model` writes a GGUF of random weights: a llama of about a hundred thousand parameters that knows ten words and
says them in an order that depends on what it has read, for ever (it cannot end an answer by itself: `max_tokens` does).
`llama_server` runs llama.cpp's own HTTP server on it, from the `xllamacpp` wheel, in a child process of its own; the
fixture `llama` shares one between all tests of a session. Neither needs a network or more than a second.

Invariants: the same seed gives the same weights and the same answers; the text is always valid UTF-8 and only `WORDS`;
the child ends with its parent, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WORDS = ("alpha", "beta", "gamma", "delta", "omega", "river", "stone", "cloud", "light", "north")
CONTEXT_TOKENS = 16_384  # of each slot
SLOTS = 4

_START_SECONDS = 120.0
_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@dataclass(frozen=True)
class LlamaServer:
    """A running server. `base_url` ends in /v1; `log` is where llama.cpp writes what it does."""

    url: str
    log: Path

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def busy_slots(self) -> int:
        """How many answers it is making now, as it says itself. Blocks for a few milliseconds."""
        with urllib.request.urlopen(f"{self.url}/slots", timeout=5) as response:
            slots: list[dict[str, Any]] = json.load(response)
        return sum(bool(slot["is_processing"]) for slot in slots)


def write_model(path: Path, *, width: int = 64, layers: int = 2, seed: int = 1) -> None:
    """Write the model.

    Args:
        width: embedding size, a multiple of 8; generating slows down with its square.
        layers: transformer blocks; generating slows down with them.
    """
    import gguf
    import numpy as np

    random = np.random.default_rng(seed)
    control, unknown, byte, normal = (
        int(kind)
        for kind in (
            gguf.TokenType.CONTROL,
            gguf.TokenType.UNKNOWN,
            gguf.TokenType.BYTE,
            gguf.TokenType.NORMAL,
        )
    )
    tokens = [(b"<unk>", unknown), (b"<s>", control), (b"</s>", control)]
    tokens += [(b"<0x%02X>" % value, byte) for value in range(256)]  # how anything can be read
    silent = len(tokens)
    tokens += [("\u2581".encode() + word.encode(), normal) for word in WORDS]

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 4)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([0.0 if at < silent else -1.0 for at in range(len(tokens))])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(_TEMPLATE)

    def weights(rows: int, columns: int) -> Any:
        return (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    # Dimension 0 of the residual stream is the same for every token and written by no block, so that it stays
    # positive; against it the output layer votes down whatever is not a word.
    embeddings, output = weights(len(tokens), width), 5 * weights(len(tokens), width)
    embeddings[:, 0] = 1.0
    output[:silent] = 0.0
    output[:silent, 0] = -1000.0
    output[silent:, 0] = 0.0
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for block in range(layers):
        name = f"blk.{block}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{name}.{norm}.weight", np.ones(width, np.float32))
        for part in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"{name}.{part}.weight", weights(width, width))
        for part in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{name}.{part}.weight", weights(2 * width, width))
        for part, columns in (("attn_output", width), ("ffn_down", 2 * width)):
            writing = weights(width, columns)
            writing[0] = 0.0
            writer.add_tensor(f"{name}.{part}.weight", writing)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextlib.contextmanager
def llama_server(folder: Path, *, width: int = 64, layers: int = 2) -> Iterator[LlamaServer]:
    """Run the server while the block runs.

    Args:
        folder: where the model and the log go.
        width, layers: see `write_model`; 64 and 2 make some 2,000 tokens a second, 512 and 8 some 100.
    Raises:
        RuntimeError: it does not start; its log is in the message.
    """
    model, log = folder / "tiny.gguf", folder / "llama.log"
    write_model(model, width=width, layers=layers)
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, __file__, str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out
        ) as child,
    ):
        assert child.stdout is not None
        try:
            address = child.stdout.readline().decode().strip()
            if not address:
                raise RuntimeError(f"llama.cpp did not start:\n{log.read_text(errors='replace')}")
            _wait_until_healthy(address)
            yield LlamaServer(address, log)
        finally:
            child.kill()


def _wait_until_healthy(url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    """The session's llama.cpp server."""
    with llama_server(tmp_path_factory.mktemp("llama")) as server:
        yield server


def _serve(model: str) -> None:
    """The child: serve until standard input ends, which it does when the parent is gone."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT_TOKENS
    params.sampling.seed = 7
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_threads_http = 8
    params.endpoint_slots = True
    params.warmup = params.ui = params.fit_params = False
    params.cache_ram_mib = 0
    server = xllamacpp.Server(params)
    # Standard output of the child is the parent's to read; llama.cpp logs to standard error.
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1])
