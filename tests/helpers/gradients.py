"""What a step keeps for its backward pass, and the gradients that it finds."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def kept_and_gradients(step: Callable[[], Tensor], module: nn.Module) -> tuple[int, dict]:
    """Bytes of the tensors that autograd keeps for the loss of a step, and its gradients by name.

    Weights, and the inputs of checkpoints, are not counted.
    """
    own = {weight.data_ptr() for weight in module.parameters()}
    held: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            held[x.untyped_storage().data_ptr()] = x
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        loss = step()
    size = sum(x.untyped_storage().nbytes() for x in held.values())
    held.clear()
    loss.backward()
    found = {name: w.grad.clone() for name, w in module.named_parameters() if w.grad is not None}
    return size, found
