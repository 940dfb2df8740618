"""The profile of a model that is run without computing: how many parameters it has, how many operations its parts take, and what they keep
for the backward pass.

In: declared settings. Out: plain numbers for one image (encoder, connector) or one token (language model). The modules are the real ones,
whatever timm or transformers makes and whatever connector is the user's own; their tensors are torch's fake ones, which have a shape and a
type and no memory. So a part of thirty billion parameters is profiled in seconds, and operations are those that `torch.utils.flop_counter`
counts of a real step: matrix products, convolutions and attention, a multiplication and an addition each; of attention the masked half
too, and its scores a second time in the backward pass, as fused kernels do it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, shape_wrapper
from transformers import AttentionInterface

from mm1_ablate.config.connector import Connector
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.image_encoder import ImageEncoder
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.model.image_encoder import PatchEncoder, shape_of_encoder
from mm1_ablate.model.language_model import block_matrices, parameters_without_embeddings, shape_of_language_model, token_ids
from mm1_ablate.model.meta_initialisation import meta_initialisation
from mm1_ablate.model.profile import ModelProfile, PartProfile

ATTENTION = "mm1_profiled"
IMAGES = 2
"""Images that an encoder or a connector is run on: a single one does not show what is made anew for each."""
TOKENS = 64
"""Tokens that a language model is run on; all but attention is proportional to them."""
WITHOUT_VALUES = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
"""What torch raises where a part asks for values, such as a router does, or does what fake tensors cannot."""


class NoFormula(LookupError):
    """A matrix product without a formula for its operations; in words."""


def count_parameters(experiment: Experiment) -> dict[str, int]:
    """Parameters of a declared model, as `ModelProfile.parameters` names them; its parts are made on the meta device and not run."""
    settings = experiment.model
    encoder = _size_of_encoder(shape_of_encoder(settings.image_encoder))
    language_model = _size_of_language_model(shape_of_language_model(settings.language_model, *token_ids(settings.language_model)))
    with meta_initialisation():
        connector = settings.connector.build(encoder.width, settings.image_encoder.grid_side, language_model.width)
    return ModelProfile(encoder, _size_of_connector(connector, language_model.width), language_model).parameters(settings)


def _size_of_encoder(encoder: PatchEncoder) -> PartProfile:
    blocks = encoder.vision.blocks
    return PartProfile(_parameters(encoder), width=encoder.width, blocks=len(blocks), largest_block=_largest(blocks))


def _size_of_connector(connector: nn.Module, width: int) -> PartProfile:
    return PartProfile(_parameters(connector), width=width, largest_block=_parameters(connector))


def _size_of_language_model(model: Any) -> PartProfile:
    head = model.get_output_embeddings()
    return PartProfile(
        _parameters(model),
        width=model.config.hidden_size,
        blocks=model.config.num_hidden_layers,
        largest_block=_largest(_blocks_of_language_model(model) or [model]),
        head=int(head.weight.numel()) if head is not None else 0,
        vocabulary=model.config.vocab_size,
        matrices=sum(matrix.numel() for matrix in block_matrices(model)),
        without_embeddings=parameters_without_embeddings(model),
    )


def _blocks_of_language_model(model: Any) -> nn.ModuleList | None:
    layers = model.config.num_hidden_layers
    return next((module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == layers), None)


def profile_encoder(settings: ImageEncoder, precision: str) -> PartProfile:
    """One image of the declared size, through an encoder that is trained: of a frozen one only `forward` happens."""
    encoder = shape_of_encoder(settings, to_change=True)
    size, patches = settings.image_size, settings.grid_side**2

    def run(images: int) -> Tensor:
        output: Tensor = encoder(torch.empty(images, 3, size, size, dtype=torch.uint8))
        return output

    known, blocks = _size_of_encoder(encoder), encoder.vision.blocks

    def shorten(count: int) -> None:
        del blocks[count:]
        encoder.layer = count - 1

    # Where the features come from the last block, all blocks count.
    shortened = shorten if encoder.layer == len(blocks) - 1 else None
    return _profile(encoder, blocks, shortened, run, IMAGES, precision, known, patches)


def profile_connector(
    settings: Connector, encoder_width: int, grid_side: int, language_width: int, precision: str, encoder_is_trained: bool
) -> PartProfile:
    """The patches of one image. An encoder that is not trained gets no gradients."""
    with meta_initialisation():
        connector = settings.build(encoder_width, grid_side, language_width).requires_grad_(not settings.frozen)

    def run(images: int) -> Tensor:
        output: Tensor = connector(torch.empty(images, grid_side**2, encoder_width, requires_grad=encoder_is_trained))
        return output

    known = _size_of_connector(connector, language_width)
    return _profile(connector, (), None, run, IMAGES, precision, known, settings.image_tokens)


def profile_language_model(settings: LanguageModel, vocabulary: int, padding: int, end: int, precision: str) -> PartProfile:
    """One token of a batch, and attention for each pair of tokens of a document. Of the head only its size."""
    model = shape_of_language_model(settings, vocabulary, padding, end, to_change=True).requires_grad_(not settings.frozen)
    model.config._attn_implementation = ATTENTION
    known = replace(_size_of_language_model(model), cache=_cached_numbers(model))
    stack = _blocks_of_language_model(model)
    blocks = stack if stack is not None else nn.ModuleList([model])

    def run(tokens: int) -> Tensor:
        embeddings = torch.empty(1, tokens, known.width, requires_grad=True)
        positions = torch.zeros(1, tokens, dtype=torch.int64)
        output = model(inputs_embeds=embeddings, position_ids=positions, attention_mask=None, use_cache=False, logits_to_keep=slice(0, 1))
        logits: Tensor = output.logits
        return logits

    def shorten(count: int) -> None:
        del blocks[count:]

    found = _profile(model, blocks, shorten if stack is not None else None, run, TOKENS, precision, known, 1)
    if not found.counted:
        return found
    # The head ran too, at one position.
    back = (2 if settings.frozen else 4) * known.head
    return replace(found, forward=found.forward - 2 * known.head / TOKENS, backward=found.backward - back / TOKENS)


def _cached_numbers(model: Any) -> int:
    """Numbers of a token's keys and values, over all layers; as many as most models have where the model cannot be run.

    Args:
        model: on the meta device, attending as it does when it is profiled.
    """
    seen: list[int] = []
    embeddings = torch.empty(1, TOKENS, model.config.hidden_size, device="meta")
    positions = torch.zeros(1, TOKENS, dtype=torch.int64, device="meta")
    try:
        with torch.no_grad():
            model(inputs_embeds=embeddings, position_ids=positions, attention_mask=None, use_cache=False, cached=seen)
        return sum(seen) // TOKENS
    except Exception:  # of any type; `_run` meets it again and keeps the reason
        return int(2 * model.config.num_hidden_layers * model.config.hidden_size)


def _profile(
    part: nn.Module,
    blocks: Sequence[nn.Module] | nn.ModuleList,
    shorten: Callable[[int], None] | None,
    run: Callable[[int], Tensor],
    units: int,
    precision: str,
    known: PartProfile,
    tokens: int,
) -> PartProfile:
    """What `run(units)` and its backward pass take, for one unit; `known` with all of it filled in.

    Args:
        part: on the meta device.
        blocks: of the part.
        shorten: leaves the first so many of the blocks; None where that would change more than their number.
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
    if not (one.counted and two.counted):
        return two if one.counted else one
    numbers = ("forward", "backward", "attention", "saved", "copies")
    return replace(one, **{name: getattr(one, name) + (count - 1) * (getattr(two, name) - getattr(one, name)) for name in numbers})


def _run(
    part: nn.Module, fake: FakeTensorMode, run: Callable[[int], Tensor], units: int, precision: str, known: PartProfile, tokens: int
) -> PartProfile:
    """As `_profile`, of the part as it is."""
    try:
        with warnings.catch_warnings():
            # What is slow on a CPU is not run here.
            warnings.simplefilter("ignore")
            return _counted(part, fake, run, units, precision, known)
    except Exception as error:  # of any type: timm's, transformers' or a user's
        return _by_rule(known, tokens, _why(error))


def _why(error: Exception) -> str:
    if isinstance(error, WITHOUT_VALUES):
        return "it cannot be run without values"
    if isinstance(error, NoFormula):
        return str(error)
    first, *_ = (*str(error).strip().splitlines(), "no message")
    return f"{type(error).__name__}: {first}"


def _counted(
    part: nn.Module, fake: FakeTensorMode, run: Callable[[int], Tensor], units: int, precision: str, known: PartProfile
) -> PartProfile:
    with fake, _OperationCounter(part) as counter, _precision(precision):
        with saved_tensors_hooks(counter.keep, lambda tensor: tensor):
            output = run(units)
        forward, forward_attention = counter.others, counter.attention
        if output.requires_grad:
            loss: Any = output.float().sum()
            loss.backward()
    backward, backward_attention = counter.others - forward, counter.attention - forward_attention
    of_tokens = bool(known.vocabulary)
    saved, copies = counter.bytes()
    return replace(
        known,
        forward=(forward if of_tokens else forward + forward_attention) / units,
        backward=(backward if of_tokens else backward + backward_attention) / units,
        attention=forward_attention / units**2 if of_tokens else 0.0,
        saved=saved / units,
        copies=copies,
    )


def _by_rule(known: PartProfile, tokens: int, reason: str) -> PartProfile:
    """By the usual rules: 2 and 4 operations for each parameter and token, and 16 activations for each channel of a block."""
    forward = 2.0 * (known.parameters - known.head) * tokens
    attention = 4.0 * known.width * known.blocks if known.vocabulary else 0.0
    saved = 4.0 * 16 * known.width * known.blocks * tokens
    return replace(known, forward=forward, backward=2 * forward, attention=attention, saved=saved, counted=False, reason=reason)


class _OperationCounter(TorchDispatchMode):
    """Counts operations as `torch.utils.flop_counter` does, by torch's own formulas but without telling modules apart, which takes most
    of that one's time; and sees what autograd keeps, and which of it are copies of weights in another precision."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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
            raise NoFormula(f"there is no formula for the operations of {function}")
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
    place: int = tensor.untyped_storage()._cdata
    return place


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


def _largest(modules: Iterable[nn.Module]) -> int:
    return max((_parameters(module) for module in modules), default=0)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    cached: list[int] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention inside one document, with keys and values for every head as the packed kernels take them: [1, heads, T, size].

    Args:
        cached: gets the number of numbers in its keys and values appended.
    """
    if cached is not None:
        cached.append(key.numel() + value.numel())
    groups = query.shape[1] // key.shape[1]
    keys, values = (part.repeat_interleave(groups, 1) if groups > 1 else part.contiguous() for part in (key, value))
    attended = scaled_dot_product_attention(query.contiguous(), keys, values, is_causal=True, scale=scaling)
    return attended.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attend)
