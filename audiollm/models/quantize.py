"""Language models in 4 or 8 bits a weight, by bitsandbytes: NF4 with double quantisation, or LLM.int8.

What is quantised is every linear layer of the language model; embeddings, norms and the vocabulary projection stay. NF4
also leaves out layers whose inputs do not fill whole blocks of 64, which no public model of size has: on CPUs with
AVX-512 bitsandbytes 0.50 reads such weights with the scale of a neighbouring block.
Such a model is frozen, and adapters (LoRA) and what listens train on it. LLM.int8 leaves out what is above 6 in any row
of a batch: in 8 bits, and there alone, an answer can depend a little on what else is asked at once.
Not here: where the weights come from and how they are told apart (parts.py).
"""

import importlib.util
import logging
import os
from typing import Any

import torch
from torch import nn

SCHEMES = ("nf4", "int8")
"""How a language model can be quantised, by name."""
NF4_BLOCK = 64
"""Weights of NF4 that share a scale."""
UNQUANTIZED = "none"
"""What to ask for to get a checkpoint's language model as it was before quantisation."""


def require_bitsandbytes(what: str) -> None:
    """ImportError, with the way out, if bitsandbytes is not installed; `what` needs it."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError(f"{what} needs bitsandbytes: pip install 'audiollm[quant]'")


def check_scheme(scheme: str | None) -> str | None:
    """The scheme, None for "none"; ValueError for one that is not known, ImportError without bitsandbytes."""
    if scheme in (None, UNQUANTIZED):
        return None
    if scheme not in SCHEMES:
        raise ValueError(f"quantize={scheme!r} is unknown; use {', '.join(SCHEMES)} or {UNQUANTIZED}")
    require_bitsandbytes(f"quantize={scheme}")
    return scheme


def can_be_quantized(in_features: int, scheme: str) -> bool:
    """Whether a linear layer with so many inputs is quantised, or stays as it is."""
    return scheme != "nf4" or in_features % NF4_BLOCK == 0


def quantize_linears(language_model: Any, scheme: str) -> None:
    """Quantise the linear layers of a language model in place; the same weights give the same bits in any type.

    ValueError if there is none that can be.
    """
    linears = [
        (name, module)
        for name, module in language_model.named_modules()
        if type(module) is nn.Linear and can_be_quantized(module.in_features, scheme)
    ]
    if not linears:
        raise ValueError(
            f"quantize={scheme}: no linear layer of this language model has a multiple of {NF4_BLOCK} inputs; "
            "leave it out, or take int8"
        )
    for name, module in linears:
        language_model.set_submodule(name, quantized(module, scheme))
    setattr(language_model, {"nf4": "is_loaded_in_4bit", "int8": "is_loaded_in_8bit"}[scheme], True)  # peft looks here
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # int8 warns at every call


def quantized(linear: nn.Linear, scheme: str) -> nn.Linear:
    """The layer in 4 or 8 bits, on the device where it was; a GPU does the work if there is one."""
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    sizes = (linear.in_features, linear.out_features, linear.bias is not None)
    parameter: Any  # moving it quantises it
    made: Any
    if scheme == "nf4":
        with torch.device("meta"):
            made = Linear4bit(*sizes, torch.bfloat16, quant_type="nf4")
        made.support_avx512bf16_for_cpu = False  # it would repack the weights at the first answer, for good
        data = linear.weight.data.to(torch.bfloat16)
        parameter = Params4bit(data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made)
    else:
        with torch.device("meta"):
            made = Linear8bitLt(*sizes, False, 6.0)  # without a copy in 16 bits; features above 6 are not quantised
        parameter = Int8Params(linear.weight.data.to(torch.float16), requires_grad=False, has_fp16_weights=False)
    home = linear.weight.device
    where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else home
    made.weight = parameter.to(where).to(home)
    made.bias = linear.bias
    return made.train(linear.training).requires_grad_(False)
