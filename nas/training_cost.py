"""What retraining a candidate takes: FLOPs, exactly as counted; memory, devices, hours and money as estimates."""

from math import ceil

from nas.architecture import Architecture, sizes_of
from nas.border import Border
from nas.cost import CostModel
from nas.families import family_named
from nas.families.parameter import HIDDEN
from nas.spec import HardwareSpec
from nas.training_spec import TrainingSpec, TrialSpec

STUDENT_BYTES = 16
"""Of each of its parameters: float32 weight, gradient, and AdamW's two moments."""
TEACHER_BYTES = 4
"""Of each of its parameters: a float32 weight."""
COPY_BYTES = 2
"""Of each parameter of student and teacher: the bfloat16 copy that products are computed with."""

# Measured as the saved tensors of one block with bfloat16 products, per token: for each channel of the residual stream
# what enters the products and, of every norm, its own; for each channel of queries, keys and values; for each output of
# the MLP's first matrices; and, where scores are kept, for each pair of a head.
_BYTES_PER_CHANNEL, _BYTES_PER_NORM, _BYTES_PER_HEAD_CHANNEL, _BYTES_PER_NEURON, _BYTES_PER_SCORE = 18, 6, 12, 4, 8
_BYTES_PER_KEPT_CHANNEL = 4
"""Of what enters a layer, which is all that is kept of one that is computed again."""
_BYTES_PER_STATE, _BYTES_PER_LOGIT = 8, 20
"""Of a channel behind the last layer: the state and its gradient, float32. Of an entry of the vocabulary: both models'
logits, and the float32 steps from them to the loss and back."""
_LOGITS_AT_ONCE = 2**26
"""Head and loss are computed for as many tokens at once as keep one model's logits within 256 MiB of float32."""

FREE_SHARE = 0.1
"""Of a device, for what an allocator loses."""


class TrainingEstimate(Border):
    """What a run takes of devices, estimated.

    `devices` is the fewest that hold it, with weights and optimizer spread evenly and a micro-batch on each, and
    `memory_bytes` what each then holds (`devices` is None where no number does, and it is then of one). `device_hours`
    are those of the FLOPs, the teacher's included, at the throughput given.
    """

    devices: int | None
    memory_bytes: int
    device_hours: float
    price: float | None


class TrainingCost(Border):
    """One run over `tokens` tokens: FLOPs, exactly, and an estimate of the rest.

    A forward pass counts as in CostModel.prefill_flops, the student's backward pass twice as much.
    """

    tokens: int
    student_flops: int
    teacher_flops: int
    estimate: TrainingEstimate


class Retraining:
    """The spec's run, for students of one teacher."""

    def __init__(
        self, teacher: Architecture, training: TrainingSpec, hardware: HardwareSpec, sequence_length: int
    ) -> None:
        costs = CostModel(teacher)
        self._parameters, self._forward = costs.parameters("total"), costs.prefill_flops(sequence_length)
        self._hardware, self._sequence_length = hardware, sequence_length
        self._tokens = training.actual_tokens(sequence_length)
        self._tokens_at_once = sequence_length * training.fitting_micro_batch(sequence_length, teacher.vocab_size)
        self._recomputed = training.gradient_checkpointing
        # One that has left its answers runs beside no trial.
        runs = not isinstance(training, TrialSpec) or training.targets == "live"
        self._teacher_parameters = self._parameters.at(sizes_of(teacher)) if runs else 0
        self._teacher_flops = self._sequences * self._forward.at(sizes_of(teacher)) if runs else 0

    @property
    def _sequences(self) -> int:
        return self._tokens // self._sequence_length

    def cost(self, student: Architecture) -> TrainingCost:
        student_flops = 3 * self._sequences * self._forward.at(sizes_of(student))
        hours = (student_flops + self._teacher_flops) / self._hardware.flops_per_second / 3600
        price = self._hardware.price_per_hour
        devices, memory = self._devices(student)
        return TrainingCost(
            tokens=self._tokens,
            student_flops=student_flops,
            teacher_flops=self._teacher_flops,
            estimate=TrainingEstimate(
                devices=devices,
                memory_bytes=memory,
                device_hours=hours,
                price=None if price is None else hours * price,
            ),
        )

    def _devices(self, student: Architecture) -> tuple[int | None, int]:
        """The fewest devices that hold a run, and the bytes that each then holds; all on one where no number does."""
        of_student = self._parameters.at(sizes_of(student)) * (STUDENT_BYTES + COPY_BYTES)
        spread = of_student + self._teacher_parameters * (TEACHER_BYTES + COPY_BYTES)
        per_token = activation_bytes_per_token(student, self._sequence_length, recomputed=self._recomputed)
        each = self._tokens_at_once * per_token + head_bytes(student, self._tokens_at_once)
        room = self._hardware.memory_bytes * (1 - FREE_SHARE) - each
        if room <= 0:
            return None, spread + each
        devices = ceil(spread / room)
        return devices, ceil(spread / devices) + each


def training_cost(
    teacher: Architecture,
    student: Architecture,
    training: TrainingSpec,
    hardware: HardwareSpec,
    sequence_length: int,
) -> TrainingCost:
    """What the spec's run costs for one student; see Retraining."""
    return Retraining(teacher, training, hardware, sequence_length).cost(student)


def flops_per_token(student: Architecture, teacher: Architecture | None, sequence_length: int) -> float:
    """Of a training step: forward and backward pass of the student, and the forward pass of a teacher that is live.

    What gradient checkpointing computes again is not counted.
    """
    flops = 3 * CostModel(student).prefill_flops(sequence_length).at(sizes_of(student))
    if teacher is not None:
        flops += CostModel(teacher).prefill_flops(sequence_length).at(sizes_of(teacher))
    return flops / sequence_length


def head_bytes(student: Architecture, num_tokens: int) -> int:
    """What head and loss hold of so many tokens, computed chunk by chunk."""
    logits = min(num_tokens * student.vocab_size, _LOGITS_AT_ONCE)
    return _BYTES_PER_STATE * num_tokens * student.hidden_size + _BYTES_PER_LOGIT * logits


def activation_bytes_per_token(student: Architecture, sequence_length: int, *, recomputed: bool = False) -> int:
    """What a forward pass with bfloat16 products keeps of each token for the backward pass, without the head's part.

    With layers that are `recomputed`, it is all of one layer, and what enters each.
    """
    family = family_named(student.family)
    per_token = student.num_experts_per_tok or 1
    of_layer = [each for each in family.parameters if each.in_layer and each.present(student)]
    norms = sum(each.dimensions == (HIDDEN,) and each.name.endswith("norm.weight") for each in of_layer) or 2
    # The last of the MLP's matrices leads out of the neurons, the others (two with a gate) into them.
    into_neurons = sum(
        span.axis == "intermediate_size" for each in of_layer if each.matrix for dim in each.dimensions for span in dim
    )
    channels = student.hidden_size * (_BYTES_PER_CHANNEL + _BYTES_PER_NORM * norms)
    heads = (student.num_attention_heads + 2 * student.num_key_value_heads) * student.head_dim
    neurons = student.intermediate_size * (into_neurons - 1)
    scores = 0 if family.fused_attention else student.num_attention_heads * sequence_length
    # Products of all experts at once stay float32, whatever the others are computed in.
    of_neuron = _BYTES_PER_NEURON * (2 if student.num_experts else 1)
    mlp = per_token * (channels + of_neuron * neurons)
    layer = mlp + _BYTES_PER_HEAD_CHANNEL * heads + _BYTES_PER_SCORE * scores
    if recomputed:
        return layer + student.num_hidden_layers * _BYTES_PER_KEPT_CHANNEL * student.hidden_size
    return student.num_hidden_layers * layer
