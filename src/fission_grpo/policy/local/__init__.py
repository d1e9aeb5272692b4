"""Our own sampler over a Hugging Face model: continuous batching on a prefix cache."""
