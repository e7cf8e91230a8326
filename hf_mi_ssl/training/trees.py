"""State dicts as JSON beside tensors: what a checkpoint holds, without pickle."""

from torch import Tensor


def split(value, path: str, tensors: dict[str, Tensor]):
    """The tree without its tensors, which go to `tensors` under their path. Floats keep every bit, as hex."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous()
        return {"tensor": path}
    if isinstance(value, dict):
        items = [[_key(key), split(inner, f"{path}/{key}", tensors)] for key, inner in value.items()]
        return {"dict": items}
    if isinstance(value, (list, tuple)):
        items = [split(inner, f"{path}/{i}", tensors) for i, inner in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, float):
        return {"float": value.hex()}
    if value is None or isinstance(value, (bool, int, str)):
        return {"value": value}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__} (at {path!r})")


def apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each with memory of its own, as safetensors asks: copied only where it shares."""
    seen, found = set(), {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage()
        shares = memory.data_ptr() in seen or memory.nbytes() != tensor.nbytes
        seen.add(memory.data_ptr())
        found[name] = tensor.clone() if shares else tensor
    return found


def _key(key):
    if isinstance(key, (int, str)):
        return key
    raise TypeError(f"a checkpoint cannot hold a dictionary key of type {type(key).__name__}")


def join(tree: dict, tensors: dict[str, Tensor]):
    ((kind, value),) = tree.items()
    if kind == "tensor":
        # Each once; in memory of torch's own alignment, on which the last bit of a sum can depend
        return tensors.pop(value).clone()
    if kind == "dict":
        return {key: join(inner, tensors) for key, inner in value}
    if kind == "list":
        return [join(inner, tensors) for inner in value]
    if kind == "tuple":
        return tuple(join(inner, tensors) for inner in value)
    return float.fromhex(value) if kind == "float" else value
