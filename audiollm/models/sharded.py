"""Whether a module's weights are spread over ranks. Not here: spreading them (training/sharding.py)."""

from torch import nn
from torch.distributed.tensor import DTensor


def is_sharded(module: nn.Module) -> bool:
    """Whether a parameter of the module is spread over ranks, by DeepSpeed's ZeRO-3 or by FSDP2."""
    return any(hasattr(parameter, "ds_id") or isinstance(parameter, DTensor) for parameter in module.parameters())
