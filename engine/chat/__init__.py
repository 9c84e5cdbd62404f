"""Chat: messages to a prompt through the model's own template, and generated text back into its parts."""
