"""How fast is a student distilled, and in how much memory? `python -m benchmarks.distillation`

A Llama teacher of 6 layers (hidden_size 256, intermediate_size 768), a student of 6 layers (192, 512), a vocabulary of
32,000, steps of 8 x 256 tokens, two threads, float32: the same models and the same tokens for

- **live**: Topiary's loop, the teacher run for every batch;
- **cached**: the same loop, on answers that the teacher left before;
- **trainer**: the Trainer of transformers with the usual loss on whole logits;
- **trl**: GKDTrainer of TRL without any generation, where it is installed and runs (its DistillationTrainer lets the
  student write all texts itself, which is another job).

Each runs in a process of its own, in turn, several rounds. Times are from step to step, with batch, loss, clipping and
optimizer. Memory is the peak resident size less that after both models were loaded. `limit` times the matrix products
of a step alone, without anything between them.

The trainers need more packages: `pip install -e '.[benchmarks]'`.
"""
