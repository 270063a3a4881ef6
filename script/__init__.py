"""Models, datasets, modes and training configs, and the scripts made from them."""
