"""From texts to vectors: encoders of the BERT family, and decoders that were trained to embed.

    load_embedder(folder)  ->  LoadedEmbedder.prepare(inputs)  ->  EmbeddingRequest  ->  EmbeddingWorker  ->  vectors

What a model does between its last layer and the vector (pooling, normalisation, prompts, the longest input) is read
from the sentence-transformers files beside its weights (`recipe`). Knows nothing of HTTP.
"""
