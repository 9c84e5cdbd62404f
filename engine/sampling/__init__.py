"""From logits to tokens: one batched call, with every row's own settings and random numbers."""
