"""mini-llama: the small language model of the Concept Guidance tab, and how it was trained."""
