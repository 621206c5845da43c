"""Face parser and identity embedder for rendered portraits, and how they were taught."""
