"""GPUs that plans estimate with: peak operations per second and memory, by NVIDIA's data sheets."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    half: float
    """Operations per second in bfloat16, dense."""
    single: float
    """The same in float32 outside the tensor cores, which is torch's default for it."""
    memory: float
    """Bytes that a process can have."""

    def peak(self, precision: str) -> float:
        """Operations per second at a precision of `Training`."""
        return self.half if precision == "bf16-mixed" else self.single


GPUS = {
    "H100": Gpu(989e12, 67e12, 79.1 * GIB),
    "H200": Gpu(989e12, 67e12, 139.8 * GIB),
    "A100-80GB": Gpu(312e12, 19.5e12, 79.1 * GIB),
    "A100-40GB": Gpu(312e12, 19.5e12, 39.4 * GIB),
    "L40S": Gpu(362e12, 91.6e12, 44.4 * GIB),
}
UTILISATION = 0.4
"""Utilisation that plans assume by default: share of the peak that training reaches."""


def gpu_of(device: str) -> str | None:
    """The name here of a GPU as its driver calls it, such as 'NVIDIA H100 80GB HBM3'; None if it is not among them."""
    return next((name for name in GPUS if all(part in device for part in name.split("-"))), None)
