"""Parts of a model run without computing: how many operations they take, and what they keep for the backward pass.

In: a declared experiment. Out: plain numbers for one image (encoder, connector) or one token (language model). The modules are the
real ones, whatever timm or transformers makes and whatever connector is the user's own; their tensors are torch's fake ones, which
have a shape and a type and no memory. So a part of thirty billion parameters is rehearsed in seconds, and operations are those that
`torch.utils.flop_counter` counts of a real step: matrix products, convolutions and attention, a multiplication and an addition each;
of attention the masked half too, and its scores a second time in the backward pass, as fused kernels do it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, shape_wrapper
from transformers import AttentionInterface

from mm1_ablate.config.connector import Connector
from mm1_ablate.config.image_encoder import ImageEncoder
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.model.image_encoder import shape_of_encoder
from mm1_ablate.model.language_model import block_matrices, shape_of_language_model
from mm1_ablate.model.meta_initialisation import shapes_only
from mm1_ablate.model.part_cost import Part

ATTENTION = "mm1_rehearsed"
IMAGES = 2
"""Images that an encoder or a connector is rehearsed on: of a single one it cannot be told what is made anew for each."""
TOKENS = 64
"""Tokens that a language model is rehearsed on; all but attention is proportional to them."""


def rehearse_encoder(settings: ImageEncoder, precision: str) -> Part:
    """One image of the declared size, through an encoder that is trained: of a frozen one only `forward` happens."""
    encoder = shape_of_encoder(settings, to_change=True)
    size, patches = settings.image_size, settings.grid_side**2

    def run(images: int) -> Tensor:
        return encoder(torch.empty(images, 3, size, size, dtype=torch.uint8))

    blocks = encoder.vision.blocks
    known = Part(_parameters(encoder), width=encoder.width, blocks=len(blocks), largest_block=_largest(blocks))

    def shorten(count: int) -> None:
        del blocks[count:]
        encoder.layer = count - 1

    # Where the features come from the last block, all blocks count.
    shortened = shorten if encoder.layer == len(blocks) - 1 else None
    return _rehearse(encoder, blocks, shortened, run, IMAGES, precision, known, patches)


def rehearse_connector(
    settings: Connector, encoder_width: int, grid_side: int, language_width: int, precision: str, encoder_is_trained: bool
) -> Part:
    """The patches of one image. Into an encoder that is not trained nothing flows back."""
    with shapes_only():
        connector = settings.build(encoder_width, grid_side, language_width).requires_grad_(not settings.frozen)

    def run(images: int) -> Tensor:
        return connector(torch.empty(images, grid_side**2, encoder_width, requires_grad=encoder_is_trained))

    known = Part(_parameters(connector), width=language_width, largest_block=_parameters(connector))
    return _rehearse(connector, (), None, run, IMAGES, precision, known, settings.image_tokens)


def rehearse_language_model(settings: LanguageModel, vocabulary: int, padding: int, end: int, precision: str) -> Part:
    """One token of a batch, and attention for each pair of tokens of a document. Of the head only its size."""
    model = shape_of_language_model(settings, vocabulary, padding, end, to_change=True).requires_grad_(not settings.frozen)
    model.config._attn_implementation = ATTENTION
    width, layers = model.config.hidden_size, model.config.num_hidden_layers
    head = model.get_output_embeddings()
    weights = int(head.weight.numel()) if head is not None else 0

    def run(tokens: int) -> Tensor:
        embeddings = torch.empty(1, tokens, width, requires_grad=True)
        positions = torch.zeros(1, tokens, dtype=torch.int64)
        return model(
            inputs_embeds=embeddings, position_ids=positions, attention_mask=None, use_cache=False, logits_to_keep=slice(0, 1)
        ).logits

    rows = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == layers]
    blocks = rows[0] if rows else nn.ModuleList([model])

    def shorten(count: int) -> None:
        del blocks[count:]

    known = Part(
        _parameters(model),
        width=width,
        blocks=layers,
        largest_block=_largest(blocks),
        head=weights,
        vocabulary=model.config.vocab_size,
        matrices=sum(matrix.numel() for matrix in block_matrices(model)),
        cache=_kept_of_a_token(model),
    )
    found = _rehearse(model, blocks, shorten if rows else None, run, TOKENS, precision, known, 1)
    if not found.counted:
        return found
    # The head ran too, at one position.
    back = (2 if settings.frozen else 4) * weights
    return replace(found, forward=found.forward - 2 * weights / TOKENS, backward=found.backward - back / TOKENS)


def _kept_of_a_token(model: Any) -> int:
    """Numbers that are kept of a token as keys and values, over all layers; as most models have it where it cannot be seen.

    Args:
        model: on the meta device, attending as it is rehearsed.
    """
    seen: list[int] = []
    embeddings = torch.empty(1, TOKENS, model.config.hidden_size, device="meta")
    positions = torch.zeros(1, TOKENS, dtype=torch.int64, device="meta")
    try:
        with torch.no_grad():
            model(inputs_embeds=embeddings, position_ids=positions, attention_mask=None, use_cache=False, kept=seen)
        return sum(seen) // TOKENS
    except Exception:  # what cannot be run without values; its type is anybody's
        return 2 * model.config.num_hidden_layers * model.config.hidden_size


def _rehearse(
    part: nn.Module,
    blocks: Sequence[nn.Module] | nn.ModuleList,
    shorten: Callable[[int], None] | None,
    run: Callable[[int], Tensor],
    units: int,
    precision: str,
    known: Part,
    tokens: int,
) -> Part:
    """What `run(units)` and its backward pass take, for one unit; `known` with all of it filled in.

    Args:
        part: on the meta device.
        blocks: of the part.
        shorten: leaves the first so many of the blocks; nothing where that would change more than their number.
        run: the part's output for so many images or tokens.
        tokens: of a unit, for a part that can be counted by its parameters only.
    """
    count = len(blocks)
    if shorten is None or count < 3 or len({_shapes(block) for block in blocks}) > 1:
        return _run(part, _made_fake(part), run, units, precision, known, tokens)
    # Blocks that are alike cost alike: two of them and one of them tell what all take.
    shorten(2)
    fake = _made_fake(part)
    two = _run(part, fake, run, units, precision, known, tokens)
    shorten(1)
    one = _run(part, fake, run, units, precision, known, tokens)
    if not one.counted:
        return one
    numbers = ("forward", "backward", "attention", "saved", "copies")
    return replace(one, **{name: getattr(one, name) + (count - 1) * (getattr(two, name) - getattr(one, name)) for name in numbers})


def _run(part: nn.Module, fake: FakeTensorMode, run: Callable[[int], Tensor], units: int, precision: str, known: Part, tokens: int) -> Part:
    """As `_rehearse`, of the part as it is."""
    try:
        with warnings.catch_warnings():
            # What is slow on a CPU is not run here.
            warnings.simplefilter("ignore")
            return _counted(part, fake, run, units, precision, known)
    except Exception:  # a part may ask for values, such as a router does, or do what fake tensors cannot; its type is anybody's
        return _by_rule(known, tokens)


def _counted(part: nn.Module, fake: FakeTensorMode, run: Callable[[int], Tensor], units: int, precision: str, known: Part) -> Part:
    with fake, _Watching(part) as watching, _precision(precision):
        with saved_tensors_hooks(watching.keep, lambda tensor: tensor):
            output = run(units)
        forward, forward_attention = watching.others, watching.attention
        if output.requires_grad:
            output.float().sum().backward()
    backward, backward_attention = watching.others - forward, watching.attention - forward_attention
    of_tokens = bool(known.vocabulary)
    saved, copies = watching.bytes()
    return replace(
        known,
        forward=(forward if of_tokens else forward + forward_attention) / units,
        backward=(backward if of_tokens else backward + backward_attention) / units,
        attention=forward_attention / units**2 if of_tokens else 0.0,
        saved=saved / units,
        copies=copies,
    )


def _by_rule(known: Part, tokens: int) -> Part:
    """As the usual rules have it: 2 and 4 operations for each parameter and token, and 16 activations for each channel of a block."""
    forward = 2.0 * (known.parameters - known.head) * tokens
    attention = 4.0 * known.width * known.blocks if known.vocabulary else 0.0
    saved = 4.0 * 16 * known.width * known.blocks * tokens
    return replace(known, forward=forward, backward=2 * forward, attention=attention, saved=saved, counted=False)


class _Watching(TorchDispatchMode):
    """Counts operations as `torch.utils.flop_counter` does, by torch's own formulas but without telling modules apart, which takes most
    of that one's time; and sees what autograd keeps, and which of it are copies of weights in another precision."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.attention = 0.0
        self.others = 0.0
        self._own = {_storage(tensor): tensor.numel() for tensors in (part.parameters(), part.buffers()) for tensor in tensors}
        # Tensors themselves are kept, so that no later storage takes the same place.
        self._copies: dict[int, Tensor] = {}
        self._kept: dict[int, Tensor] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        given = kwargs or {}
        output = function(*args, **given)
        formula = FORMULAS.get(function._overloadpacket)
        if formula is not None:
            count = float(formula(*args, **given, out_val=output))
            if "attention" in str(function):
                self.attention += count
            else:
                self.others += count
        elif "mm" in function.name().rpartition("::")[2]:
            raise LookupError(f"no formula for {function}")
        elif function is torch.ops.aten._to_copy.default and args[0].numel() <= self._own.get(_storage(args[0]), 0):
            self._copies[_storage(output)] = output
        return output

    def keep(self, tensor: Tensor) -> Tensor:
        """Take note of what autograd keeps, each storage once, parameters and buffers apart."""
        if _storage(tensor) not in self._own:
            self._kept.setdefault(_storage(tensor), tensor)
        return tensor

    def bytes(self) -> tuple[int, int]:
        """Of activations that were kept, and of copies of weights."""
        sizes = {storage: tensor.untyped_storage().nbytes() for storage, tensor in self._kept.items()}
        copies = sum(size for storage, size in sizes.items() if storage in self._copies)
        return sum(sizes.values()) - copies, copies


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _precision(precision: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


def _made_fake(part: nn.Module) -> FakeTensorMode:
    """Parameters and buffers of a part on the meta device become fake ones of the CPU, in a mode of their own; tied ones stay tied."""
    fake, cpu = FakeTensorMode(), torch.device("cpu")
    known: dict[int, nn.Parameter] = {}
    for module in part.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in known:
                    known[id(parameter)] = nn.Parameter(FakeTensor(fake, parameter.data, cpu), parameter.requires_grad)
                module._parameters[name] = known[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = FakeTensor(fake, buffer.to("meta"), cpu)
    return fake


def _convolution_backward(
    gradient: Sequence[int], inputs: Sequence[int], weights: Sequence[int], *others: Any, out_shape: Any = None, **_: Any
) -> int:
    """Operations of a convolution's backward pass. torch's own formula forgets groups in the gradient of the weights: for the grouped
    convolutions of a C-Abstractor it gives a hundred times too many."""
    transposed, mask = others[4], others[7]
    return conv_flop_count(list(inputs), list(weights), list(gradient), transposed) * (bool(mask[0]) + bool(mask[1]))


def _grouped_product(one: Sequence[int], other: Sequence[int], *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Operations of the experts of a mixture, of which every row goes through one; torch has no formula for it."""
    together = one[0] if len(one) == len(other) == 3 else 1
    return 2 * together * one[-2] * one[-1] * other[-1]


CORRECTED = {torch.ops.aten.convolution_backward: _convolution_backward, torch.ops.aten._grouped_mm: _grouped_product}
FORMULAS = {**flop_registry, **{operation: shape_wrapper(formula) for operation, formula in CORRECTED.items()}}
"""Operations that are counted, and how."""


def _shapes(module: nn.Module) -> tuple[Any, ...]:
    return tuple((name, tuple(parameter.shape)) for name, parameter in module.named_parameters())


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _largest(modules: nn.ModuleList) -> int:
    return max((_parameters(module) for module in modules), default=0)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    kept: list[int] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention inside one document, with keys and values for every head as the packed kernels take them: [1, heads, T, size].

    Args:
        kept: is told how many numbers its keys and values are.
    """
    if kept is not None:
        kept.append(key.numel() + value.numel())
    groups = query.shape[1] // key.shape[1]
    keys, values = (part.repeat_interleave(groups, 1) if groups > 1 else part.contiguous() for part in (key, value))
    attended = scaled_dot_product_attention(query.contiguous(), keys, values, is_causal=True, scale=scaling)
    return attended.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attend)
