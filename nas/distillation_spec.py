"""What a student is taught by: losses on logits and hidden states, and where the teacher's answers come from."""
