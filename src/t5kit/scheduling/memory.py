"""How many bytes of caches a request takes, told from the model's shapes before anything is computed."""

from t5kit.config import T5Config
from t5kit.decoding import DecodingOptions, num_rows

PAGE_TOKENS = 16
"""Tokens that the native engine's caches grow by (native/memory.h)."""
_BYTES_A_NUMBER = 4
"""Caches hold float32 at most."""


def bytes_per_token(config: T5Config) -> int:
    """Return the bytes of one token's keys and values in all decoder layers, the same for self- and cross-attention.

    Numbers: layers * heads * (keys + values) * 4 bytes, where the values of a head are padded to 16.
    """
    padded = _rounded_up(config.d_kv)
    return config.num_decoder_layers * config.num_heads * (config.d_kv + padded) * _BYTES_A_NUMBER


def prompt_bytes(config: T5Config, num_tokens: int) -> int:
    """Return the bytes that an encoded prompt of `num_tokens` keeps for cross-attention."""
    return _rounded_up(num_tokens) * bytes_per_token(config)


def answer_bytes(config: T5Config, options: DecodingOptions) -> int:
    """Return the most bytes that the rows of one request can keep for self-attention: all at max_new_tokens."""
    return num_rows(options) * _rounded_up(options.max_new_tokens) * bytes_per_token(config)


def request_bytes(config: T5Config, num_prompt_tokens: int, options: DecodingOptions) -> int:
    """Return the most bytes of caches that one request can take: its prompt's and its answers'.

    Weights and the engine's work space come on top. Beams that share a past take less, requests that share a prompt
    keep it once, and PyTorch rounds up more coarsely.
    """
    return prompt_bytes(config, num_prompt_tokens) + answer_bytes(config, options)


def _rounded_up(count: int) -> int:
    return -(-count // PAGE_TOKENS) * PAGE_TOKENS
