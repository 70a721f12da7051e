"""What retraining a candidate takes: FLOPs, exactly as counted; memory, devices, hours and money as estimates."""

from math import ceil

from nas.architecture import Architecture
from nas.border import Border
from nas.cost import CostModel, sizes_of
from nas.families import family_named
from nas.spec import HardwareSpec, TrainingSpec

STUDENT_BYTES = 16
"""Of each of its parameters: float32 weight, gradient, and AdamW's two moments."""
TEACHER_BYTES = 4
"""Of each of its parameters: a float32 weight."""
COPY_BYTES = 2
"""Of each parameter of student and teacher: the bfloat16 copy that products are computed with."""

# Measured as the saved tensors of one block with bfloat16 products: per token, for each channel of the residual stream
# (18 to 30 bytes), of queries, keys and values (4 to 12), and of what the MLP's first matrices give (4).
_BYTES_PER_CHANNEL, _BYTES_PER_HEAD_CHANNEL, _BYTES_PER_NEURON = 30, 12, 4
_BYTES_PER_LOGIT = 30
"""Per token and entry of the vocabulary: both models' logits, and the float32 steps from them to the loss and back."""

FREE_SHARE = 0.1
"""Of a device, for what an allocator loses."""


class TrainingCost(Border):
    """One run over `tokens` tokens.

    FLOPs are exact: a forward pass as CostModel.prefill_flops counts it, and twice as much for the student's backward
    pass. All else is an estimate: `memory_bytes` of each of `devices`, the fewest that hold the run with weights and
    optimizer spread evenly and a micro-batch on each (None: no number does); hours of a device at the throughput given,
    with the teacher's pass, and their price.
    """

    tokens: int
    student_flops: int
    teacher_flops: int
    devices: int | None
    memory_bytes: int
    device_hours: float
    price: float | None


def training_cost(
    teacher: Architecture,
    student: Architecture,
    training: TrainingSpec,
    hardware: HardwareSpec,
    sequence_length: int,
) -> TrainingCost:
    """What the spec's run costs for this student."""
    tokens = training.actual_tokens(sequence_length)
    sequences = tokens // sequence_length
    student_flops = 3 * sequences * _forward(student, sequence_length)
    teacher_flops = sequences * _forward(teacher, sequence_length)
    devices, memory = _devices(teacher, student, training, hardware, sequence_length)
    hours = (student_flops + teacher_flops) / hardware.flops_per_second / 3600
    return TrainingCost(
        tokens=tokens,
        student_flops=student_flops,
        teacher_flops=teacher_flops,
        devices=devices,
        memory_bytes=memory,
        device_hours=hours,
        price=None if hardware.price_per_hour is None else hours * hardware.price_per_hour,
    )


def activation_bytes_per_token(student: Architecture) -> int:
    """What a forward pass with bfloat16 products keeps of each token for the backward pass, without the head's part."""
    per_token = student.num_experts_per_tok or 1
    neurons = student.intermediate_size * per_token * _first_matrices(student)
    heads = (student.num_attention_heads + 2 * student.num_key_value_heads) * student.head_dim
    channels = student.hidden_size * per_token
    layer = _BYTES_PER_CHANNEL * channels + _BYTES_PER_HEAD_CHANNEL * heads + _BYTES_PER_NEURON * neurons
    return student.num_hidden_layers * layer


def _forward(architecture: Architecture, sequence_length: int) -> int:
    return CostModel(architecture).prefill_flops(sequence_length).at(sizes_of(architecture))


def _first_matrices(student: Architecture) -> int:
    """Outputs of the MLP's first matrices for each neuron: 2 with a gate, 1 without."""
    into = [
        run
        for parameter in family_named(student.family).parameters
        if len(parameter.dimensions) > 1 and parameter.present(student)
        for dimension in parameter.dimensions
        for run in dimension
        if run.axis == "intermediate_size"
    ]
    return len(into) - 1  # The last matrix leads out of them.


def _devices(
    teacher: Architecture,
    student: Architecture,
    training: TrainingSpec,
    hardware: HardwareSpec,
    sequence_length: int,
) -> tuple[int | None, int]:
    """The fewest devices that hold a run, and the bytes that each then holds; all on one where no number does."""
    of_student, of_teacher = (family_named(shape.family).count(shape) for shape in (student, teacher))
    spread = of_student * (STUDENT_BYTES + COPY_BYTES) + of_teacher * (TEACHER_BYTES + COPY_BYTES)
    tokens = training.fitting_micro_batch(sequence_length, student.vocab_size) * sequence_length
    each = tokens * (activation_bytes_per_token(student) + _BYTES_PER_LOGIT * student.vocab_size)
    room = hardware.memory_bytes * (1 - FREE_SHARE) - each
    if room <= 0:
        return None, spread + each
    devices = ceil(spread / room)
    return devices, ceil(spread / devices) + each
