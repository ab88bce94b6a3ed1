"""Several ranks: what is sharded over them, and whole tensors out of the shards.

FSDP2 is applied here and not by accelerate, so that it runs, and is tested, on any device: what is large is sharded
layer by layer, and what is small and trains (adapters, connector, heads) lies whole on every rank, its gradients
averaged by the Trainer. DeepSpeed shards by itself; here it is only read.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from audiollm.training.stage_model import StageModel


def shard(stage: StageModel, device: torch.device) -> None:
    """Shard the language model, and an encoder that trains, over all ranks; the rest goes to the device whole."""
    base = stage.model.model
    large = [base.language_model, stage.model.lm_head]
    encoder = stage.model.encoder
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        large.append(encoder)
    sharded = {
        parameter for part in large for name, parameter in part.named_parameters() if can_be_sharded(name, parameter)
    }
    whole = {parameter for parameter in stage.parameters() if parameter not in sharded}
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for part in large:
        for layer in layers(part):
            fully_shard(layer, mesh=mesh, ignored_params=whole)
    fully_shard(stage, mesh=mesh, ignored_params=whole)
    for buffer in stage.buffers():
        buffer.data = buffer.data.to(device)


def can_be_sharded(name: str, parameter: Tensor) -> bool:
    """Adapters stay whole; so do weights of 4 and 8 bit, which are no floating-point numbers."""
    return ".lora_" not in name and parameter.is_floating_point()


def layers(part: nn.Module) -> list[nn.Module]:
    """The layers of an encoder or a language model: what its outermost module lists hold."""
    lists = {name: module for name, module in part.named_modules() if isinstance(module, nn.ModuleList)}
    outermost = [found for name, found in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    return [layer for found in outermost for layer in found]


def whole_state(module: nn.Module, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Tensors of a module by name, gathered from their shards. Every rank must call this."""
    return {name: whole(tensor) for name, tensor in module.state_dict(keep_vars=True).items() if wanted(name)}


def whole(tensor: Any) -> Tensor:
    """A tensor out of its shards, on the CPU if it was sharded; what trains under DeepSpeed in its float32 form."""
    if isinstance(tensor, DTensor):
        found: Any = tensor.detach()
        return found.full_tensor().cpu()
    if hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping"):
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        if tensor.requires_grad:
            return safe_get_full_fp32_param(tensor).cpu()
        with GatheredParameters([tensor]):
            return tensor.detach().cpu().clone()
    return tensor.detach()


def whole_optimizer_state(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state with whole tensors in place of shards. Every rank must call this."""
    moments = {
        number: {key: whole(value) if isinstance(value, DTensor) else value for key, value in values.items()}
        for number, values in state["state"].items()
    }
    return state | {"state": moments}


def shard_optimizer_state(state: dict[Any, dict[str, Any]]) -> None:
    """Cut whole tensors of an optimizer's state as the parameters are cut to which they belong, in place."""
    for parameter, values in state.items():
        for key, value in values.items():
            if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = distribute_tensor(value, parameter.device_mesh, parameter.placements)


def local_gradients(parameters: Iterable[Any]) -> list[Tensor]:
    """The gradients that this rank holds."""
    gradients = (parameter.grad for parameter in parameters if parameter.grad is not None)
    return [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
